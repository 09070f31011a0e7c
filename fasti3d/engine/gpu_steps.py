"""Steps that only GPUs have kernels for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from torch import Tensor

from fasti3d.engine.place import Arena
from fasti3d.engine.steps import MixedStep, Pack
from fasti3d.ops.conv3d_bn_relu.packed import TritonConv3d
from fasti3d.ops.pooled_conv3d.op import pool_and_convolve, pool_pays
from fasti3d.reference import Mixed


class GpuMixedStep(MixedStep):
    """A Mixed block whose three 1x1x1 convolutions of its input are one product, into the first slice of the
    output and one map for the 3x3x3 convolutions, and whose branch 3 is one kernel where that pays.
    """

    def __init__(self, block: Mixed, pack: Pack) -> None:
        super().__init__(block, pack)
        self.entry = cast(TritonConv3d, pack(block.b0, block.b1a, block.b2a))
        self.between = [block.b1a.conv3d.out_channels, block.b2a.conv3d.out_channels]
        self.convs = (self.entry, self.b1b, self.b2b, self.b3b)

    def run(self, x: Tensor, slices: Sequence[Tensor], arena: Arena) -> None:
        with arena.temporary():
            between = arena.take((x.shape[0], sum(self.between), *x.shape[2:]))
            with self.branch(x, slices[0], arena) as y:
                self.entry.into_two(x, y, between)
            b1a, b2a = between.split(self.between, dim=1)
            for convolve, reduced, target in ((self.b1b, b1a, slices[1]), (self.b2b, b2a, slices[2])):
                with self.branch(x, target, arena) as y:
                    convolve(reduced, y)
        with self.branch(x, slices[3], arena) as y:
            if pool_pays(self.b3b, x, arena.device):
                pool_and_convolve(self.b3b, x, y)
            else:
                self.pooled(x, y, arena)
