"""Pictures at their own times, sampled at a steady rate."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol, TypeVar

# Containers round stamps (Matroska and FLV to a millisecond): a picture that starts this much later
# than it is wanted, in seconds, is the one being shown.
TOLERANCE = 1e-3


class Shown(Protocol):
    """Something that is shown from ``time`` on for ``duration``, in seconds: a ``Picture``."""

    @property
    def time(self) -> float: ...

    @property
    def duration(self) -> float: ...


P = TypeVar("P", bound=Shown)


def sample(pictures: Iterable[P], fps: float | None) -> Iterator[tuple[int, float, P]]:
    """(index, time, picture): the picture shown at each of 0, 1/fps, 2/fps, … seconds after the first.

    Shown at time t is the last picture that starts no later than t + ``TOLERANCE`` (at most a quarter
    of 1/fps), and the sequence ends where the last picture's duration does. So a video of a lower rate
    has pictures repeated, one of a higher rate has some left out, and a gap repeats the one before it.

    ``fps=None`` gives every picture once, at its own time.
    """
    if fps is None:
        for index, picture in enumerate(pictures):
            yield index, picture.time, picture
        return
    tolerance = min(TOLERANCE, 0.25 / fps)
    index = 0
    shown: P | None = None
    for picture in pictures:
        while shown is not None and index / fps + tolerance < picture.time:
            yield index, index / fps, shown
            index += 1
        shown = picture
    if shown is None:
        return
    end = shown.time + shown.duration
    while index == 0 or index / fps + tolerance < end:
        yield index, index / fps, shown
        index += 1
