"""Opens what a user gives for a side: clips, or saved statistics."""

from __future__ import annotations

from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from fasti3d.metrics import saved
from fasti3d.metrics.arrays import ArraySource, TensorSource
from fasti3d.metrics.limits import check_layout
from fasti3d.metrics.videos import VideoSource

Given = str | PathLike[str] | NDArray[Any] | Tensor


class SavedSource:
    """Statistics that were saved."""

    kind = "statistics"

    def __init__(self, path: Path) -> None:
        self.path = path


Source = VideoSource | ArraySource | TensorSource | SavedSource


def open_source(
    given: Given,
    *,
    name: str = "clips",
    layout: str = "NTHWC",
    fps: float | None = None,
    strict: bool = False,
) -> Source:
    """Open what a user gives for a side.

    Args:
        given: the path of a folder, an .npy or an .npz file, or an array or tensor of clips.
        name: of the argument, for messages.
        layout: the axes of an array.
        fps, strict: of videos, as for ``fasti3d.video.read_frames``.

    Raises:
        TypeError: neither a path nor an array.
        ValueError: there are no clips.
        OSError: a file that cannot be read.
    """
    check_layout(layout)
    if isinstance(given, np.ndarray | Tensor):
        return TensorSource(name, given, layout=layout)
    if not isinstance(given, str | PathLike):
        raise TypeError(
            f"{name} must be a path, or a NumPy array or tensor of clips, got {type(given).__name__}: give "
            "batches to fasti3d.FrechetVideoDistance one by one"
        )
    path = Path(given)
    if path.is_dir():
        return VideoSource(path, fps=fps, strict=strict)
    if not path.exists():
        raise ValueError(f"{path} does not exist")
    if path.suffix.lower() == ".npz" and saved.is_saved(path):
        return SavedSource(path)
    if path.suffix.lower() not in (".npy", ".npz"):
        raise ValueError(
            f"{path} must be a folder of videos or of folders of images, an .npy or .npz array, or saved "
            "statistics"
        )
    return ArraySource(path, layout=layout)
