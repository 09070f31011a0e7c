"""Samples pictures, each with a time of its own, at a constant rate."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Protocol, TypeVar

from fasti3d.limits import MAX_LAST, MAX_REPEATS, REPEATS_PER_PICTURE

# Containers round stamps (Matroska and FLV to a millisecond): a picture that starts this much later
# than it is wanted, in seconds, is the one being shown.
TOLERANCE = 1e-3


class Shown(Protocol):
    """Something that is shown from ``time`` on for ``duration``, in seconds: a ``TimedFrame``."""

    @property
    def time(self) -> float: ...

    @property
    def duration(self) -> float: ...


P = TypeVar("P", bound=Shown)


def sample(
    pictures: Iterable[P],
    fps: float | None,
    limited: Callable[[str], object] = lambda said: None,
    *,
    first: int = 0,
) -> Iterator[tuple[int, float, P]]:
    """Yield (index, time, picture) for the picture shown at each of 0, 1/fps, 2/fps, … seconds.

    Shown at time t is the last picture that starts no later than t + ``TOLERANCE`` (at most a quarter
    of 1/fps), and the sequence ends where the last picture's duration does. So a video of a lower rate
    has pictures repeated, one of a higher rate has some left out, and a gap repeats the one before it.

    A few bytes can declare that a picture stays for years. Therefore one is repeated at most ``MAX_REPEATS``
    times; all together are repeated at most as often, and ``REPEATS_PER_PICTURE`` times more per picture; and
    the last one stays at most ``MAX_LAST`` seconds. Time beyond is left out, and the next picture follows on.

    ``fps=None`` gives every picture once, at its own time.

    Args:
        pictures: in order, each later than the one before.
        fps: frames per second.
        limited: called with a sentence about the time that is dropped, the first time that any is.
        first: the index to begin with, of a video in which no time is dropped before it; not with
            ``fps=None``. The pictures may then begin with the one that is shown there.
    """
    if fps is None:
        for index, picture in enumerate(pictures):
            yield index, picture.time, picture
        return
    tolerance = min(TOLERANCE, 0.25 / fps)
    index, room, left_out, told = first, MAX_REPEATS, 0.0, False
    latest: P | None = None
    for latest, end, is_last in _with_ends(pictures):
        stop = min(end, latest.time + MAX_LAST) if is_last else end
        room += REPEATS_PER_PICTURE
        shown_from, last = index, index + min(room, MAX_REPEATS)
        while index <= last and index / fps + tolerance < stop - left_out:
            yield index, index / fps, latest
            index += 1
        room -= max(index - shown_from - 1, 0)
        is_cut = index / fps + tolerance < stop - left_out
        if is_cut:
            left_out = stop - index / fps
        if (is_cut or stop < end) and not told:
            told = True
            limited(
                f"a picture stays for {end - latest.time:g} s, from {shown_from / fps:.2f} s on, which is "
                f"cut to {(index - shown_from) / fps:g} s, the limit on repeats at this rate; the frames "
                "follow on, here and wherever that happens again"
            )
    if index == 0 and latest is not None:
        yield 0, 0.0, latest


def _with_ends(pictures: Iterable[P]) -> Iterator[tuple[P, float, bool]]:
    """Each picture, until when it is shown, and whether it is the last one."""
    shown: P | None = None
    for picture in pictures:
        if shown is not None:
            yield shown, picture.time, False
        shown = picture
    if shown is not None:
        yield shown, shown.time + shown.duration, True
