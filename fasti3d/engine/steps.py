"""The steps of a fused forward pass: each reads channels-last maps and writes its own into a block."""

from __future__ import annotations

import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from typing import TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from fasti3d.engine.graph import (
    Add,
    Attention,
    Concat,
    Conv,
    ConvPool,
    Head,
    Node,
    Norm,
    Opaque,
    Pool,
    PoolConv,
    Relu,
    Shape,
    Shapes,
    Siblings,
    Softmax,
)
from fasti3d.ops.attention import attend, piece_rows, places
from fasti3d.ops.conv3d_bn_relu.packed import PackedConv3d, TritonConv3d
from fasti3d.ops.depthwise_conv3d.op import DepthwiseConv3d
from fasti3d.ops.i3d_head.op import average_head
from fasti3d.ops.max_pool3d_same.op import max_pool3d_into
from fasti3d.ops.pooled_conv3d.op import pool_and_convolve, pool_pays
from fasti3d.runtime import gpu

# A clip's values while a pass runs, by their numbers in the graph.
Maps: TypeAlias = dict[int, Tensor]

# What a step that goes through a clip piece by piece keeps of it: a part of a CPU's last-level cache.
_PIECE_BYTES = 8 << 20
# On a GPU that of the L2 cache: the rest is for what streams through it meanwhile. On a smaller cache than
# this, pieces that fit would not be work for the whole GPU, and larger ones still save memory.
_L2_SHARE = 3 / 4
_MIN_L2_BYTES = 16 << 20
_GPU_PIECE_BYTES = 64 << 20
# Frames of a piece that is pooled with the ones beside it, on a CPU: a multiple of so many.
_POOLED_FRAMES = 4


def piece_bytes(device: torch.device) -> int:
    """The bytes that a piece on a device may have."""
    if device.type == "cpu":
        return _PIECE_BYTES
    cache = gpu.l2_bytes(device) if device.type == "cuda" else 0
    return int(_L2_SHARE * cache) if cache >= _MIN_L2_BYTES else _GPU_PIECE_BYTES


def piece_frames(frames: int, frame_bytes: int, device: torch.device, tile: int = 1) -> int:
    """Frames of a piece on a device: whole tiles of so many, and no more than there are."""
    most = max(piece_bytes(device) // frame_bytes // tile, 1) * tile
    # As many pieces as that makes, but no short one at the end.
    even = -(-frames // -(-frames // most))
    return min(-(-even // tile) * tile, frames)


def pieces(length: int, size: int) -> Iterator[tuple[int, int]]:
    """(first, last + 1) of consecutive pieces."""
    for begin in range(0, length, size):
        yield begin, min(begin + size, length)


class Step(ABC):
    """Computes a node."""

    node: Node
    # Those whose weights it holds.
    convs: Sequence[PackedConv3d | DepthwiseConv3d] = ()

    def scratch(self, of: Shapes, dtype: torch.dtype, device: torch.device) -> Iterable[Shape]:
        """Maps that it needs meanwhile."""
        return ()

    def spread(self, maps: Maps) -> bool:
        """Whether a value that is not finite may have reached more of what it wrote than its windows."""
        return False

    @abstractmethod
    def __call__(self, maps: Maps, scratch: Sequence[Tensor]) -> None:
        """Reads values of ``maps`` and writes into those that the node writes, or sets them."""


class ConvStep(Step):
    """A convolution with its batch norm, residual and ReLU."""

    def __init__(self, node: Conv, conv: PackedConv3d) -> None:
        self.node: Conv = node
        self.conv = conv
        self.convs = (conv,)

    def __call__(self, maps: Maps, scratch: Sequence[Tensor]) -> None:
        residual = None if self.node.residual is None else maps[self.node.residual]
        self.conv(maps[self.node.x], maps[self.node.out], 0, residual)

    def spread(self, maps: Maps) -> bool:
        return self.conv.spread(maps[self.node.out])


class DepthwiseStep(Step):
    """A depthwise convolution with its batch norm and ReLU."""

    def __init__(self, node: Conv, conv: DepthwiseConv3d) -> None:
        self.node: Conv = node
        self.conv = conv
        self.convs = (conv,)

    def __call__(self, maps: Maps, scratch: Sequence[Tensor]) -> None:
        self.conv(maps[self.node.x], maps[self.node.out])


class SiblingsStep(Step):
    """Convolutions 1x1x1 of one map as one product."""

    def __init__(self, node: Siblings, conv: TritonConv3d) -> None:
        self.node: Siblings = node
        self.conv = conv
        self.convs = (conv,)

    def __call__(self, maps: Maps, scratch: Sequence[Tensor]) -> None:
        self.conv.into_two(maps[self.node.x], maps[self.node.out], maps[self.node.second])


class PoolStep(Step):
    """A max-pool."""

    def __init__(self, node: Pool) -> None:
        self.node: Pool = node

    def __call__(self, maps: Maps, scratch: Sequence[Tensor]) -> None:
        pool_into(maps[self.node.out], maps[self.node.x], self.node)


def pool_into(out: Tensor, x: Tensor, pool: Pool) -> None:
    max_pool3d_into(out, x, pool.kernel, pool.stride, pool.padding)


class ConvPoolStep(Step):
    """A convolution and the max-pool over space after it, piece by piece, so that the map between
    them never exists as a whole and stays in the cache.

    On a GPU too: one kernel for both would compute the pixels that windows of two tiles share twice, 1.27
    times the convolution (estimated) for tiles of 4x4 pooled pixels. Pieces are whole clips where one fits,
    since the frames that windows share are read once more per piece. Not measured on a GPU.
    """

    def __init__(self, node: ConvPool, conv: PackedConv3d) -> None:
        self.node: ConvPool = node
        self.conv = conv
        self.convs = (conv,)

    def scratch(self, of: Shapes, dtype: torch.dtype, device: torch.device) -> Iterable[Shape]:
        ((n, channels, frames, *space),) = self.node.conv.shapes(of)
        frame_bytes = channels * math.prod(space) * dtype.itemsize
        size = piece_frames(frames, frame_bytes, device, self.conv.tile_frames)
        clips = 1
        if size == frames:
            clips = min(max(piece_bytes(device) // (frames * frame_bytes), 1), max(n, 1))
        yield clips, channels, size, *space

    def __call__(self, maps: Maps, scratch: Sequence[Tensor]) -> None:
        x, out = maps[self.node.conv.x], maps[self.node.out]
        residual = None if self.node.conv.residual is None else maps[self.node.conv.residual]
        (memory,) = scratch
        clips, _, size, *_ = memory.shape
        n, _, frames, *_ = out.shape
        for (first, last), (begin, end) in itertools.product(pieces(n, clips), pieces(frames, size)):
            added = None if residual is None else residual[first:last, :, begin:end]
            piece = self.conv(x[first:last], memory[: last - first, :, : end - begin], begin, added)
            pool_into(out[first:last, :, begin:end], piece, self.node.pool)

    def spread(self, maps: Maps) -> bool:
        # A whole tile is NaN: whatever windows it falls into, one of one channel tells.
        return self.conv.spreads and not math.isfinite(
            maps[self.node.out][:, :1].sum(dtype=torch.float32).item()
        )


class PoolConvStep(Step):
    """A max-pool 3x3x3 at stride 1 and the convolution 1x1x1 of it, piece by piece: each is pooled with the
    frame before and the one after it.
    """

    def __init__(self, node: PoolConv, conv: PackedConv3d) -> None:
        self.node: PoolConv = node
        self.conv = conv
        self.convs = (conv,)

    def scratch(self, of: Shapes, dtype: torch.dtype, device: torch.device) -> Iterable[Shape]:
        n, channels, frames, *space = of[self.node.pool.x]
        if self._is_one_kernel(of[self.node.pool.x], device):
            return
        frame_bytes = n * channels * math.prod(space) * dtype.itemsize
        tile = _POOLED_FRAMES if device.type == "cpu" else 1
        size = piece_frames(frames, frame_bytes, device, tile) if frame_bytes else frames
        yield n, channels, min(size + 2, frames), *space

    def __call__(self, maps: Maps, scratch: Sequence[Tensor]) -> None:
        x, out = maps[self.node.pool.x], maps[self.node.out]
        if not scratch:
            pool_and_convolve(self.conv, x, out)
            return
        (memory,) = scratch
        frames = x.shape[2]
        size = memory.shape[2] if memory.shape[2] == frames else memory.shape[2] - 2
        for begin, end in pieces(frames, size):
            first, last = max(begin - 1, 0), min(end + 1, frames)
            piece = memory[:, :, : last - first]
            pool_into(piece, x[:, :, first:last], self.node.pool)
            self.conv(piece[:, :, begin - first : end - first], out[:, :, begin:end])

    def _is_one_kernel(self, shape: Shape, device: torch.device) -> bool:
        meta = torch.empty(shape, device="meta")
        return isinstance(self.conv, TritonConv3d) and pool_pays(self.conv, meta, device)


class NormStep(Step):
    """A batch norm that no convolution could take in."""

    def __init__(self, node: Norm) -> None:
        self.node: Norm = node

    def __call__(self, maps: Maps, scratch: Sequence[Tensor]) -> None:
        node = self.node
        x = maps[node.x]
        y = F.batch_norm(x, node.mean, node.var, node.weight, node.bias, False, 0.0, node.eps)
        maps[node.out].copy_(y)


class ReluStep(Step):
    """A ReLU that no convolution could take in."""

    def __init__(self, node: Relu) -> None:
        self.node: Relu = node

    def __call__(self, maps: Maps, scratch: Sequence[Tensor]) -> None:
        torch.clamp_min(maps[self.node.x], 0, out=maps[self.node.out])


class AddStep(Step):
    """A sum that no convolution could take in."""

    def __init__(self, node: Add) -> None:
        self.node: Add = node

    def __call__(self, maps: Maps, scratch: Sequence[Tensor]) -> None:
        out = torch.add(maps[self.node.x], maps[self.node.y], out=maps[self.node.out])
        if self.node.relu:
            out.relu_()


class ConcatStep(Step):
    """Copies what does not lie in the concatenation already."""

    def __init__(self, node: Concat) -> None:
        self.node: Concat = node

    def __call__(self, maps: Maps, scratch: Sequence[Tensor]) -> None:
        out, channel = maps[self.node.out], 0
        for value in self.node.xs:
            x = maps[value]
            target = out[:, channel : channel + x.shape[1]]
            if x.data_ptr() != target.data_ptr():
                target.copy_(x)
            channel += x.shape[1]


class AttentionStep(Step):
    """Attention of every place of a map to others."""

    def __init__(self, node: Attention) -> None:
        self.node: Attention = node

    def scratch(self, of: Shapes, dtype: torch.dtype, device: torch.device) -> Iterable[Shape]:
        if self.node.scale is None or dtype != torch.float32 or device.type != "cpu":
            return
        queries, keys = (math.prod(of[value][2:]) for value in (self.node.q, self.node.k))
        yield 1, keys, 1, 1, piece_rows(queries, keys, device)

    def __call__(self, maps: Maps, scratch: Sequence[Tensor]) -> None:
        q, k, v, out = (places(maps[value]) for value in (*self.node.reads, self.node.out))
        attend(q, k, v, self.node.scale, out, *(places(memory)[0] for memory in scratch))


class HeadStep(Step):
    """Averages and classifier."""

    def __init__(self, node: Head) -> None:
        self.node: Head = node

    def __call__(self, maps: Maps, scratch: Sequence[Tensor]) -> None:
        node, x = self.node, maps[self.node.x]
        weight, bias = node.weight, node.bias
        if weight is None:
            weight = x.new_empty((0, x.shape[1]), dtype=torch.float32)
        if bias is None:
            bias = weight.new_zeros(len(weight))
        features, scores = average_head(x, weight, bias, node.window)
        maps[node.out] = features
        if node.scores is not None:
            maps[node.scores] = scores


class SoftmaxStep(Step):
    """Softmax of scores."""

    def __init__(self, node: Softmax) -> None:
        self.node: Softmax = node

    def __call__(self, maps: Maps, scratch: Sequence[Tensor]) -> None:
        maps[self.node.out] = maps[self.node.x].softmax(dim=1)


class OpaqueStep(Step):
    """What torch runs."""

    def __init__(self, node: Opaque) -> None:
        self.node: Opaque = node

    def __call__(self, maps: Maps, scratch: Sequence[Tensor]) -> None:
        maps[self.node.out] = self.node.call(*(maps[x] for x in self.node.xs))
