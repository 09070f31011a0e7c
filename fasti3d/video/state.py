"""The state of a video file or folder of images, by which a change of it is noticed without reading it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from fasti3d.video.errors import VideoError, blamed
from fasti3d.video.source import images


def video_state(path: Path) -> dict[str, Any]:
    """Return the name, size in bytes and time of change in ns of a video; of images those of all together.

    Raises:
        VideoError: It is not there, or a folder without images.
        OSError: Memory or descriptors ran out.
    """
    files = images(path) if os.path.isdir(path) else [path]
    try:
        states = [file.stat() for file in files]
    except OSError as error:
        raise blamed(path, f"cannot be opened: {error.strerror}", error) from error
    except ValueError as error:
        raise VideoError(path, f"cannot be opened: {error}") from error  # a zero byte in the name
    state = {
        "file": path.absolute().name,
        "bytes": sum(state.st_size for state in states),
        "modified_ns": max(state.st_mtime_ns for state in states),
    }
    return state | {"images": len(files)} if os.path.isdir(path) else state
