"""A decoded frame with its presentation time."""

from __future__ import annotations

from typing import NamedTuple

from av.video.frame import VideoFrame


class TimedFrame(NamedTuple):
    """A frame as it is stored: not yet turned, scaled or converted to RGB."""

    frame: VideoFrame
    time: float  # seconds since the first frame
    duration: float  # seconds
    pixel_aspect: float  # width of a pixel over its height
