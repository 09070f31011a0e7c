"""Which tile a pool and convolution over slabs takes, and what it is expected to cost: pure functions,
printable.

>>> print(choose(Problem(8, 192, 32, (32, 28, 28), 132)))
Config(columns=200, along=2, by_frames=True, box=(4, 7, 7), strip=4, stages=3)
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from fasti3d.ops.conv3d_slab.config import (
    BLOCK_BYTES,
    CLOCK,
    FLOPS,
    GROUP,
    L2_BYTES,
    LAUNCH,
    MAX_BOX,
    PASS_BYTES,
    PASS_CLOCKS,
    ROWS,
    SHARED_BYTES,
    WORST,
)
from fasti3d.ops.pooled_conv3d import config as pooled
from fasti3d.ops.tiling import Triple, count, evenly
from fasti3d.runtime.precision import Precision

# What csrc/pooled_conv3d_slab/plan.h has by the same names.
CHANNELS, WINDOW, MAX_STAGES, TOGETHER = 32, 3, 4, 2
MAX_ROW_BLOCKS, MAX_CONSUMERS = 2, 2
_GROUPS, _PRODUCTS = CHANNELS // GROUP, CHANNELS // (2 * GROUP)
_POSITION, _ALIGNMENT, _THREADS, _SKEW = 2 * CHANNELS, 128, 128, 32
_BARRIER_BYTES = 2 * MAX_STAGES * 8

# Columns of a product that the kernel is compiled for, by row blocks: 8 rows of 28, 14 x 14 and 4 times 7 x
# 7, half and a quarter of that.
COLUMNS = {1: (56, 112, 200, 224), 2: (56, 112)}
_MIN_STAGES = 2
# Tiles that are narrower than the clip, at most so many beside each other; frames of a box.
_MAX_PARTS, _MAX_FRAMES = 4, 8

# Clocks, estimated but for instructions, which were counted for sm_90a: of a step of a thread (a row of
# windows in two frames), as instructions where warps share a scheduler, and at least, for one waits for its
# reads; of a share's first instructions; of barriers and products around a chunk.
_STEP, _STEP_CHAIN, _SHARE, _CHUNK = 95, 180, 60, 250
_STEP_READS = WINDOW * (TOGETHER + WINDOW - 1)
_SHARED_RATE, _READ = 128, 16  # bytes of shared memory per clock, and of a thread's read


@dataclass(frozen=True)
class Problem:
    """A pool and convolution on a chip; ``size`` are frames, rows and columns."""

    batch: int
    in_channels: int
    out_channels: int
    size: Triple
    multiprocessors: int

    @property
    def precision(self) -> Precision:
        """Of the products."""
        return Precision.HALF

    @property
    def row_blocks(self) -> int:
        """Output channels, 64 at a time."""
        return count(self.out_channels, ROWS)

    @property
    def chunks(self) -> int:
        """Input channels, 32 at a time."""
        return count(self.in_channels, CHANNELS)


@dataclass(frozen=True)
class Config:
    """A tile.

    Each of ``along`` warpgroups takes ``box`` outputs with products of ``columns``, beside each other by
    frames or by rows. A thread pools ``strip`` rows of a column. There are ``stages`` of slabs with their
    weights.
    """

    columns: int
    along: int
    by_frames: bool
    box: Triple
    strip: int
    stages: int

    @staticmethod
    def of(fields: Mapping[str, Any]) -> Config:
        """From what ``dataclasses.asdict`` made of one, perhaps by way of JSON."""
        return Config(**{**fields, "box": tuple(fields["box"])})

    @property
    def numbers(self) -> list[int]:
        """As the operator takes them."""
        return [self.columns, self.along, int(self.by_frames), *self.box, self.strip, self.stages]

    @property
    def short(self) -> str:
        """For tables that people read."""
        box = "x".join(map(str, self.block))
        return f"slab {box}, {self.columns} columns, strips of {self.strip}, {self.stages} stages"

    @property
    def block(self) -> Triple:
        """Outputs of a block of threads."""
        t, h, w = self.box
        return (t * self.along, h, w) if self.by_frames else (t, h * self.along, w)

    @property
    def slab(self) -> Triple:
        """Frames, rows and columns of the slab."""
        t, h, w = self.block
        return t + WINDOW - 1, h + WINDOW - 1, w + WINDOW - 1

    @property
    def slab_bytes(self) -> int:
        """Of a slab in shared memory."""
        return math.prod(self.slab) * _POSITION

    @property
    def shares(self) -> int:
        """What a warpgroup's threads pool, one at a time."""
        t, h, w = self.box
        return _GROUPS * w * count(h, self.strip) * count(t, TOGETHER)


def shared_bytes(problem: Problem, config: Config) -> int:
    """Bytes of shared memory that a tile takes."""
    slab = count(config.slab_bytes, _ALIGNMENT) * _ALIGNMENT
    stage = slab + problem.row_blocks * _PRODUCTS * BLOCK_BYTES
    operand = _GROUPS * (config.columns * 2 * GROUP + _SKEW)
    return config.stages * stage + config.along * (operand + PASS_BYTES) + _BARRIER_BYTES


def tiles(problem: Problem, config: Config) -> int:
    """Tiles of the outputs."""
    return problem.batch * math.prod(map(count, problem.size, config.block))


def nanoseconds(problem: Problem, config: Config) -> float:
    """What a tile is expected to take, by a model: per chunk of channels the longest of reads from the L2
    cache, the instructions that pool, and the bytes that shared memory moves for them.
    """
    sms, blocks = problem.multiprocessors, problem.row_blocks
    steps = count(config.shares, _THREADS) * (config.strip + WINDOW - 1)
    instructions = steps * max(config.along * _STEP, _STEP_CHAIN)
    instructions += config.along * count(config.shares, _THREADS) * _SHARE
    moved = config.along * _THREADS * steps * _STEP_READS * _READ + config.slab_bytes
    weights = blocks * _PRODUCTS * BLOCK_BYTES
    reads = (config.slab_bytes + weights) / (L2_BYTES / sms) * CLOCK
    flops = config.along * blocks * _PRODUCTS * 2 * ROWS * 2 * GROUP * config.columns
    products = flops / (FLOPS / sms) * CLOCK
    # While one warpgroup waits for its products, the other pools.
    alone = (products + _CHUNK) / config.along
    chunk = max(reads, instructions + alone, moved / _SHARED_RATE)
    ends = blocks * count(config.columns, 16) * PASS_CLOCKS + reads
    waves = count(tiles(problem, config), sms)
    return 1e9 * (LAUNCH + waves * (problem.chunks * chunk + ends) / CLOCK)


def otherwise(problem: Problem) -> float:
    """Nanoseconds by Triton's kernels, one or two, by a model."""
    its = pooled.Problem(
        problem.batch, problem.in_channels, problem.out_channels, problem.size, problem.multiprocessors
    )
    return pooled.nanoseconds(its) if pooled.pays(its) else pooled.nanoseconds_apart(its)


@lru_cache(4096)
def choose(problem: Problem) -> Config | None:
    """The tile expected to take the least time; None where none fits, or Triton's kernels take less."""
    best = min(candidates(problem), key=lambda one: nanoseconds(problem, one), default=None)
    if best is None or nanoseconds(problem, best) > WORST * otherwise(problem):
        return None
    return best


def candidates(problem: Problem) -> Iterator[Config]:
    """All tiles that fit."""
    if not (problem.out_channels % GROUP == 0 and min(*problem.size, problem.batch, problem.in_channels) > 0):
        return
    for columns in COLUMNS.get(problem.row_blocks, ()):
        for along in range(1, MAX_CONSUMERS + 1):
            for by_frames in (False, True)[:along]:
                for box in _boxes(problem, columns, along, by_frames):
                    yield from _filled(problem, columns, along, by_frames, box)


def _boxes(problem: Problem, columns: int, along: int, by_frames: bool) -> Iterator[Triple]:
    """Boxes that so many columns hold, as even as the clip allows."""
    t, h, w = problem.size
    found: dict[Triple, None] = {}
    for parts in range(1, min(w, _MAX_PARTS) + 1):
        across = count(w, parts)
        for most in range(1, min(t, _MAX_FRAMES) + 1):
            frames = evenly(t, most, along if by_frames else 1)
            rows = columns // (across * frames)
            if rows:
                found[frames, evenly(h, min(rows, h), 1 if by_frames else along), across] = None
    yield from found


def _filled(problem: Problem, columns: int, along: int, by_frames: bool, box: Triple) -> Iterator[Config]:
    """The tiles of a box: strips of a box's rows, a half, a third and a quarter; as many stages as fit."""
    for strip in dict.fromkeys(count(box[1], parts) for parts in range(1, 5)):
        for stages in range(MAX_STAGES, _MIN_STAGES - 1, -1):
            config = Config(columns, along, by_frames, box, strip, stages)
            if max(config.slab) <= MAX_BOX and shared_bytes(problem, config) <= SHARED_BYTES:
                yield config
                break
