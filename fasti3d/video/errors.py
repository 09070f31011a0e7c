"""The error and the warning of a video, both of which name the file and the reason."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

import numpy as np
from av.error import FFmpegError

from fasti3d.utils.naming import quoted
from fasti3d.utils.resources import is_resource_error

# More than FFmpeg has reason to ask for at once: the largest frame at 8 bytes per pixel is half of it.
_MAX_REQUEST = 1 << 30


class VideoError(Exception):
    """A file or folder yields no frames, too few, or in strict mode not all of them.

    Attributes:
        path: the file or folder, as a ``Path``.
        reason: what is wrong with it, in words.
    """

    def __init__(self, path: str | os.PathLike[str], reason: str) -> None:
        super().__init__(path, reason)
        self.path = Path(path)
        self.reason = reason

    def __str__(self) -> str:
        return f"{quoted(self.path)}: {self.reason}"


class BreakError(Exception):
    """A file ends or breaks before its end; all frames before the break have been yielded."""


class VideoWarning(UserWarning):
    """Frames were yielded, but the file breaks off, its clock is broken, or it reaches a limit."""


def is_shortage(error: BaseException) -> bool:
    """Whether the machine ran out of a resource, which is not an error of the video.

    FFmpeg also reports a lack of memory for the absurd sizes that broken files declare; then memory is left.
    """
    if isinstance(error, FFmpegError) and isinstance(error, MemoryError):
        return not _has_memory()
    return is_resource_error(error)


def _has_memory() -> bool:
    try:
        np.empty(_MAX_REQUEST, np.uint8)  # takes no memory before it is written
    except MemoryError:
        return False
    return True


def blamed(path: str | os.PathLike[str], reason: str, error: Exception) -> VideoError:
    """The VideoError that ``error`` means for a video, to be raised from it.

    Raises:
        Exception: ``error`` itself, where memory, descriptors or disk ran out: that is not the video's fault.
    """
    if is_shortage(error):
        raise error
    return VideoError(path, reason)


_collected: ContextVar[list[str] | None] = ContextVar("_collected", default=None)


def warn(path: Path, message: str) -> None:
    """A VideoWarning about ``path``, or its text in the list of ``collected_warnings``."""
    texts = _collected.get()
    if texts is None:
        warnings.warn(f"{quoted(path)}: {message}", VideoWarning, stacklevel=2)
    else:
        texts.append(message)


@contextmanager
def collected_warnings(texts: list[str]) -> Iterator[None]:
    """Inside, what would be VideoWarnings is added to ``texts``, without the file's name.

    Python's own way to catch warnings is one for all threads, and cannot tell videos that are read at the
    same time from each other.
    """
    token = _collected.set(texts)
    try:
        yield
    finally:
        _collected.reset(token)
