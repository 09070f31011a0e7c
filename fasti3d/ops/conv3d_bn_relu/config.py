"""Which kernel form and tile sizes a convolution takes on a GPU: a pure function, printable.

>>> problem = Problem(1, 64, 192, (32, 56, 56), (3, 3, 3), (1, 1, 1), (9, 0), 132)
>>> print(choose(problem))
Config(form='descriptor', box=(1, 4, 8, 8), block_n=128, block_n_rest=64, block_k=64, warps=8, stages=3, \
precision='half')
>>> round(modelled(problem, choose(problem)))  # nanoseconds
97692
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache
from operator import itemgetter
from typing import Any, NamedTuple

from fasti3d.ops.conv3d_bn_relu import model
from fasti3d.ops.tiling import Box, Triple, best_box, count
from fasti3d.runtime.precision import Precision

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
POINTER_TILES = (
    Tile(128, 128, 0, 8),
    Tile(128, 64, 0, 4),
    Tile(64, 64, 0, 4),
    # Not of descriptors: products of theirs are of 64 channels at least, as weights stand on the left.
    Tile(128, 32, 0, 4),
    Tile(128, 16, 0, 4),
)
# Of float32, where larger ones spill: three products have twice the sums in registers, and with pointers a
# residual has twice the size.
SMALL_DESCRIPTOR_TILES = (Tile(128, 128, 0, 8), Tile(128, 64, 0, 4), Tile(64, 64, 0, 4))
SMALL_POINTER_TILES = (Tile(128, 64, 0, 8), Tile(64, 64, 0, 4))

# With fewer stages nothing is loaded ahead; more hide nothing more.
MIN_STAGES, _MAX_STAGES = 2, 4
# Bytes of a pixel's input channels in a step, the deepest first: rows of 128 for the copy engine, and what
# threads copy without a spill. 16 channels only where there are no more, as so short rows are slow to load.
_DEPTHS = {Form.DESCRIPTOR: (128, 64), Form.POINTER: (64,)}
_MIN_DEPTH = 16
# Instructions of a warp in a step, with one accumulator and with two, and a thread's registers besides its
# sums (counted for sm_90, with Triton 3.6 and 3.9).
INSTRUCTIONS = {Form.DESCRIPTOR: (115, 165), Form.POINTER: (225, 225)}
REGISTERS = {Form.DESCRIPTOR: 26, Form.POINTER: 64}


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


@lru_cache(4096)
def choose(problem: Problem) -> Config:
    """The configuration expected to take the least time."""
    form, possible = tiles(problem)
    return min((estimate(problem, form, tile) for tile in possible), key=itemgetter(0))[1]


def estimate(problem: Problem, form: Form, tile: Tile) -> tuple[float, Config]:
    """Nanoseconds that a tile is expected to take, by a model, and its configuration.

    The box is one of those that cover the output with the fewest boxes.
    """
    if form == Form.DESCRIPTOR:
        box, _ = best_box((problem.batch, *problem.size), problem.kernel, tile.pixels)
    else:
        box = (1, 1, 1, tile.pixels)
    config = configure(problem, form, tile, box)
    return modelled(problem, config), config


def configure(problem: Problem, form: Form, tile: Tile, box: Box) -> Config:
    """The configuration of a tile in a box: the steps and stages expected to take the least time."""
    channels = tile.channels - tile.rest, tile.rest
    made = (
        Config(form, box, *channels, depth, tile.warps, stages, problem.precision)
        for depth in depths(problem, form)
        # No more than there are steps, or two. The most that cost nothing are first: they hide a late load.
        for stages in range(min(_MAX_STAGES, max(steps(problem, depth), MIN_STAGES)), MIN_STAGES - 1, -1)
    )
    return min(made, key=lambda config: modelled(problem, config))


def depths(problem: Problem, form: Form) -> list[int]:
    """Input channels that a step may have: more than half of them are some."""
    possible = [size // problem.precision.itemsize for size in _DEPTHS[form]]
    return [depth for depth in possible if problem.in_channels > depth // 2] or [_MIN_DEPTH]


def modelled(problem: Problem, config: Config) -> float:
    """Nanoseconds that a configuration takes, by the model."""
    return model.nanoseconds(cut(problem, config), problem.capability, problem.multiprocessors)


def cut(problem: Problem, config: Config) -> model.Tiles:
    """The tiles of a configuration, as the model sees them."""
    extent = (problem.batch, *problem.size)
    if config.form == Form.DESCRIPTOR:
        boxes = math.prod(map(count, extent, config.box))
    else:
        boxes = count(math.prod(extent), config.block_m)
    channels = config.block_n + config.block_n_rest
    return model.Tiles(
        number=boxes * problem.channel_tiles(channels)[0],
        pixels=config.block_m,
        channels=channels,
        steps=steps(problem, config.block_k),
        depth=config.block_k,
        stages=config.stages,
        warps=config.warps,
        instructions=INSTRUCTIONS[config.form][config.block_n_rest > 0],
        registers=REGISTERS[config.form],
        precision=config.precision,
    )


def steps(problem: Problem, depth: int) -> int:
    """Steps of a tile: taps times chunks of so many input channels."""
    return math.prod(problem.kernel) * count(problem.in_channels, depth)


def tiles(problem: Problem) -> tuple[Form, tuple[Tile, ...]]:
    """The form that a problem takes, and the tiles that it may take."""
    precision = problem.precision
    descriptor: tuple[Tile, ...] = DESCRIPTOR_TILES if precision.products == 1 else SMALL_DESCRIPTOR_TILES
    pointer: tuple[Tile, ...] = POINTER_TILES if precision is Precision.HALF else SMALL_POINTER_TILES
    if problem.capability not in DESCRIPTOR_CHIPS:
        return Form.POINTER, pointer
    if problem.stride == (1, 1, 1) and problem.describable:
        return Form.DESCRIPTOR, descriptor
    # With pointers and 8 warps, a loop over all taps gave wrong results on an H100 (pytorch #173068).
    return Form.POINTER, tuple(tile for tile in pointer if tile.warps == 4)
