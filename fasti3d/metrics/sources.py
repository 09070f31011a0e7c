"""From a path to the clips, or the saved statistics, that it stands for."""

from __future__ import annotations

import zipfile
from os import PathLike
from pathlib import Path

from fasti3d.metrics import saved
from fasti3d.metrics.arrays import ArraySource
from fasti3d.metrics.videos import VideoSource


class SavedSource:
    """Statistics that were saved."""

    kind = "statistics"

    def __init__(self, path: Path) -> None:
        self.path = path


Source = VideoSource | ArraySource | SavedSource


def open_source(
    path: str | PathLike[str], *, layout: str = "NTHWC", fps: float | None = None, strict: bool = False
) -> Source:
    """What is at a path: a folder of videos or of folders of images, an array, or saved statistics.

    Args:
        path: a folder, an .npy or an .npz file.
        layout: the axes of an array.
        fps, strict: of videos, as for ``fasti3d.video.read_frames``.

    Raises:
        ValueError: nothing there that gives clips.
        OSError: a file that cannot be read.
    """
    path = Path(path)
    if path.is_dir():
        return VideoSource(path, fps=fps, strict=strict)
    if not path.exists():
        raise ValueError(f"{path} is not there")
    if path.suffix.lower() == ".npz" and saved.is_saved(path):
        return SavedSource(path)
    if path.suffix.lower() not in (".npy", ".npz"):
        raise ValueError(
            f"{path} must be a folder of videos or of folders of images, an .npy or .npz array, or saved "
            "statistics"
        )
    try:
        return ArraySource(path, layout=layout)
    except (ValueError, zipfile.BadZipFile) as error:
        if str(path) in str(error):
            raise
        raise ValueError(f"{path}: {error}") from error
