"""What a pass is expected to take on a GPU, launch by launch, by a model: nothing here was measured.

``python -m benchmarks.predicted`` prints the table for an H200 that ``benchmarks/results/h200-predicted.md``
holds; ``first_light.py`` puts what it measures beside the same numbers.
"""

from __future__ import annotations

import argparse
import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import torch

from fasti3d import I3D
from fasti3d.engine.describe.inception import graph_of
from fasti3d.engine.graph import (
    Conv,
    ConvPool,
    Graph,
    Head,
    Node,
    Pool,
    PoolConv,
    Shape,
    Shapes,
    Siblings,
    shapes,
)
from fasti3d.engine.rewrite import (
    absorb_adds,
    absorb_relus,
    fold_norms,
    join_pools,
    join_siblings,
    pool_branches,
)
from fasti3d.engine.sign import non_negative
from fasti3d.engine.steps import piece_bytes, pieces
from fasti3d.ops.conv3d_bn_relu.config import Problem, choose, modelled
from fasti3d.ops.conv3d_bn_relu.geometry import Geometry
from fasti3d.ops.conv3d_bn_relu.space_to_depth import cell_channels, folded_kernel, is_folded
from fasti3d.ops.conv3d_slab import config as slab
from fasti3d.ops.pooled_conv3d import config as pooled
from fasti3d.ops.pooled_conv3d_slab import config as pooled_slab
from fasti3d.ops.tiling import Triple
from fasti3d.runtime.gpu import GpuTraits, gpu_traits
from fasti3d.runtime.precision import Precision

# Bytes per second of an H200's memory (measured on such machines), from its L2 cache what the launch before
# it wrote, and per SM from the L1 cache (estimated).
_MEMORY, _CACHED = 4.3e12, 4.5e12
# Of a launch behind another in a graph, and of the head.
_BETWEEN, _HEAD = 1.3e-6, 6e-6


class Gpu(NamedTuple):
    """What of a GPU the model knows."""

    traits: GpuTraits
    piece_bytes: int  # of a map that is to stay in the L2 cache

    @staticmethod
    def of(device: torch.device) -> Gpu:
        """One that is there."""
        return Gpu(gpu_traits(device), piece_bytes(device))


H200 = Gpu(GpuTraits((9, 0), 132), int(3 / 4 * 62914560))


_DTYPES = {"float16": Precision.HALF, "float32": Precision.TF32X3}


class Launch(NamedTuple):
    """A kernel of a pass and its seconds by the model."""

    step: str
    kernel: str
    seconds: float


def rewritten(graph: Graph) -> Graph:
    """The graph as a plan of Triton kernels runs it up to the logits."""
    graph = graph.only({"Logits"})
    for rewrite in (
        *(fold_norms, absorb_relus, absorb_adds, join_siblings, pool_branches),
        partial(join_pools, in_pieces=lambda conv: True),
    ):
        graph = rewrite(graph)
    return graph


def predict(
    graph: Graph, shape: Sequence[int], gpu: Gpu, precision: Precision = Precision.HALF
) -> list[Launch]:
    """The launches of a pass over clips of a shape, in order.

    Args:
        graph: of the network, as it is described.
        shape: of the clips, (N, C, T, H, W).
        gpu: where they would run.
        precision: of the products.
    """
    graph = rewritten(graph)
    model = _Model(gpu, precision, shapes(graph, shape), non_negative(graph))
    return [launch for node in graph.nodes for launch in model.launches(node)]


class _Model:
    def __init__(self, gpu: Gpu, precision: Precision, of: Shapes, known: frozenset[int]) -> None:
        self.gpu = gpu
        self.precision = precision
        self.itemsize = precision.itemsize
        self.of = of
        self.known = known  # values that are never below zero

    def launches(self, node: Node) -> Iterator[Launch]:
        if isinstance(node, ConvPool):
            yield from self._pieces(node)
        elif isinstance(node, Conv):
            yield from self._conv(node.name, node, self.of[node.x], self.of[node.out])
        elif isinstance(node, Siblings):
            yield self._product(node.name, self.of[node.x], len(node.weight), split=self.of[node.out][1])
        elif isinstance(node, PoolConv):
            yield from self._pooled(node)
        elif isinstance(node, Pool):
            yield self._pool(node.name, node, self.of[node.x], self.of[node.out], _MEMORY)
        elif isinstance(node, Head):
            yield Launch(node.name, "_average_head_kernel", _HEAD + _BETWEEN)

    def _pieces(self, node: ConvPool) -> Iterator[Launch]:
        """As ``ConvPoolStep`` cuts the clips."""
        ((n, channels, frames, *space),) = node.conv.shapes(self.of)
        frame_bytes = channels * math.prod(space) * self.itemsize
        most = max(self.gpu.piece_bytes // frame_bytes, 1)
        size = min(-(-frames // -(-frames // most)), frames)
        clips = min(max(self.gpu.piece_bytes // (frames * frame_bytes), 1), n) if size == frames else 1
        x, out = self.of[node.conv.x], self.of[node.out]
        for (first, last), (begin, end) in itertools.product(pieces(n, clips), pieces(frames, size)):
            between = (last - first, channels, end - begin, *space)
            yield from self._conv(node.conv.name, node.conv, (last - first, *x[1:]), between)
            pool_out = (last - first, channels, end - begin, *out[3:])
            yield self._pool(node.pool.name, node.pool, between, pool_out, _CACHED)

    def _conv(self, step: str, node: Conv, x: Shape, out: Shape) -> Iterator[Launch]:
        kernel = node.window
        geometry = Geometry(kernel, node.stride, node.padding, node.relu)
        n, channels, *size = out
        if is_folded(x[1], kernel):
            t, h, w = folded_kernel(kernel, node.stride)
            cell = cell_channels(x[1], node.stride)
            frames, high, columns = (m + k - 1 for m, k in zip(size, (t, h, w), strict=True))
            cells = n * frames * high * columns * cell * self.itemsize
            read = n * x[1] * min(frames * node.stride[0], x[2]) * x[3] * x[4] * self.itemsize
            yield Launch(step, "_conv3d_fold_kernel", (cells + read) / _CACHED + pooled.ENDS + _BETWEEN)
            rows = (t, h, 1), (1, 1, 1)
            problem = Problem(
                n, w * cell, channels, tuple(size), *rows, *self.gpu.traits, False, 0, self.precision
            )
            yield self._faster(step, problem, cell, (frames, high, columns), (t, h, w), (0, 0, 0))
        elif geometry.pointwise:
            yield self._product(step, x, channels)
        else:
            problem = Problem(n, x[1], channels, tuple(size), kernel, node.stride, *self.gpu.traits)
            problem = replace(problem, precision=self.precision)
            if node.stride == (1, 1, 1):
                before = tuple(first for first, _ in geometry.pads(x[2:]))
                yield self._faster(step, problem, x[1], tuple(x[2:]), kernel, before)
            else:
                yield self._launch(step, problem)

    def _product(self, step: str, x: Shape, channels: int, split: int = 0) -> Launch:
        n, in_channels, *size = x
        pixels = (1, 1, n * math.prod(size))
        one = (1, 1, 1)
        problem = Problem(
            1, in_channels, channels, pixels, one, one, *self.gpu.traits, True, split, self.precision
        )
        launch = self._launch(step, problem)
        moved = (
            (in_channels + channels) * math.prod(pixels) * self.itemsize / _MEMORY + pooled.ENDS + _BETWEEN
        )
        return launch._replace(seconds=max(launch.seconds, moved))

    def _faster(
        self, step: str, problem: Problem, channels: int, size: Triple, kernel: Triple, before: Triple
    ) -> Launch:
        """By taps, or over slabs of so many channels, whichever is expected to be the faster."""
        by_taps = self._launch(step, problem)
        if self.gpu.traits.capability != slab.CAPABILITY or self.precision is not Precision.HALF:
            return by_taps
        sizes = (problem.batch, channels, problem.out_channels, size, problem.size)
        over_slabs = slab.Problem(*sizes, kernel, before, self.gpu.traits.sms)
        config = slab.choose(over_slabs)
        if config is None:
            return by_taps
        seconds = 1e-9 * slab.nanoseconds(over_slabs, config) + _BETWEEN
        return min(by_taps, Launch(step, "_conv3d_slab_kernel", seconds), key=lambda one: one.seconds)

    def _launch(self, step: str, problem: Problem) -> Launch:
        config = choose(problem)
        return Launch(step, f"_conv3d_{config.form}_kernel", 1e-9 * modelled(problem, config) + _BETWEEN)

    def _pool(self, step: str, node: Pool, x: Shape, out: Shape, rate: float) -> Launch:
        values = math.prod(out)
        by_cache = math.prod(node.kernel) * values * self.itemsize / (pooled.L1_PER_SM * self.gpu.traits.sms)
        by_memory = (math.prod(x) + values) * self.itemsize / rate
        return Launch(step, "_max_pool3d_same_kernel", max(by_cache, by_memory) + pooled.ENDS + _BETWEEN)

    def _pools_over_slabs(self, node: PoolConv) -> bool:
        """As ``behind_pool`` has it."""
        capability = self.gpu.traits.capability == slab.CAPABILITY
        return capability and self.precision is Precision.HALF and node.pool.x in self.known

    def _pooled(self, node: PoolConv) -> Iterator[Launch]:
        n, channels, *size = self.of[node.pool.x]
        out = self.of[node.out]
        if self._pools_over_slabs(node):
            its = pooled_slab.Problem(n, channels, out[1], tuple(size), self.gpu.traits.sms)
            config = pooled_slab.choose(its)
            if config is not None and pooled_slab.nanoseconds(its, config) < pooled_slab.otherwise(its):
                seconds = 1e-9 * pooled_slab.nanoseconds(its, config) + _BETWEEN
                yield Launch(node.conv.name, "_pooled_conv3d_slab_kernel", seconds)
                return
        problem = pooled.Problem(n, channels, out[1], tuple(size), self.gpu.traits.sms, self.precision)
        if not pooled.pays(problem):
            yield self._pool(node.pool.name, node.pool, (n, channels, *size), (n, channels, *size), _MEMORY)
            yield self._product(node.conv.name, (n, channels, *size), out[1])
            return
        seconds = 1e-9 * pooled.nanoseconds(problem)
        yield Launch(node.conv.name, "_pooled_conv3d_kernel", seconds + _BETWEEN)


def table(launches: Sequence[Launch]) -> str:
    """The launches of each step in Markdown, and their sum."""
    steps = dict.fromkeys(one.step.partition(".")[0] for one in launches)
    lines = ["| step | launches | over slabs | us, modelled |", "| --- | ---: | ---: | ---: |"]
    for step in (*steps, "all"):
        found = [one for one in launches if step in ("all", one.step.partition(".")[0])]
        slabs = sum("slab" in one.kernel for one in found)
        lines.append(f"| {step} | {len(found)} | {slabs} | {1e6 * sum(one.seconds for one in found):.0f} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--batch", type=int, nargs="*", default=[8, 1])
    args = parser.parse_args()
    with torch.device("meta"):
        graph = graph_of(I3D().eval())
    for (name, precision), batch in itertools.product(_DTYPES.items(), args.batch):
        print(f"\n## {batch}x3x64x224x224, {name}, H200\n")
        print(table(predict(graph, (batch, 3, 64, 224, 224), H200, precision)))


if __name__ == "__main__":
    main()
