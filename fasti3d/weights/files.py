"""Files: hashes read in pieces, and writes that are whole or not at all."""

from __future__ import annotations

import contextlib
import hashlib
import os
from contextlib import nullcontext
from pathlib import Path
from typing import IO, TYPE_CHECKING

from fasti3d.utils.plain_files import create, open_regular

if TYPE_CHECKING:
    from hashlib import _Hash

_PIECE = 1 << 20


def _feed(source: Path | IO[bytes], digest: _Hash) -> str:
    with open_regular(source) if isinstance(source, Path) else nullcontext(source) as file:
        file.seek(0)
        while piece := file.read(_PIECE):
            digest.update(piece)
    return digest.hexdigest()


def sha256(source: Path | IO[bytes]) -> str:
    """SHA-256 of the content of a file, given by its path or open, in hexadecimal."""
    return _feed(source, hashlib.sha256())


def git_blob_sha1(source: Path | IO[bytes]) -> str:
    """The name git gives a file's content: SHA-1 of ``blob <size>``, a zero byte and the content."""
    size = source.stat().st_size if isinstance(source, Path) else source.seek(0, os.SEEK_END)
    return _feed(source, hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False))


def write_atomically(path: Path, data: bytes) -> None:
    """Puts ``data`` at ``path`` so that nobody ever sees part of it, even after a power cut."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with create(temporary) as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Waits until the names in a folder are on the disk."""
    if os.name == "posix":  # elsewhere folders cannot be synced
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
