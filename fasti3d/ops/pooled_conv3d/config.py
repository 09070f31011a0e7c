"""Where pooling inside the convolution is expected to pay, and with which tile: pure functions, printable.

>>> choose(Problem(8, 192, 32, (32, 28, 28), 132))
Config(box=(1, 4, 4, 4), block_n=32, block_k=64)
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from fasti3d.ops.tiling import Box, Triple, best_box, chunk

WARPS = 4
# Output channels of the one tile that has them all.
MOST_CHANNELS = 128
_PIXELS = 64
_WINDOW = (3, 3, 3)
_TILES_EACH = 2


@dataclass(frozen=True)
class Problem:
    """A pool and convolution on a chip; ``size`` are frames, rows and columns."""

    batch: int
    in_channels: int
    out_channels: int
    size: Triple
    multiprocessors: int


@dataclass(frozen=True)
class Config:
    """A tile: pixels as (clips, frames, rows, columns), output channels, and input channels of a step."""

    box: Box
    block_n: int
    block_k: int


@lru_cache(4096)
def choose(problem: Problem) -> Config:
    """The configuration for up to ``MOST_CHANNELS`` output channels."""
    box, _ = best_box((problem.batch, *problem.size), _WINDOW, _PIXELS)
    block_n = max(1 << (problem.out_channels - 1).bit_length(), 16)
    return Config(box, block_n, chunk(problem.in_channels, 64))


@lru_cache(4096)
def pays(problem: Problem) -> bool:
    """Whether one kernel is expected to beat a pool and a convolution; to be measured.

    Arithmetic, for one clip of 64x224x224 in half precision on an H200. Alone or fused, the pool reads each
    value 27 times through the first-level cache, at some 128 bytes a cycle and multiprocessor:

    ======= ================= =========== =================================== ====================
    block   pixels x channels tiles of 64 first-level reads, spread evenly    the pooled map, moved
    ======= ================= =========== =================================== ====================
    3b, 3c  25088 x 192, 256  392         8.8, 11.7 us                        19, 26 MB: 4.5, 6.0 us
    4b, 4f  3136 x 480, 528   49          2.7, 3.0 us                         6.0, 6.6 MB: 1.4, 1.5 us
    5b, 5c  392 x 832         7           0.6 us                              1.3 MB: 0.3 us
    ======= ================= =========== =================================== ====================

    Fusing saves the last column (written and read at 4.3 TB/s; less where the second-level cache keeps it)
    and a launch, but spreads the reads over no more multiprocessors than there are tiles: with 49 for 132 the
    2.7 become 7.4 us. So it should pay where each multiprocessor has two tiles, one of which works while the
    other waits: 3b and 3c in any batch, 4b to 4f from 6 clips on, 5b and 5c from 41 on.
    """
    _, boxes = best_box((problem.batch, *problem.size), _WINDOW, _PIXELS)
    return problem.out_channels <= MOST_CHANNELS and boxes >= _TILES_EACH * problem.multiprocessors
