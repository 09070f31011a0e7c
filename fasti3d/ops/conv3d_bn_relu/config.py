"""Which kernel form and tile sizes a convolution takes on a GPU: a pure function, printable.

>>> print(choose(Problem(1, 64, 192, (32, 56, 56), (3, 3, 3), (1, 1, 1), (9, 0), 132)))
Config(form='descriptor', box=(1, 4, 8, 8), block_n=128, block_n_rest=64, block_k=64, warps=8, stages=3, \
precision='half')
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache
from operator import itemgetter
from typing import Any, NamedTuple

from fasti3d.ops.tiling import Box, Triple, best_box, chunk, count
from fasti3d.runtime.precision import Precision

# Shared memory that one block of threads may have, in bytes (CUDA C++ programming guide, compute
# capabilities). A chip that is not listed is assumed to have the minimum.
_SHARED_MEMORY = {
    **dict.fromkeys([(8, 0), (8, 7)], 163 << 10),
    **dict.fromkeys([(9, 0), (10, 0), (10, 3)], 227 << 10),
}
_MIN_SHARED_MEMORY = 99 << 10
# Where the copy engine feeds a matrix unit that reads shared memory by itself (wgmma, tcgen05).
DESCRIPTOR_CHIPS = ((9, 0), (10, 0), (10, 3))


class Form(str, Enum):
    """How a kernel reads clips; tables of measured configurations hold the value."""

    DESCRIPTOR = "descriptor"  # the copy engine moves boxes of pixels
    POINTER = "pointer"  # every thread has addresses of its own

    __str__ = str.__str__
    __repr__ = str.__repr__


class Tile(NamedTuple):
    """Pixels, output channels (of which ``rest`` in a second accumulator) and warps."""

    pixels: int
    channels: int
    rest: int
    warps: int


DESCRIPTOR_TILES = (
    Tile(256, 192, 64, 8),
    Tile(256, 128, 0, 8),
    Tile(256, 64, 0, 8),
    Tile(128, 128, 0, 8),
    Tile(128, 64, 0, 4),
    Tile(64, 64, 0, 4),
)
POINTER_TILES = (Tile(128, 128, 0, 8), Tile(128, 64, 0, 4), Tile(64, 64, 0, 4))
# Of float32, where larger ones spill: three products have twice the sums in registers, and with pointers a
# residual has twice the size.
SMALL_DESCRIPTOR_TILES = (Tile(128, 128, 0, 8), Tile(128, 64, 0, 4), Tile(64, 64, 0, 4))
SMALL_POINTER_TILES = (Tile(128, 64, 0, 8), Tile(64, 64, 0, 4))

# Reading a value into a tile counts as this many of its products: an estimate (not measured) from some
# 3e12 products and 40 GB from the L2 cache per second and SM, which partly overlap.
_READ_COST = 64
# Stages beyond these hide nothing more.
_MAX_STAGES = 4


@dataclass(frozen=True)
class Problem:
    """A convolution on a chip.

    ``size`` are the output's frames, rows and columns; ``describable`` is false where addresses or strides
    are not multiples of 16 bytes, which descriptors need. ``split``, if not 0, is how many of the output
    channels go to one feature map, and the others to a second; no tile has channels of both.
    """

    batch: int
    in_channels: int
    out_channels: int
    size: Triple
    kernel: Triple
    stride: Triple
    capability: tuple[int, int]
    multiprocessors: int
    describable: bool = True
    split: int = 0
    precision: Precision = Precision.HALF

    def channel_tiles(self, channels: int) -> tuple[int, int]:
        """Tiles of so many channels that cover the outputs, and those of them over the first."""
        first = count(self.split or self.out_channels, channels)
        second = count(self.out_channels - self.split, channels) if self.split else 0
        return first + second, first


@dataclass(frozen=True)
class Config:
    """A kernel form and its tile.

    ``box`` is the tile's pixels as (clips, frames, rows, columns), all in the last for pointers;
    ``block_n`` + ``block_n_rest`` its output channels, ``block_k`` the input channels of a step.
    """

    form: Form
    box: Box
    block_n: int
    block_n_rest: int
    block_k: int
    warps: int
    stages: int
    precision: Precision = Precision.HALF

    @staticmethod
    def of(fields: Mapping[str, Any]) -> Config:
        """From what ``dataclasses.asdict`` made of one, perhaps by way of JSON."""
        enums = {"form": Form(fields["form"]), "precision": Precision(fields["precision"])}
        return Config(**{**fields, **enums, "box": tuple(fields["box"])})

    @property
    def block_m(self) -> int:
        """Pixels of a tile."""
        return math.prod(self.box)

    @property
    def short(self) -> str:
        """For tables that people read."""
        channels = f"{self.block_n}+{self.block_n_rest}" if self.block_n_rest else str(self.block_n)
        box = "x".join(map(str, self.box))
        return (
            f"{self.form} {box} by {channels}, {self.block_k} deep, {self.warps} warps, {self.stages} stages"
            f"{self.precision.note}"
        )


def shared_memory(capability: tuple[int, int]) -> int:
    """Bytes of shared memory that one block may have."""
    return _SHARED_MEMORY.get(capability, _MIN_SHARED_MEMORY)


@lru_cache(4096)
def choose(problem: Problem) -> Config:
    """The configuration expected to take the least time."""
    form, possible = tiles(problem)
    _, box, tile = min((estimate(problem, form, tile) for tile in possible), key=itemgetter(0))
    return configure(problem, form, tile, box)


def estimate(problem: Problem, form: Form, tile: Tile) -> tuple[int, Box, Tile]:
    """What a tile is expected to cost, in its best box.

    The waves of tiles over the SMs times the work per tile: its products and what it must read for them, with
    all that lies beyond the output's edges counted.
    """
    if form == Form.DESCRIPTOR:
        box, boxes = best_box((problem.batch, *problem.size), problem.kernel, tile.pixels)
    else:
        box, boxes = (1, 1, 1, tile.pixels), count(problem.batch * math.prod(problem.size), tile.pixels)
    waves = count(boxes * problem.channel_tiles(tile.channels)[0], problem.multiprocessors)
    return waves * (tile.pixels * tile.channels + _READ_COST * (tile.pixels + tile.channels)), box, tile


def configure(problem: Problem, form: Form, tile: Tile, box: Box) -> Config:
    """The configuration of a tile: the longest steps and the most stages that are worth it."""
    itemsize = problem.precision.itemsize
    block_k = chunk(problem.in_channels, (128 if form == Form.DESCRIPTOR else 64) // itemsize)
    stage = (tile.pixels + tile.channels) * block_k * itemsize
    # Some is left for barriers, and for what the compiler exchanges through shared memory.
    stages = min(_MAX_STAGES, (shared_memory(problem.capability) - (16 << 10)) // stage)
    channels = tile.channels - tile.rest
    return Config(form, box, channels, tile.rest, block_k, tile.warps, stages, problem.precision)


def tiles(problem: Problem) -> tuple[Form, tuple[Tile, ...]]:
    """The form that a problem takes, and the tiles that it may take."""
    precision = problem.precision
    descriptor = DESCRIPTOR_TILES if precision.products == 1 else SMALL_DESCRIPTOR_TILES
    pointer = POINTER_TILES if precision is Precision.HALF else SMALL_POINTER_TILES
    if problem.capability not in DESCRIPTOR_CHIPS:
        return Form.POINTER, pointer
    if problem.stride == (1, 1, 1) and problem.describable:
        return Form.DESCRIPTOR, descriptor
    # With pointers and 8 warps, a loop over all taps gave wrong results on an H100 (pytorch #173068).
    return Form.POINTER, tuple(tile for tile in pointer if tile.warps == 4)
