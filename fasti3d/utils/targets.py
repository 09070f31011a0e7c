"""Check, before long work, that the files written at its end can be written."""

from __future__ import annotations

import os
from os import PathLike
from pathlib import Path

FORMATS = (".png", ".svg", ".pdf")


def check_target(path: str | PathLike[str]) -> Path:
    """Return the path of a picture, if it can be written.

    Raises:
        ValueError: Its format is not .png, .svg or .pdf.
        OSError: Its folder does not exist or cannot be written to, or a folder is in its place.

    Example:
        >>> check_target("timeline.png").suffix
        '.png'
    """
    target = Path(path)
    if target.suffix.lower() not in FORMATS:
        raise ValueError(f"{target}: a picture's name must end in {', '.join(FORMATS)}")
    if target.is_dir():
        raise IsADirectoryError(f"{target} is a folder: name a file in it")
    folder = target.parent
    if not folder.is_dir():
        raise NotADirectoryError(f"{folder} is not a folder: create it, or write the picture elsewhere")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise PermissionError(
            f"this user has no permission to write to {folder}: write the picture elsewhere"
        )
    return target


def check_statistics(path: str | PathLike[str]) -> Path:
    """Return the path of saved statistics, if they can be written.

    Raises:
        ValueError: Its name does not end in .npz.
        OSError: Its folder does not exist.
    """
    target = Path(path)
    if target.suffix != ".npz":
        raise ValueError(f"{target}: the name of saved statistics must end in .npz")
    if not target.parent.is_dir():
        raise NotADirectoryError(f"{target.parent} is not a folder: create it, or write elsewhere")
    return target


def check_scores(path: str | PathLike[str]) -> Path:
    """Return the path of a file of scores, if it can be written.

    Raises:
        ValueError: Its name does not end in .npz.
        OSError: Its folder does not exist or cannot be written to, or a folder is in its place.
    """
    target = Path(path)
    if target.suffix != ".npz":
        raise ValueError(f"{target}: the name of a file of scores must end in .npz")
    if not target.parent.is_dir():
        raise NotADirectoryError(f"{target.parent} is not a folder: create it, or write elsewhere")
    if target.is_dir():
        raise IsADirectoryError(f"{target} is a folder: name a file in it")
    if not os.access(target.parent, os.W_OK | os.X_OK):
        raise PermissionError(f"this user has no permission to write to {target.parent}: write elsewhere")
    return target
