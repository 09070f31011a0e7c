"""Frames that carry a number, and the types of the fixtures that write them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from av.video.frame import VideoFrame
from torch import Tensor

WriteVideo = Callable[..., Path]


def grey(level: int, width: int = 64, height: int = 48) -> VideoFrame:
    """A yuv420p frame whose luma, 16 + level, carries a number from 0 to 219 (see ``number``)."""
    frame = VideoFrame(width, height, "yuv420p")
    for plane, value in zip(frame.planes, (16 + level, 128, 128), strict=True):
        plane.update(bytes([value]) * plane.buffer_size)
    return frame


def number(image: Tensor) -> int:
    """The number that ``grey`` put into a frame."""
    return round(float(image.float().mean()) * 219 / 255)
