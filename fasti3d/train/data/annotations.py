"""Finds where the lists of a data set are."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from fasti3d.train.data.video_dataset import DatasetError, MissingPartError
from fasti3d.utils.naming import quoted


def list_places(
    root: Path, annotations: str | os.PathLike[str] | None, beside: Sequence[str], dataset: str
) -> list[Path]:
    """Return the folders in which the lists of a data set may be, the likeliest first.

    Args:
        root: The folder of the videos.
        annotations: The folder of the lists, or one above it; None looks in, below and beside the root.
        beside: Names of folders to look in beside the root.
        dataset: Its name, for messages.

    Raises:
        DatasetError: A folder cannot be read.
    """
    if annotations is None:
        return [root, *_folders(root), *(root.absolute().parent / name for name in beside)]
    folder = Path(annotations)
    if not os.path.isdir(folder):
        found = "is a file" if os.path.lexists(folder) else "does not exist"
        raise DatasetError(f"{quoted(folder)} {found}: expected the folder of {dataset}'s lists")
    return [folder, *_folders(folder)]


def missing_lists(
    root: Path, annotations: str | os.PathLike[str] | None, wanted: str, dataset: str
) -> DatasetError:
    """Return the error of a data set without lists."""
    where = "in or one level below" if annotations is not None else "in, one level below or beside"
    return MissingPartError(
        f"the lists of {dataset} are missing: found no {wanted} {where} "
        f"{quoted(root if annotations is None else annotations)}: expected it there; name the folder of the "
        "lists with --annotations"
    )


def find_lists(
    root: Path,
    annotations: str | os.PathLike[str] | None,
    pattern: str,
    beside: Sequence[str],
    dataset: str,
) -> Path:
    """Return the first folder of ``list_places`` with a file of this pattern.

    Raises:
        DatasetError: There is none.
    """
    for place in list_places(root, annotations, beside, dataset):
        if next(place.glob(pattern), None) is not None:
            return place
    raise missing_lists(root, annotations, pattern, dataset)


def _folders(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if os.path.isdir(path))
    except OSError as error:
        raise DatasetError(f"{quoted(folder)} cannot be read: {error.strerror}: expected a folder") from error
