"""How a player turns a stored frame before showing it."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from av.sidedata.sidedata import SideData
from av.video.frame import VideoFrame
from numpy.typing import NDArray

_FIXED_POINT = 1 << 16


class Orientation(NamedTuple):
    """One of the eight ways to lay a picture on a grid: transposed first, then mirrored."""

    transposed: bool = False
    mirrored_x: bool = False
    mirrored_y: bool = False

    @property
    def rotation(self) -> int:
        """Degrees clockwise that the stored picture is turned: 0, 90, 180 or 270 (mirroring aside)."""
        if self.transposed:
            return 90 if self.mirrored_x else 270
        return 180 if self.mirrored_y else 0

    def size(self, width: int, height: int) -> tuple[int, int]:
        """(width, height) as shown from those as stored, and the other way round."""
        return (height, width) if self.transposed else (width, height)

    def apply(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """(H, W, C) as stored -> a view of it as shown."""
        if self.transposed:
            image = image.transpose(1, 0, 2)
        return image[:: -1 if self.mirrored_y else 1, :: -1 if self.mirrored_x else 1]


def shown_size(frame: VideoFrame) -> tuple[int, int]:
    """(width, height) of a frame once it is turned."""
    return Orientation(transposed=45 < abs(frame.rotation) < 135).size(frame.width, frame.height)


def orientation(frame: VideoFrame) -> Orientation:
    """The frame's display matrix to the nearest quarter turn, mirroring included.

    Reading it ties the frame into a reference cycle, in PyAV, so that its memory is only freed by the
    garbage collector: not for every frame of a video.

    The matrix holds 16.16 fixed-point numbers and maps a stored pixel (x, y), y downwards, to
    (a x + c y, b x + d y); written by rows it is a b u / c d v / x y w.
    """
    try:
        matrix = frame.side_data.get("DISPLAYMATRIX")
    except ValueError:
        # PyAV refuses to list side data where one is of a kind it does not know, EXIF for one.
        turn = math.radians(-frame.rotation)
        a, b, c, d = math.cos(turn), math.sin(turn), -math.sin(turn), math.cos(turn)
    else:
        if not isinstance(matrix, SideData):
            return Orientation()
        a, b, _, c, d = (v / _FIXED_POINT for v in np.frombuffer(bytes(matrix), np.int32)[:5].tolist())
    if abs(b) + abs(c) > abs(a) + abs(d):
        return Orientation(True, c < 0, b < 0)
    return Orientation(False, a < 0, d < 0)
