"""Opens a data set by its name."""

from __future__ import annotations

import os

from fasti3d.train.data.ucf101 import UCF101
from fasti3d.train.data.video_dataset import DatasetError, VideoDataset

_NAMES = ("ucf101", "hmdb51", "kinetics400", "kinetics600", "kinetics700", "list", "folder")


def open_dataset(
    name: str,
    root: str | os.PathLike[str] | None = None,
    *,
    subset: str = "train",
    split: int = 1,
    annotations: str | os.PathLike[str] | None = None,
    list: str | os.PathLike[str] | None = None,
    prefix: str | os.PathLike[str] | None = None,
    holdout: float | None = None,
    group: str | None = None,
) -> VideoDataset:
    """Open a data set by its name."""
    if name == "ucf101" and root is not None:
        return UCF101(root, subset=subset, split=split, annotations=annotations)
    raise DatasetError(f"no data set is called {name!r}: choose from {', '.join(_NAMES)}")
