"""Pools and convolutions over slabs, as ``fasti3d tune`` measures them beside Triton's kernels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from fasti3d.ops.pooled_conv3d_slab.config import Config, Problem
from fasti3d.ops.pooled_conv3d_slab.reference import pooled_conv3d_slab_reference

if TYPE_CHECKING:
    from fasti3d.inspect.tune import Geometry


@dataclass(frozen=True)
class ByTriton:
    """What a tile is measured beside: one kernel of Triton's or two, whichever is expected to be faster."""

    short: str = "Triton's kernels"


class Work(NamedTuple):
    """A pool and convolution over noise of its own that is nowhere negative."""

    problem: Problem
    x: Tensor
    out: Tensor
    second: None
    slab_weight: Tensor
    bias: Tensor
    relu: bool

    def reference(self) -> Tensor:
        """What a launch should write, in float32."""
        expected = torch.empty(self.out.shape, device=self.out.device)
        pooled_conv3d_slab_reference(self.x, self.slab_weight, self.bias, self.relu, expected)
        return expected


@dataclass(frozen=True)
class PooledConvolution:
    """A launch of the plan: the layer that it is of, and all but the values that it reads."""

    layer: str
    x: Geometry
    out: Geometry
    weight: Tensor
    slab_weight: Tensor
    bias: Tensor
    relu: bool
    flop: int

    def prepare(self) -> Work:
        """The launch over noise of its own."""
        # Here and not at the top: triton is slow to import, and absent where there is no GPU.
        from fasti3d.ops.pooled_conv3d_slab import launch

        x, out = self.x.fill(self.weight).relu_(), self.out.fill(self.weight)
        problem = launch.describe(x, self.weight, out).problem
        return Work(problem, x, out, None, self.slab_weight, self.bias, self.relu)

    def candidates(self, work: Work) -> list[tuple[ByTriton | Config, Callable[[], None]]]:
        """Triton's kernels and then a tile of slabs; none where no tile is proved."""
        # Here and not at the top: as in prepare.
        from fasti3d.ops.pooled_conv3d_slab import launch

        call = work.x, self.weight, self.bias, self.relu, work.out
        slab = launch.prepare(work.x, self.weight, self.slab_weight, *call[2:])
        return [] if slab is None else [(ByTriton(), partial(launch.otherwise, *call)), slab]
