"""How kernels cut a clip into tiles of pixels and chunks of channels: pure functions."""

from __future__ import annotations

import math
from collections.abc import Iterator

Triple = tuple[int, int, int]
Box = tuple[int, int, int, int]

# Input channels that pad the last chunk, as a share, that are worth a larger chunk.
_PADDING_WORTH = 1.125


def count(total: int, size: int) -> int:
    """Pieces of ``size`` that cover ``total``."""
    return -(-total // size)


def evenly(length: int, most: int, beside: int) -> int:
    """At most ``most``, as few as cover a length with as many tiles of ``beside`` times as many."""
    return min(most, count(count(length, count(length, most * beside)), beside))


def chunk(channels: int, largest: int) -> int:
    """Input channels per step of a GEMM: as many as cost little padding, at most 64."""
    if min(channels, largest) <= 16:
        return 16
    sizes = [size for size in (64, 32) if size <= largest]
    padded = {size: count(channels, size) * size for size in sizes}
    return next(size for size in sizes if padded[size] <= _PADDING_WORTH * min(padded.values()))


def best_box(extent: Box, kernel: Triple, pixels: int) -> tuple[Box, int]:
    """The box of so many pixels that covers (clips, frames, rows, columns) with the fewest boxes, and their
    number.

    Of equally good ones, that whose windows overlap most, as it needs the fewest different pixels.
    """
    reach = (1, *kernel)

    def rank(box: Box) -> tuple[int, int, Box]:
        boxes = math.prod(map(count, extent, box))
        return boxes, math.prod(b + r - 1 for b, r in zip(box, reach, strict=True)), box

    best = min(map(rank, _boxes(pixels)))
    return best[2], best[0]


def _boxes(pixels: int) -> Iterator[Box]:
    """All boxes of powers of two with this many pixels, itself a power of two."""
    bits = pixels.bit_length() - 1
    for b in range(bits + 1):
        for t in range(bits - b + 1):
            for h in range(bits - b - t + 1):
                yield 1 << b, 1 << t, 1 << h, 1 << (bits - b - t - h)
