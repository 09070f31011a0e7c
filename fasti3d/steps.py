"""The steps of a fused forward pass: each reads a channels-last map and writes its own into an arena."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import torch
from torch import Tensor

from fasti3d.arena import Arena
from fasti3d.network import same_shape
from fasti3d.ops.conv3d_bn_relu.op import PackedConv3d
from fasti3d.ops.max_pool3d_same.op import max_pool3d_same_into
from fasti3d.reference import MaxPool3dSame, Mixed, Unit3D

Pack = Callable[[Unit3D], PackedConv3d]

# What a step that goes through a clip piece by piece keeps of it: a part of a CPU's last-level cache. On a
# GPU pieces are to save memory, and each has to be work for the whole of it.
_PIECE_BYTES = 8 << 20
_GPU_PIECE_BYTES = 64 << 20
# The convolutions' time tiles have this many frames.
_TILE_FRAMES = 4


class Step(Protocol):
    """(N, C, T, H, W) in, a new map of the arena out."""

    @property
    def convs(self) -> Sequence[PackedConv3d]:
        """Those whose weights it holds."""

    def __call__(self, x: Tensor, arena: Arena) -> Tensor: ...


def piece_frames(frames: int, frame_bytes: int, device: torch.device) -> int:
    """Frames of a piece on a device: whole time tiles, and no more than there are."""
    size = _PIECE_BYTES if device.type == "cpu" else _GPU_PIECE_BYTES
    return min(max(size // frame_bytes // _TILE_FRAMES, 1) * _TILE_FRAMES, frames)


def pieces(frames: int, size: int) -> Iterator[tuple[int, int]]:
    """(first, last + 1) frames of consecutive pieces."""
    for begin in range(0, frames, size):
        yield begin, min(begin + size, frames)


class ConvStep:
    """A convolution with its batch norm and ReLU."""

    def __init__(self, unit: Unit3D, pack: Pack) -> None:
        self.conv = pack(unit)
        self.convs = (self.conv,)

    def __call__(self, x: Tensor, arena: Arena) -> Tensor:
        return self.conv(x, arena.output(self.shape(x)))

    def shape(self, x: Tensor) -> tuple[int, ...]:
        return (x.shape[0], self.conv.out_channels, *same_shape(x.shape[2:], self.conv.stride))


class PoolStep:
    """A max-pool."""

    convs: Sequence[PackedConv3d] = ()

    def __init__(self, pool: MaxPool3dSame) -> None:
        self.kernel = pool.kernel
        self.stride = pool.stride

    def __call__(self, x: Tensor, arena: Arena) -> Tensor:
        shape = (*x.shape[:2], *same_shape(x.shape[2:], self.stride))
        return max_pool3d_same_into(arena.output(shape), x, self.kernel, self.stride)

    @property
    def only_over_space(self) -> bool:
        return self.kernel[0] == self.stride[0] == 1


class ConvPoolStep:
    """A convolution and the max-pool over space behind it, piece by piece, so that the map between
    them, the largest of the network, never exists as a whole.
    """

    def __init__(self, conv: ConvStep, pool: PoolStep) -> None:
        self.conv = conv
        self.pool = pool
        self.convs = conv.convs

    def __call__(self, x: Tensor, arena: Arena) -> Tensor:
        n, channels, frames, *space = self.conv.shape(x)
        out = arena.output((n, channels, frames, *same_shape(space, self.pool.stride[1:])))
        size = piece_frames(frames, n * channels * math.prod(space) * arena.dtype.itemsize, arena.device)
        with arena.temporary():
            memory = arena.take((n, channels, size, *space))
            for begin, end in pieces(frames, size):
                piece = self.conv.conv(x, memory[:, :, : end - begin], begin)
                max_pool3d_same_into(out[:, :, begin:end], piece, self.pool.kernel, self.pool.stride)
        return out


class MixedStep:
    """A Mixed block, whose branches are written straight into their slice of the output.

    With the max-pool behind it, each branch is pooled into its slice instead: pooling commutes with
    concatenation, and the block's own map never exists as a whole.
    """

    def __init__(self, block: Mixed, pack: Pack) -> None:
        self.b0, self.b1a, self.b1b = pack(block.b0), pack(block.b1a), pack(block.b1b)
        self.b2a, self.b2b, self.b3b = pack(block.b2a), pack(block.b2b), pack(block.b3b)
        self.pool = PoolStep(block.b3a)
        self.convs = (self.b0, self.b1a, self.b1b, self.b2a, self.b2b, self.b3b)
        self.after: PoolStep | None = None
        self.slices = [conv.out_channels for conv in (self.b0, self.b1b, self.b2b, self.b3b)]

    def followed_by(self, pool: PoolStep) -> MixedStep:
        """The same block and weights with the pool behind it."""
        joint = copy.copy(self)
        joint.after = pool
        return joint

    def __call__(self, x: Tensor, arena: Arena) -> Tensor:
        shape = x.shape[2:] if self.after is None else same_shape(x.shape[2:], self.after.stride)
        out = arena.output((x.shape[0], sum(self.slices), *shape))
        branches: tuple[Callable[[Tensor, Tensor], Tensor], ...] = (
            self.b0,
            lambda x, y: self.reduced(self.b1a, self.b1b, x, y, arena),
            lambda x, y: self.reduced(self.b2a, self.b2b, x, y, arena),
            lambda x, y: self.pooled(x, y, arena),
        )
        for branch, target in zip(branches, out.split(self.slices, dim=1), strict=True):
            with arena.temporary():
                if self.after is None:
                    branch(x, target)
                    continue
                full = arena.take((x.shape[0], target.shape[1], *x.shape[2:]))
                branch(x, full)
                max_pool3d_same_into(target, full, self.after.kernel, self.after.stride)
        return out

    def reduced(
        self, reduce: PackedConv3d, convolve: PackedConv3d, x: Tensor, out: Tensor, arena: Arena
    ) -> Tensor:
        """Branches 1 and 2: a 1x1x1 convolution to fewer channels, then the 3x3x3."""
        between = arena.take((x.shape[0], reduce.out_channels, *x.shape[2:]))
        return convolve(reduce(x, between), out)

    def pooled(self, x: Tensor, out: Tensor, arena: Arena) -> Tensor:
        """Branch 3, piece by piece: each is pooled with the frame before and the one after it."""
        n, channels, frames, *space = x.shape
        size = piece_frames(frames, n * channels * math.prod(space) * arena.dtype.itemsize, arena.device)
        memory = arena.take((n, channels, min(size + 2, frames), *space))
        for begin, end in pieces(frames, size):
            first, last = max(begin - 1, 0), min(end + 1, frames)
            piece = memory[:, :, : last - first]
            max_pool3d_same_into(piece, x[:, :, first:last], self.pool.kernel, self.pool.stride)
            self.b3b(piece[:, :, begin - first : end - first], out[:, :, begin:end])
        return out
