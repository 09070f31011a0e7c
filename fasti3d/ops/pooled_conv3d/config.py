"""Where pooling inside the convolution is expected to pay, and with which tile: pure functions, printable.

>>> choose(Problem(8, 192, 32, (32, 28, 28), 132))
Config(box=(1, 4, 4, 4), block_n=32, block_k=64, warps=4, precision='half')
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from fasti3d.ops.tiling import Box, Triple, best_box, chunk, count
from fasti3d.runtime.precision import Precision

# Output channels of the one tile that has them all.
MAX_CHANNELS = 128
_PIXELS = 64
_WINDOW = (3, 3, 3)
_TILES_PER_SM = 2
# Of the channels of a pixel that are pooled at a time, in registers.
_STEP_BYTES = 128

# Of an H200, estimated: bytes per second from an SM's L1 cache, seconds of a kernel's first and last
# instructions, and of a launch and what lies between two.
L1_PER_SM, ENDS, _LAUNCH = 112e9, 1.5e-6, 3e-6
# Instructions of a warp that pools a row of three taps, per load of a thread, and that multiplies a chunk
# (counted for sm_90 in half precision); instructions per second and SM.
_POOL_ROW, _PRODUCT, _ISSUED = 37.5, 250, 4 * 1.75e9
# Bytes per second from the memory, or the L2 cache.
_MEMORY = 4.3e12


@dataclass(frozen=True)
class Problem:
    """A pool and convolution on a chip; ``size`` are frames, rows and columns."""

    batch: int
    in_channels: int
    out_channels: int
    size: Triple
    multiprocessors: int
    precision: Precision = Precision.HALF


@dataclass(frozen=True)
class Config:
    """A tile: pixels as (clips, frames, rows, columns), output channels, channels of a step, and warps."""

    box: Box
    block_n: int
    block_k: int
    warps: int
    precision: Precision = Precision.HALF

    @staticmethod
    def of(fields: Mapping[str, Any]) -> Config:
        """From what ``dataclasses.asdict`` made of one, perhaps by way of JSON."""
        return Config(**{**fields, "box": tuple(fields["box"]), "precision": Precision(fields["precision"])})


@lru_cache(4096)
def choose(problem: Problem) -> Config:
    """The configuration for up to ``MAX_CHANNELS`` output channels."""
    precision = problem.precision
    box, _ = best_box((problem.batch, *problem.size), _WINDOW, _PIXELS)
    block_n = max(1 << (problem.out_channels - 1).bit_length(), 16)
    # Of three products, whose parts take registers too, a thread has a quarter of the values.
    step, warps = (_STEP_BYTES, 4) if precision.products == 1 else (_STEP_BYTES // 2, 8)
    return Config(box, block_n, chunk(problem.in_channels, step // precision.itemsize), warps, precision)


@lru_cache(4096)
def pays(problem: Problem) -> bool:
    """Whether one kernel is expected to beat a pool and a convolution: estimated, not measured.

    Fusing saves the pooled feature map's way through memory and a launch, but the pool reads each value 27
    times through the L1 caches of no more SMs than there are tiles. So it should pay where each SM has two
    tiles, one of which works while the other waits: on an H200, with 64 frames of 224x224 per clip, in
    Mixed_3b and 3c with any batch, in 4b to 4f from 6 clips on, in 5b and 5c from 41 on.
    """
    _, boxes = best_box((problem.batch, *problem.size), _WINDOW, _PIXELS)
    return problem.out_channels <= MAX_CHANNELS and boxes >= _TILES_PER_SM * problem.multiprocessors


def nanoseconds(problem: Problem) -> float:
    """What the one kernel is expected to take, by a model, without its launch."""
    config = choose(problem)
    tiles = math.prod(map(count, (problem.batch, *problem.size), config.box))
    chunks = count(problem.in_channels, config.block_k)
    itemsize = problem.precision.itemsize
    # Loads of 16 bytes per thread and tap.
    loads = math.prod(config.box) * config.block_k * itemsize / (16 * 32 * config.warps)
    steps = 9 * _POOL_ROW * loads + _PRODUCT * problem.precision.products
    issued = chunks * steps * config.warps / _ISSUED
    read = 27 * math.prod(config.box) * chunks * config.block_k * itemsize / L1_PER_SM
    return 1e9 * (count(tiles, problem.multiprocessors) * max(issued, read) + ENDS)


def nanoseconds_apart(problem: Problem) -> float:
    """What a pool and a convolution are expected to take, by a model, with a launch between them."""
    pixels = problem.batch * math.prod(problem.size)
    pooled, written = (
        pixels * n * problem.precision.itemsize for n in (problem.in_channels, problem.out_channels)
    )
    pool = max(27 * pooled / (L1_PER_SM * problem.multiprocessors), 2 * pooled / _MEMORY)
    return 1e9 * (pool + (pooled + written) / _MEMORY + 2 * ENDS + _LAUNCH)
