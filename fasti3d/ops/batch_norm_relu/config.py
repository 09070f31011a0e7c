"""Which tile the Triton passes of a batch norm take: a pure function, printable.

>>> choose(Problem(16 * 32 * 28 * 28, 192, 2, 1, 132))
Config(block_m=64, block_c=64, steps=36)
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from fasti3d.ops.tiling import chunk, count

WARPS = 4
# Sums of tiles, and channels, that a program joins at a time: 32 bytes of a row.
JOINED_TILES = 128
JOINED_CHANNELS = 8
# Tiles that a program joins in turn; more are first joined in groups.
MAX_TILES = 1024
# Bytes that a program reads at a time: four loads of 16 for each of the 128 threads, or two where maps are
# small.
_TILE_BYTES = (8192, 4096)
_MAX_CHANNELS = 64
# Programs that keep an SM busy.
_TILES_PER_SM = 4


@dataclass(frozen=True)
class Problem:
    """A pass over ``maps`` maps of so many pixels (rows) and channels; ``itemsize`` bytes per value."""

    rows: int
    channels: int
    itemsize: int
    maps: int
    multiprocessors: int


@dataclass(frozen=True)
class Config:
    """A tile of pixels by channels; a program that sums takes ``steps`` of them, one after the other."""

    block_m: int
    block_c: int
    steps: int

    @property
    def tile_rows(self) -> int:
        """Pixels that a program sums."""
        return self.block_m * self.steps


@lru_cache(4096)
def choose(problem: Problem) -> Config:
    """The largest tile of which there are enough, and as few sums as keep the GPU busy."""
    block_c = chunk(problem.channels, _MAX_CHANNELS)
    tiles_c = count(problem.channels, block_c)
    enough = count(_TILES_PER_SM * problem.multiprocessors, tiles_c)
    for size in _TILE_BYTES:
        block_m = size // (problem.maps * block_c * problem.itemsize)
        blocks = count(problem.rows, block_m)
        if blocks >= enough:
            break
    return Config(block_m, block_c, count(blocks, enough))
