"""Files: hashes read in pieces, and writes that are whole or not at all."""

from __future__ import annotations

import contextlib
import hashlib
import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hashlib import _Hash

_PIECE = 1 << 20


def _feed(path: Path, digest: _Hash) -> str:
    with path.open("rb") as file:
        while piece := file.read(_PIECE):
            digest.update(piece)
    return digest.hexdigest()


def sha256(path: Path) -> str:
    """SHA-256 of a file's content, in hexadecimal."""
    return _feed(path, hashlib.sha256())


def git_blob_sha1(path: Path) -> str:
    """The name git gives a file's content: SHA-1 of ``blob <size>``, a zero byte and the content."""
    header = b"blob %d\0" % path.stat().st_size
    return _feed(path, hashlib.sha1(header, usedforsecurity=False))


def write_atomically(path: Path, data: bytes) -> None:
    """Puts ``data`` at ``path`` so that nobody ever sees part of it, even after a power cut."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
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
