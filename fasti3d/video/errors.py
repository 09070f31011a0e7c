"""What goes wrong with a video: one error and one warning, both naming the file and the reason."""

from __future__ import annotations

import os
from pathlib import Path


class VideoError(Exception):
    """A file or folder that gives no frames, or too few, or in strict mode not all of them.

    Attributes:
        path: the file or folder, as a ``Path``.
        reason: what is wrong with it, in words.
    """

    def __init__(self, path: str | os.PathLike[str], reason: str) -> None:
        super().__init__(path, reason)
        self.path = Path(path)
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


class VideoWarning(UserWarning):
    """Frames were given, but the file is damaged: it breaks off, or its clock goes wrong."""
