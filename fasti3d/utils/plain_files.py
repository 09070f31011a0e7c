"""Opening files in folders that other users can write to, without waiting for pipes or following links."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import IO

_KINDS = {
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}
# A named pipe is then opened without waiting for a writer; Windows has no such flags.
_NO_WAIT = getattr(os, "O_NONBLOCK", 0)
_NO_LINK = getattr(os, "O_NOFOLLOW", 0)


def open_regular(path: str | os.PathLike[str]) -> IO[bytes]:
    """Open a file to read from, without waiting: anything but a regular file is an error.

    Raises:
        OSError: It cannot be opened, or is a folder, a named pipe or a device; the message says which.
        ValueError: The path has a NUL character.

    Example:
        >>> with open_regular("weights.pt") as file:  # doctest: +SKIP
        ...     head = file.read(16)
    """
    return open(path, "rb", opener=_open_at_once)


def open_partial(path: Path, *, keep: bool) -> IO[bytes]:
    """Open a file of this program to write to, after its content if ``keep``.

    A symbolic link, a second name of another file, a named pipe or a device in its place is removed first,
    and never written through.

    Raises:
        OSError: It cannot be opened, or a folder is in its place.
    """
    remove_planted(path)
    return open(
        path, "ab" if keep else "wb", opener=lambda name, flags: _open_at_once(name, flags | _NO_LINK)
    )


def create(path: Path) -> IO[bytes]:
    """Create a file to write to, in place of what has its name; a link there is removed, not followed.

    Raises:
        OSError: It cannot be created.
    """
    path.unlink(missing_ok=True)
    return path.open("xb")


def remove_planted(path: Path) -> None:
    """Remove what is at ``path`` unless it is a regular file with no other name, or a folder."""
    try:
        found = path.lstat()
    except FileNotFoundError:
        return
    if not stat.S_ISDIR(found.st_mode) and (not stat.S_ISREG(found.st_mode) or found.st_nlink > 1):
        path.unlink(missing_ok=True)


def _open_at_once(path: str, flags: int) -> int:
    descriptor = os.open(path, flags | _NO_WAIT, 0o666)
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISREG(mode):
        return descriptor
    os.close(descriptor)
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
    kind = _KINDS.get(stat.S_IFMT(mode), "not a regular file")
    raise OSError(errno.EINVAL, f"it is {kind}, and a file is needed", path)
