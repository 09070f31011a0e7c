"""Which tile the Triton max-pool takes: a pure function, printable.

>>> choose(Problem(8, 192, (32, 28, 28), (3, 3, 3), 2, 132))
Config(box=(1, 4, 4, 4), block_c=64)
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

from fasti3d.ops.tiling import Box, Triple, best_box, count

WARPS = 4
# A column's taps are unrolled.
MAX_COLUMNS = 7
# Bytes of a tile: four loads of 16 for each of the 128 threads, or one where the map is small.
_TILE_BYTES = (8192, 4096, 2048)
_MAX_CHANNELS = 64
# Tiles that keep an SM busy; its registers hold as many.
_TILES_PER_SM = 4


@dataclass(frozen=True)
class Problem:
    """A pool on a chip; ``size`` are the output's frames, rows and columns, ``itemsize`` bytes of a value."""

    batch: int
    channels: int
    size: Triple
    kernel: Triple
    itemsize: int
    multiprocessors: int


@dataclass(frozen=True)
class Config:
    """A tile: output pixels as (clips, frames, rows, columns), and channels."""

    box: Box
    block_c: int

    @property
    def block_m(self) -> int:
        """Pixels of a tile."""
        return math.prod(self.box)


@lru_cache(4096)
def choose(problem: Problem) -> Config:
    """The largest tile of which there are enough."""
    extent = (problem.batch, *problem.size)
    block_c = min(1 << (problem.channels - 1).bit_length(), _MAX_CHANNELS)
    for size in _TILE_BYTES:
        box, boxes = best_box(extent, problem.kernel, max(size // (block_c * problem.itemsize), 1))
        if boxes * count(problem.channels, block_c) >= _TILES_PER_SM * problem.multiprocessors:
            break
    return Config(box, block_c)
