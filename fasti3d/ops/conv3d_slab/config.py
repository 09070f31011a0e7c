"""Which tile a convolution over slabs takes, and what it is expected to cost: a pure function, printable.

>>> print(choose(Problem(1, 64, 192, (32, 56, 56), (32, 56, 56), (3, 3, 3), (1, 1, 1), 132)))
Config(positions=208, across=1, along=2, by_frames=True, box=(1, 7, 28), units=2, buffers=2, stages=8)
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache, lru_cache
from itertools import product
from typing import Any, NamedTuple

from fasti3d.ops.tiling import Triple, count, evenly

# What csrc/conv3d_slab/plan.h has by the same names.
GROUP, ROWS, BLOCK_BYTES = 8, 64, 2048
_POSITION_BYTES, _CORE, _CLUSTER, _CONSUMERS = 16, 8, 2, 2
MAX_BOX, _MAX_STAGES, _MAX_BUFFERS = 256, 8, 2
PASS_BYTES = 16 * (ROWS + 4) * 4
_BARRIER_BYTES = 2 * (_MAX_BUFFERS + _MAX_STAGES) * 8
SHARED_BYTES = 227 << 10
MAX_KERNEL = 16
# The GPUs whose instructions the kernel is made of.
CAPABILITY = (9, 0)

# Columns of a product that the kernel is compiled for: rows of 56 and 28 with a zero between them need 227,
# of 28 (seven) 202, frames of 14 x 14 need 209.
POSITIONS = (64, 128, 208, 216, 232)
# Products of a stage of weights: more make it longer without hiding more.
_MAX_BLOCKS = 4
_MIN_STAGES = 3
# Tiles that are narrower than the output, at most so many beside each other.
_MAX_PARTS = 4

# Rates of an H200: products by its tensor cores (measured on one: 790 TFLOP/s), bytes from the L2 cache
# (estimated: 7.5 TB/s), clock.
FLOPS, L2_BYTES, CLOCK = 790e12, 7.5e12, 1.755e9
# Estimated: what the copy engine writes in boxes of 16 bytes, per clock and SM; clocks that a pass of results
# takes, and a chunk's end; seconds of a launch.
_BOX_BYTES, PASS_CLOCKS, _CHUNK_CLOCKS, LAUNCH = 16, 120, 200, 3e-6
# Slabs are worth a race with a tap-by-tap product unless they are expected to take this many times as long:
# the models are not wrong by more. The latter's tiles to compare with, (pixels, channels).
WORST = 1.2
_TAP_TILES = ((256, 192), (256, 128), (256, 64), (128, 128), (128, 64), (64, 64))


class Reduction(NamedTuple):
    """The products that a convolution's taps and channels are cut into.

    A product's K is two groups of channels at one tap; or, ``by_columns``, one group at two columns of the
    window, and then a tap is a row of it. ``units`` of ``unit_groups`` are loaded together, and make
    ``unit_blocks`` products per tap.
    """

    by_columns: bool
    taps: int
    units: int
    unit_groups: int
    unit_blocks: int


@cache
def reduction(channels: int, kernel: Triple) -> Reduction:
    """By columns if the groups are odd and the window's columns are not: no product is half empty then."""
    t, h, w = kernel
    groups = count(channels, GROUP)
    if groups % 2 == 1 and w % 2 == 0:
        return Reduction(True, t * h, groups, 1, w // 2)
    return Reduction(False, t * h * w, count(groups, 2), 2, 1)


def packed_shape(out_channels: int, channels: int, kernel: Triple) -> tuple[int, ...]:
    """Of the weights: rows of output channels, taps, products, 2 halves of K, output and input channels."""
    its = reduction(channels, kernel)
    return count(out_channels, ROWS), its.taps, its.units * its.unit_blocks, 2, ROWS, GROUP


@dataclass(frozen=True)
class Problem:
    """A convolution of stride 1: ``size`` and ``out`` are (T, H, W) of the clip and of the output, ``before``
    the zeros before each axis.
    """

    batch: int
    in_channels: int
    out_channels: int
    size: Triple
    out: Triple
    kernel: Triple
    before: Triple
    multiprocessors: int

    @property
    def reduction(self) -> Reduction:
        """How it is cut into products."""
        return reduction(self.in_channels, self.kernel)


@dataclass(frozen=True)
class Config:
    """A tile.

    Each of ``along`` warpgroups takes ``box`` outputs with products of ``positions`` columns, beside each
    other by frames or by rows, and ``across`` as many, with 64 output channels each. ``units`` of channels
    are in a slab, of which there are ``buffers``, and ``stages`` of weights.
    """

    positions: int
    across: int
    along: int
    by_frames: bool
    box: Triple
    units: int
    buffers: int
    stages: int

    @staticmethod
    def of(fields: Mapping[str, Any]) -> Config:
        """From what ``dataclasses.asdict`` made of one, perhaps by way of JSON."""
        return Config(**{**fields, "box": tuple(fields["box"])})

    @property
    def numbers(self) -> list[int]:
        """As the operator takes them."""
        first = (self.positions, self.across, self.along, int(self.by_frames))
        return [*first, *self.box, self.units, self.buffers, self.stages]

    @property
    def short(self) -> str:
        """For tables that people read."""
        box = "x".join(map(str, self.block))
        return (
            f"slab {box} by {ROWS * self.across}, {self.positions} columns, {self.units} units, "
            f"{self.buffers} slabs, {self.stages} stages"
        )

    @property
    def block(self) -> Triple:
        """Outputs of a block of threads."""
        t, h, w = self.box
        return (t * self.along, h, w) if self.by_frames else (t, h * self.along, w)


@dataclass(frozen=True)
class Slab:
    """The slab of a tile: columns from row to row, rows from frame to frame, positions in all, and with the
    zeros after them.
    """

    pitch: int
    rows: int
    frames: int
    positions: int
    group: int

    @staticmethod
    def of(problem: Problem, config: Config) -> Slab:
        """As make_plan in plan.h has it."""
        (kt, kh, kw), block = problem.kernel, config.block
        zeros = tuple(
            0 if b < out else max(0, min(before, out + k - 1 - before - n))
            for n, out, k, before, b in zip(
                problem.size, problem.out, problem.kernel, problem.before, block, strict=True
            )
        )
        pitch, rows, frames = block[2] + kw - 1 - zeros[2], block[1] + kh - 1 - zeros[1], block[0] + kt - 1
        positions = frames * rows * pitch
        step = (config.box[0] * rows if config.by_frames else config.box[1]) * pitch
        last = (config.along - 1) * step + config.positions + ((kt - 1) * rows + kh - 1) * pitch + kw - 1
        return Slab(pitch, rows, frames, positions, count(max(positions, last), _CORE) * _CORE)

    def columns(self, box: Triple) -> int:
        """Positions from the first of a box's outputs to its last."""
        return ((box[0] - 1) * self.rows + box[1] - 1) * self.pitch + box[2]


def shared_bytes(problem: Problem, config: Config) -> int:
    """Bytes of shared memory that a tile takes."""
    its = problem.reduction
    slab = config.units * its.unit_groups * Slab.of(problem, config).group * _POSITION_BYTES
    stage = config.across * config.units * its.unit_blocks * BLOCK_BYTES
    passes = config.across * config.along * PASS_BYTES
    return config.buffers * slab + config.stages * stage + passes + _BARRIER_BYTES


def work(problem: Problem, config: Config) -> int:
    """Tiles of pairs of blocks."""
    pixels = problem.batch * math.prod(map(count, problem.out, config.block))
    return count(pixels, _CLUSTER) * count(count(problem.out_channels, ROWS), config.across)


def nanoseconds(problem: Problem, config: Config) -> float:
    """What a tile is expected to take, by a model: per tile the longest of products, reads from the L2 cache
    and copies of slabs, which overlap where there are two.
    """
    sms, its, slab = problem.multiprocessors, problem.reduction, Slab.of(problem, config)
    slab_bytes = its.units * its.unit_groups * slab.positions * _POSITION_BYTES
    blocks = its.taps * its.units * its.unit_blocks
    weights = config.across * blocks * BLOCK_BYTES / _CLUSTER
    flops = config.across * config.along * blocks * 2 * ROWS * 16 * config.positions
    products = flops / (FLOPS / sms)
    copies = slab_bytes / (_BOX_BYTES * CLOCK)
    reads = (slab_bytes + weights) / (L2_BYTES / sms)
    chunks = count(its.units, config.units)
    busy = max(products, reads, copies) if config.buffers > 1 else max(products, reads) + copies
    ends = chunks * _CHUNK_CLOCKS + count(config.positions, 16) * PASS_CLOCKS
    waves = count(work(problem, config), sms // _CLUSTER)
    return 1e9 * (LAUNCH + copies / chunks + waves * (busy + ends / CLOCK))


def by_taps(problem: Problem) -> float:
    """Nanoseconds of a tap-by-tap product, bound by the tensor cores or by the L2 cache, by a model."""
    sms, pixels = problem.multiprocessors, problem.batch * math.prod(problem.out)
    depth = math.prod(problem.kernel) * problem.in_channels

    def of(tile: tuple[int, int]) -> float:
        waves = count(count(pixels, tile[0]) * count(problem.out_channels, tile[1]), sms)
        products, reads = 2 * math.prod(tile) / FLOPS, 2 * sum(tile) / L2_BYTES
        return 1e9 * (LAUNCH + waves * sms * depth * max(products, reads))

    return min(map(of, _TAP_TILES))


@lru_cache(4096)
def choose(problem: Problem) -> Config | None:
    """The tile expected to take the least time; None where none fits, or a tap-by-tap product takes less."""
    best = min(candidates(problem), key=lambda one: nanoseconds(problem, one), default=None)
    if best is None or nanoseconds(problem, best) > WORST * by_taps(problem):
        return None
    return best


def candidates(problem: Problem) -> Iterator[Config]:
    """All tiles that fit."""
    if not (problem.out_channels % GROUP == 0 and min(*problem.out, problem.batch, problem.in_channels) > 0):
        return
    for across in range(1, min(_CONSUMERS, count(problem.out_channels, ROWS)) + 1):
        for along in range(1, _CONSUMERS // across + 1):
            for by_frames in (False, True)[:along]:
                for positions in POSITIONS:
                    for box in _boxes(problem, positions, along, by_frames):
                        yield from _filled(problem, positions, across, along, by_frames, box)


def _boxes(problem: Problem, positions: int, along: int, by_frames: bool) -> Iterator[Triple]:
    """Boxes that so many positions hold, as large as they may be, and then as even as the output allows."""
    t, h, w = problem.out
    for parts in range(1, min(w, _MAX_PARTS) + 1):
        columns = count(w, parts)
        shapes = [(1, n, columns) for n in range(h, 0, -1)]
        rows = _first(problem, positions, along, by_frames, shapes)[1]
        if not rows:
            continue
        rows = evenly(h, rows, 1 if by_frames else along)
        shapes = [(n, rows, columns) for n in range(t, 0, -1)]
        frames = _first(problem, positions, along, by_frames, shapes)[0]
        frames = evenly(t, frames, along if by_frames else 1)
        yield from dict.fromkeys([(frames, rows, columns), (1, rows, columns)])


def _first(problem: Problem, positions: int, along: int, by_frames: bool, boxes: list[Triple]) -> Triple:
    """The first box whose outputs so many positions hold, and whose slab can be copied; zeros if none is."""
    for box in boxes:
        slab = Slab.of(problem, Config(positions, 1, along, by_frames, box, 1, 1, 1))
        if slab.columns(box) <= positions and max(slab.pitch, slab.rows, slab.frames) <= MAX_BOX:
            return box
    return (0, 0, 0)


def _filled(
    problem: Problem, positions: int, across: int, along: int, by_frames: bool, box: Triple
) -> Iterator[Config]:
    """The tiles of a box: all depths of a slab; two slabs if they fit, and as many stages."""
    its = problem.reduction
    for units in range(1, min(its.units, _MAX_BLOCKS // its.unit_blocks) + 1):
        if units > 1 and count(its.units, units) == count(its.units, units - 1):
            continue
        for buffers, stages in product((2, 1), range(_MAX_STAGES, _MIN_STAGES - 1, -1)):
            config = Config(positions, across, along, by_frames, box, units, buffers, stages)
            if shared_bytes(problem, config) <= SHARED_BYTES:
                yield config
                break
