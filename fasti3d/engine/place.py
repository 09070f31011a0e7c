"""Where in one block of memory each map of a pass lies: by lifetimes and offsets.

A map is kept from the step that first writes it to the step that last reads it. The block is as large as
what is kept at one time (plus gaps, if they cannot be avoided), not as the network. One allocation serves it:
allocators keep much of what they are given back, and new memory costs time to touch.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

ALIGNMENT = 4096  # bytes: a page, so that no two maps share one
_NO_END = 1 << 62


class Interval(NamedTuple):
    """Memory that is kept from one step to another, both included."""

    nbytes: int
    begin: int
    end: int


def place(intervals: Sequence[Interval]) -> tuple[list[int], int]:
    """An offset for each interval, so that no two that are kept at one time share memory, and the bytes that
    all need.

    Of several orders and ends to begin at, the one that needs the fewest: in a chain two ends in turn leave
    no gap, in a network with long residuals the largest first leaves fewer.
    """
    floor = floor_bytes(intervals)
    by_begin = sorted(
        range(len(intervals)), key=lambda i: (intervals[i].begin, -_aligned(intervals[i].nbytes))
    )
    by_size = sorted(by_begin, key=lambda i: -_aligned(intervals[i].nbytes))
    by_length = sorted(by_begin, key=lambda i: intervals[i].begin - intervals[i].end)
    best: tuple[list[int], int] | None = None
    for order in (by_begin, by_length, by_size):
        for height in (floor, None):
            found = _fit(intervals, order, height)
            best = found if best is None or found[1] < best[1] else best
            if best[1] == floor:
                return best
    assert best is not None
    return best


def floor_bytes(intervals: Iterable[Interval]) -> int:
    """The most bytes that are kept at one time, which no placement can go below."""
    changes: dict[int, int] = {}
    for nbytes, begin, end in intervals:
        changes[begin] = changes.get(begin, 0) + _aligned(nbytes)
        changes[end + 1] = changes.get(end + 1, 0) - _aligned(nbytes)
    kept = highest = 0
    for step in sorted(changes):
        kept += changes[step]
        highest = max(highest, kept)
    return highest


def _fit(intervals: Sequence[Interval], order: Sequence[int], height: int | None) -> tuple[list[int], int]:
    """Each interval at the lowest offset that is free or, if that is not 0, the highest below ``height``."""
    offsets = [0] * len(intervals)
    placed: list[int] = []  # by offset
    total = 0
    for i in order:
        nbytes, begin, end = intervals[i]
        size = _aligned(nbytes)
        free = _gaps(
            [
                (offsets[j], offsets[j] + _aligned(intervals[j].nbytes))
                for j in placed
                if intervals[j].begin <= end and begin <= intervals[j].end
            ],
            size,
        )
        lowest = free[0][0]
        offset = lowest
        if height is not None and lowest > 0:
            highest = [min(above, height) - size for low, above in free if min(above, height) - size >= low]
            offset = highest[-1] if highest else lowest
        offsets[i] = offset
        total = max(total, offset + size)
        placed.append(i)
        placed.sort(key=offsets.__getitem__)
    return offsets, total


def _gaps(taken: Sequence[tuple[int, int]], size: int) -> list[tuple[int, int]]:
    """The gaps of at least ``size`` between ranges in order of their beginnings; the last has no end."""
    gaps, low = [], 0
    for begin, end in taken:
        if begin - low >= size:
            gaps.append((low, begin))
        low = max(low, end)
    gaps.append((low, _NO_END))
    return gaps


def _aligned(nbytes: int) -> int:
    return -(-nbytes // ALIGNMENT) * ALIGNMENT
