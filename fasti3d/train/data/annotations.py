"""Finds where the lists of a data set are."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from fasti3d.train.data.video_dataset import DatasetError
from fasti3d.utils.naming import quoted


def find_lists(
    root: Path,
    annotations: str | os.PathLike[str] | None,
    pattern: str,
    beside: Sequence[str],
    dataset: str,
) -> Path:
    """Return the folder with a file of this pattern: the given one, or one in, below or beside the root.

    Args:
        root: The folder of the videos.
        annotations: The folder of the lists; None looks for it.
        pattern: A file name, in which "*" stands for anything.
        beside: Names of folders to look in beside the root.
        dataset: Its name, for messages.

    Raises:
        DatasetError: There is none.
    """
    if annotations is not None:
        folder = Path(annotations)
        if not folder.is_dir():
            found = "is a file" if folder.exists() else "is not there"
            raise DatasetError(
                f"{quoted(folder)} {found}: expected the folder of {dataset}'s lists ({pattern})"
            )
        places = [folder, *_folders(folder)]
    else:
        places = [root, *_folders(root), *(root.absolute().parent / name for name in beside)]
    for place in places:
        if next(place.glob(pattern), None) is not None:
            return place
    where = "in it or one level below" if annotations is not None else "in it, one level below, or beside it"
    raise DatasetError(
        f"the lists of {dataset} are missing: found no {pattern} for {quoted(annotations or root)} {where}: "
        "expected them there, or name their folder as annotations"
    )


def _folders(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if path.is_dir())
    except OSError as error:
        raise DatasetError(f"{quoted(folder)} cannot be read: {error.strerror}") from error
