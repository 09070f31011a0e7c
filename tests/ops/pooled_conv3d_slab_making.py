"""Pools and convolutions over slabs on the CPU: builds tests/ops/pooled_conv3d_slab_emulator.cpp and talks to
it.
"""

from __future__ import annotations

import math
import random
import shutil
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

import torch
import torch.nn.functional as F
from slab_emulators import answer, plans, program
from tolerances import TOLERANCES
from torch import Tensor

from fasti3d.ops.conv3d_slab.pack import pack_slab
from fasti3d.ops.pooled_conv3d_slab.config import Config, Problem
from fasti3d.ops.tiling import Triple

SOURCE = Path(__file__).resolve().with_name("pooled_conv3d_slab_emulator.cpp")

# Branch 3 of I3D's Mixed blocks, of 64 frames of 224x224: input and output channels, (T, H, W).
SHAPES: tuple[tuple[int, int, Triple], ...] = (
    (192, 32, (32, 28, 28)),
    (256, 64, (32, 28, 28)),
    (480, 64, (16, 14, 14)),
    (512, 64, (16, 14, 14)),
    (528, 128, (16, 14, 14)),
    (832, 128, (8, 7, 7)),
)


def of_shape(shape: tuple[int, int, Triple], batch: int) -> Problem:
    return Problem(batch, *shape, 132)


class Fault(IntEnum):
    """What the emulator can do wrong, to see that it is noticed."""

    NONE, LEADING, SHIFT, FULL, EMPTY, HAND_OVER, MEET, SLICE = range(8)


@dataclass(frozen=True)
class Case:
    """A pool and convolution with its operands. ``x``, which is nowhere negative, and ``out`` are channel
    slices of wider clips of NaN.
    """

    x: Tensor
    weight: Tensor
    bias: Tensor
    out: Tensor
    memory: tuple[Tensor, Tensor]
    problem: Problem
    relu: bool

    @property
    def expected(self) -> Tensor:
        """torch's, in float32."""
        y = F.conv3d(F.max_pool3d(self.x.float(), 3, 1, 1), self.weight.float(), self.bias)
        return y.relu() if self.relu else y


def case(
    channels: int,
    out_channels: int,
    size: Triple,
    *,
    batch: int = 1,
    dtype: torch.dtype = torch.float16,
    relu: bool = True,
) -> Case:
    """Of random values: half of x are zeros, as behind a ReLU."""
    generator = torch.Generator().manual_seed(channels * 1000 + out_channels)

    def clip(n: int) -> tuple[Tensor, Tensor]:
        whole = torch.full((batch, *size, -(-n // 8) * 8 + 16), math.nan, dtype=dtype)
        return whole[..., 8 : 8 + n].permute(0, 4, 1, 2, 3), whole

    x, x_memory = clip(channels)
    x.copy_(torch.randn(x.shape, generator=generator).relu())
    y, y_memory = clip(out_channels)
    weight = torch.randn(out_channels, channels, 1, 1, 1, generator=generator)
    weight = (weight / channels**0.5).to(dtype)
    bias = torch.randn(out_channels, generator=generator)
    problem = Problem(batch, channels, out_channels, size, 4)
    return Case(x, weight, bias, y, (x_memory, y_memory), problem, relu)


def random_case(chance: random.Random) -> Case:
    """With odd sizes and any channels."""
    return case(
        chance.choice([1, 8, 16, 24, 40, 48, 112]),
        chance.choice([8, 32, 64, 72, 128]),
        (chance.randint(1, 6), chance.randint(1, 11), chance.randint(1, 13)),
        batch=chance.choice([1, 2, 3]),
        dtype=chance.choice([torch.float16, torch.bfloat16]),
        relu=chance.random() < 0.5,
    )


@dataclass(frozen=True)
class Emulator:
    program: Path

    def run(
        self, its: Case, config: Config, *, blocks: int = 1, order: int = 0, fault: Fault = Fault.NONE
    ) -> Tensor:
        """The result, or an EmulatorError. ``order``: 0 lets copies land as late as possible, 1 at once, else
        the order of all that may happen is shuffled.
        """
        p = its.problem
        packed = pack_slab(its.weight)
        x, y = (memory.flatten()[8:] for memory in its.memory)
        strides = [(it.stride(0), *it.stride()[2:]) for it in (its.x, its.out)]
        numbers = [its.x.dtype == torch.bfloat16, its.relu, x.numel(), y.numel(), packed.nbytes]
        numbers += [*strides[0], *strides[1], blocks, order, fault, *_problem(p), *config.numbers]
        return answer(self.program, numbers, (x, packed, its.bias, y), its.memory[1], p.out_channels)

    def plans(self, lines: list[tuple[Problem, Config]]) -> list[list[int]]:
        """Of each that can run: bytes of shared memory and of a slab, a warpgroup's shares, chunks, tiles."""
        return plans(self.program, [[*_problem(problem), *config.numbers] for problem, config in lines])


def _problem(p: Problem) -> list[int]:
    return [p.batch, p.in_channels, p.out_channels, *p.size]


def is_right(its: Case, found: Tensor) -> bool:
    """Whether a result is torch's in float32 but for one rounding, and NaN where that is."""
    wanted = its.expected
    limit = TOLERANCES["conv3d_forms", found.dtype].limit
    known = ~wanted.isnan()
    error = (found.float() - wanted)[known].abs()
    scale = wanted[known].abs().max() if known.any() else wanted.new_zeros(())
    return bool(torch.equal(found.isnan(), ~known) and (error <= limit * scale).all())


def build(folder: Path) -> Emulator:
    """The program, compiled by g++; skips the test where there is none."""
    # What it reads and writes lies beside it.
    return Emulator(Path(shutil.copy2(program(SOURCE), folder / "pooled_conv3d_slab")))
