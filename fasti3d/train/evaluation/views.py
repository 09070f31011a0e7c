"""Views of a video: which frames and which pixels of it the network is tested on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from fasti3d.choices import check_choice

# What training samples, and what every test on clips does: 64 frames at 25 per second, short side 256.
FPS = 25.0
CLIP_FRAMES = 64
SHORT_SIDE = 256


class Crop(NamedTuple):
    """A square of ``size`` pixels; the margin is shared out: 0 puts all of it after the crop, 1 before."""

    size: int
    down: float
    right: float

    def corner(self, height: int, width: int) -> tuple[int, int]:
        """Return the row and column of its top left pixel in images of a size.

        Example:
            >>> Crop(224, 0.5, 0.5).corner(256, 341)
            (16, 58)
        """
        return int((height - self.size) * self.down), int((width - self.size) * self.right)


@dataclass(frozen=True)
class Views:
    """A way to look at a video.

    Attributes:
        name: ``full``, ``1x1`` or ``10x3``.
        clips: clips of 64 frames per video; 0 is one pass over all of its frames.
        crops: crops per clip.
        size: the side of each crop in pixels.
    """

    name: str
    clips: int
    crops: int
    size: int

    @property
    def count(self) -> int:
        """The number of views, of which each has logits of its own: clips first, then crops."""
        return max(self.clips, 1) * self.crops

    def starts(self, frames: int) -> tuple[int, ...]:
        """Return the first frame of each clip in a video of so many frames.

        The one clip of ``1x1`` is in the middle; those of ``10x3`` lie evenly from the first possible start
        to the last, rounded half up. A video shorter than a clip has all of them at its start: it loops.

        Args:
            frames: those of the video at 25 per second, at least 1.

        Example:
            >>> VIEWS["10x3"].starts(250)
            (0, 21, 41, 62, 83, 103, 124, 145, 165, 186)
        """
        last = max(frames - CLIP_FRAMES, 0)
        if self.clips == 1:
            return (last // 2,)
        gaps = max(self.clips - 1, 1)
        return tuple((2 * last * i + gaps) // (2 * gaps) for i in range(self.clips))

    def squares(self, height: int, width: int) -> tuple[Crop, ...]:
        """Return the crops of images of a size: the center; or three along the longer side, in order.

        Example:
            >>> [crop.corner(455, 256) for crop in VIEWS["10x3"].squares(455, 256)]
            [(0, 0), (99, 0), (199, 0)]
        """
        if self.crops == 1:
            return (Crop(self.size, 0.5, 0.5),)
        along: Callable[[float], Crop] = (
            (lambda share: Crop(self.size, share, 0.5))
            if height > width
            else (lambda share: Crop(self.size, 0.5, share))
        )
        return tuple(along(share) for share in (0.0, 0.5, 1.0))


VIEWS = {
    views.name: views
    for views in (Views("full", 0, 1, 224), Views("1x1", 1, 1, 224), Views("10x3", 10, 3, SHORT_SIDE))
}
"""The views by name; ``evaluate`` says what each is."""


def find_views(name: str) -> Views:
    """Return the views of that name.

    Raises:
        ValueError: there are none.
    """
    check_choice("views", name, VIEWS)
    return VIEWS[name]
