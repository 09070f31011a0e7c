"""Files that are written at the end of long work: whether they can be, asked before it."""

from __future__ import annotations

import os
from os import PathLike
from pathlib import Path

FORMATS = (".png", ".svg", ".pdf")


def check_target(path: str | PathLike[str]) -> Path:
    """The path, if a picture can be written there: to be asked before the work that it will show.

    Raises:
        ValueError: another format than .png, .svg or .pdf.
        OSError: a folder that is not there or takes no files, or a folder in the picture's place.
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
        raise PermissionError(f"{folder} takes no files from this user: write the picture elsewhere")
    return target


def check_statistics(path: str | PathLike[str]) -> Path:
    """The path, if statistics can be written there: to be asked before the work.

    Raises:
        ValueError: a name that does not end in .npz.
        OSError: its folder is not there.
    """
    target = Path(path)
    if target.suffix != ".npz":
        raise ValueError(f"{target}: the name of saved statistics must end in .npz")
    if not target.parent.is_dir():
        raise NotADirectoryError(f"{target.parent} is not a folder: create it, or write elsewhere")
    return target
