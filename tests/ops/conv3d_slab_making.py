"""Convolutions over slabs on the CPU: builds tests/ops/conv3d_slab_emulator.cpp and talks to it."""

from __future__ import annotations

import math
import random
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

import torch
import torch.nn.functional as F
from slab_emulators import answer, plans, program
from tolerances import TOLERANCES
from torch import Tensor

from fasti3d.ops.conv3d_slab.config import Config, Problem
from fasti3d.ops.conv3d_slab.pack import pack_slab
from fasti3d.ops.tiling import Triple

SOURCE = Path(__file__).resolve().with_name("conv3d_slab_emulator.cpp")


Shape = tuple[int, int, Triple, Triple]  # input and output channels, (T, H, W), kernel
K333, K311, K133 = (3, 3, 3), (3, 1, 1), (1, 3, 3)


def shapes_of_i3d() -> Iterator[Shape]:
    """Its 3x3x3 convolutions, of 64 frames of 224x224."""
    yield 64, 192, (32, 56, 56), K333
    for size, mixed in {
        (32, 28, 28): ((96, 128, 16, 32), (128, 192, 32, 96)),
        (16, 14, 14): (
            (96, 208, 16, 48),
            (112, 224, 24, 64),
            (128, 256, 24, 64),
            (144, 288, 32, 64),
            (160, 320, 32, 128),
        ),
        (8, 7, 7): ((160, 320, 32, 128), (192, 384, 48, 128)),
    }.items():
        for first, second, third, fourth in mixed:
            yield first, second, size, K333
            yield third, fourth, size, K333


def shapes_of_i3d_resnet() -> Iterator[Shape]:
    """Its convolutions of stride 1 beside the 1x1x1, of 8 frames of 224x224; of 3-D ResNet-18 too."""
    for width, size in zip(
        (64, 128, 256, 512), ((8, 56, 56), (4, 28, 28), (4, 14, 14), (4, 7, 7)), strict=True
    ):
        yield width, width, size, K133
        yield 4 * width, width, size, K311
        yield width, width, size, K333


SHAPES = [*shapes_of_i3d(), *shapes_of_i3d_resnet()]


def of_shape(shape: Shape, batch: int) -> Problem:
    channels, out_channels, size, kernel = shape
    before = (kernel[0] // 2, kernel[1] // 2, kernel[2] // 2)
    return Problem(batch, channels, out_channels, size, size, kernel, before, 132)


class Fault(IntEnum):
    """What the emulator can do wrong, to see that it is noticed."""

    NONE, LEADING, SHIFT, STAGE_FULL, STAGE_EMPTY, SLAB_FULL, SLAB_EMPTY, SLICE = range(8)


@dataclass(frozen=True)
class Case:
    """A convolution with its operands. ``x`` and ``out`` are channel slices of wider clips of NaN."""

    x: Tensor
    weight: Tensor
    bias: Tensor
    out: Tensor
    memory: tuple[Tensor, Tensor]
    problem: Problem
    relu: bool
    given: bool

    @property
    def expected(self) -> Tensor:
        """torch's, in float32."""
        p = self.problem
        pads = []
        for n, out, k, before in zip(p.size, p.out, p.kernel, p.before, strict=True):
            pads += [out + k - 1 - before - n, before]  # negative ones skip places
        y = F.conv3d(F.pad(self.x.float(), pads[::-1]), self.weight.float(), self.bias)
        y = y + self.out.float() if self.given else y
        return y.relu() if self.relu else y


def case(
    channels: int,
    out_channels: int,
    size: Triple,
    kernel: Triple = (3, 3, 3),
    *,
    before: Triple | None = None,
    out: Triple | None = None,
    batch: int = 1,
    dtype: torch.dtype = torch.float16,
    relu: bool = True,
    residual: bool = False,
    multiprocessors: int = 4,
) -> Case:
    """Of random values; without ``before`` and ``out`` with SAME padding."""
    generator = torch.Generator().manual_seed(channels * 1000 + out_channels)
    starts = before or (kernel[0] // 2, kernel[1] // 2, kernel[2] // 2)
    target = out or size

    def clip(n: int, lengths: Triple, around: float) -> tuple[Tensor, Tensor]:
        whole = torch.full((batch, *lengths, -(-n // 8) * 8 + 16), around, dtype=dtype)
        part = whole[..., 8 : 8 + n].permute(0, 4, 1, 2, 3)
        part.copy_(torch.randn(part.shape, generator=generator))
        return part, whole

    x, x_memory = clip(channels, size, math.nan)
    y, y_memory = clip(out_channels, target, math.nan)
    if not residual:
        y.fill_(math.nan)
    weight = torch.randn(out_channels, channels, *kernel, generator=generator)
    weight = (weight / (channels * math.prod(kernel)) ** 0.5).to(dtype)
    bias = torch.randn(out_channels, generator=generator)
    problem = Problem(batch, channels, out_channels, size, target, kernel, starts, multiprocessors)
    return Case(x, weight, bias, y, (x_memory, y_memory), problem, relu, residual)


def random_case(chance: random.Random) -> Case:
    """With odd sizes, any channels, a window that may begin anywhere."""
    kernel = chance.choice([K333, K333, K311, K133, (2, 4, 4), (1, 2, 5), (3, 5, 2)])
    size = (chance.randint(1, 5), chance.randint(1, 11), chance.randint(1, 13))
    out, before = [], []
    for n, k in zip(size, kernel, strict=True):
        start = chance.choice([k // 2, 0, -1 if n > k else 0, k])
        before.append(start)
        out.append(max(1, chance.choice([n, n + start - k + 1, 2])))
    return case(
        chance.choice([1, 8, 16, 24, 40, 48, 112]),
        chance.choice([8, 32, 64, 72, 136]),
        size,
        kernel,
        before=(before[0], before[1], before[2]),
        out=(out[0], out[1], out[2]),
        batch=chance.choice([1, 2, 3]),
        dtype=chance.choice([torch.float16, torch.bfloat16]),
        relu=chance.random() < 0.5,
        residual=chance.random() < 0.5,
    )


@dataclass(frozen=True)
class Emulator:
    program: Path

    def run(
        self, its: Case, config: Config, *, clusters: int = 1, order: int = 0, fault: Fault = Fault.NONE
    ) -> Tensor:
        """The result, or an EmulatorError. ``order``: 0 lets copies land as late as possible, 1 at once, else
        the order of all that may happen is shuffled.
        """
        p = its.problem
        packed = pack_slab(its.weight)
        x, y = (memory.flatten()[8:] for memory in its.memory)
        strides = [(it.stride(0), *it.stride()[2:]) for it in (its.x, its.out)]
        numbers = [its.x.dtype == torch.bfloat16, its.relu, its.given, x.numel(), y.numel(), packed.nbytes]
        numbers += [*strides[0], *strides[1], clusters, order, fault, *_problem(p), *config.numbers]
        return answer(self.program, numbers, (x, packed, its.bias, y), its.memory[1], p.out_channels)

    def plans(self, lines: list[tuple[Problem, Config]]) -> list[list[int]]:
        """Of each that can run: bytes of shared memory, pitch, rows and positions of the slab, units
        of channels, products per unit and tap, tiles of pixels and of channels, tiles of pairs of blocks.
        """
        return plans(self.program, [[*_problem(problem), *config.numbers] for problem, config in lines])


def _problem(p: Problem) -> list[int]:
    return [p.batch, p.in_channels, p.out_channels, *p.size, *p.out, *p.kernel, *p.before]


def is_right(its: Case, found: Tensor) -> bool:
    """Whether a result is torch's in float32 but for one rounding; not if any of it is NaN."""
    wanted = its.expected
    limit = TOLERANCES["conv3d_forms", found.dtype].limit
    return bool((found.float() - wanted).abs().max() <= limit * wanted.abs().max())


def build(folder: Path) -> Emulator:
    """The program, compiled by g++; skips the test where there is none."""
    # What it reads and writes lies beside it.
    return Emulator(Path(shutil.copy2(program(SOURCE), folder / "conv3d_slab")))
