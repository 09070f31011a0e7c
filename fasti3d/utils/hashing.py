"""Hashes of files, read in pieces."""

from __future__ import annotations

import hashlib
import os
from contextlib import nullcontext
from pathlib import Path
from typing import IO, TYPE_CHECKING

from fasti3d.utils.plain_files import open_regular

if TYPE_CHECKING:
    from hashlib import _Hash

_PIECE = 1 << 20


def sha256(source: Path | IO[bytes]) -> str:
    """Return the SHA-256 of a file's content, given by its path or open, in hexadecimal.

    Raises:
        OSError: The file cannot be read, or is a folder, a named pipe or a device.
    """
    return _feed(source, hashlib.sha256())


def git_blob_sha1(source: Path | IO[bytes]) -> str:
    """Return git's name for a file's content: SHA-1 of ``blob <size>``, a zero byte and the content.

    Raises:
        OSError: The file cannot be read, or is a folder, a named pipe or a device.
    """
    size = source.stat().st_size if isinstance(source, Path) else source.seek(0, os.SEEK_END)
    return _feed(source, hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False))


def _feed(source: Path | IO[bytes], digest: _Hash) -> str:
    with open_regular(source) if isinstance(source, Path) else nullcontext(source) as file:
        file.seek(0)
        while piece := file.read(_PIECE):
            digest.update(piece)
    return digest.hexdigest()
