"""The videos in a folder: files by their suffixes, and folders of images."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from fasti3d.utils.naming import quoted
from fasti3d.utils.resources import is_resource_error
from fasti3d.video.source import is_frame

VIDEO_SUFFIXES = (
    *(".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".gif", ".mpg", ".mpeg", ".ts", ".m2ts", ".mts"),
    *(".wmv", ".asf", ".flv", ".ogv", ".3gp", ".vob", ".y4m"),
)


def find_videos(folder: Path) -> Iterator[Path]:
    """Yield the videos below a folder in a fixed order: a folder's own files, then those of its subfolders.

    A folder that holds images and no videos is one video, including ``folder`` itself; images beside videos
    are ignored, as posters of those. Suffixes may be upper case. Hidden files and folders are ignored. Links
    are followed; a folder that was visited before, as through a cycle of links, is skipped. Videos are not
    opened, so a damaged one or a dangling link is found when it is read.

    Raises:
        ValueError: a folder cannot be read.
    """
    met: set[str] = set()
    for place, folders, files in os.walk(folder, onerror=_raise, followlinks=True):
        real = os.path.realpath(place)
        if real in met:
            folders.clear()
            continue
        met.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        shown = sorted(name for name in files if not name.startswith("."))
        suffixes = {name: os.path.splitext(name)[1].lower() for name in shown}
        videos = [Path(place, name) for name in shown if suffixes[name] in VIDEO_SUFFIXES]
        yield from videos
        if not videos and any(map(is_frame, shown)):
            yield Path(place)


def _raise(error: OSError) -> None:
    if is_resource_error(error):
        raise error
    raise ValueError(f"{quoted(error.filename)} cannot be read: {error.strerror}") from None
