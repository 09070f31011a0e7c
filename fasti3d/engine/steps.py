"""The steps of a fused forward pass: each reads a channels-last map and writes its own into an arena."""

from __future__ import annotations

import copy
import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

import torch
from torch import Tensor

from fasti3d.engine.place import Arena
from fasti3d.ops.conv3d_bn_relu.packed import PackedConv3d
from fasti3d.ops.max_pool3d_same.op import max_pool3d_same_into
from fasti3d.reference import MaxPool3dSame, Mixed, Unit3D
from fasti3d.runtime import gpu
from fasti3d.same_padding import same_shape


class Pack(Protocol):
    """Packs a unit, or several of one window and input as one convolution."""

    def __call__(self, *units: Unit3D) -> PackedConv3d: ...


# What a step that goes through a clip piece by piece keeps of it: a part of a CPU's last-level cache.
_PIECE_BYTES = 8 << 20
# On a GPU that of the second-level cache: the rest is for what streams through it meanwhile. On a smaller one
# than this, pieces that fit would not be work for the whole GPU, and larger ones still save memory.
_L2_SHARE = 3 / 4
_LEAST_L2_BYTES = 16 << 20
_GPU_PIECE_BYTES = 64 << 20
# The CPU convolutions' time tiles have this many frames.
_TILE_FRAMES = 4


class Step(Protocol):
    """(N, C, T, H, W) in, a new map of the arena out."""

    @property
    def convs(self) -> Sequence[PackedConv3d]:
        """Those whose weights it holds."""

    def __call__(self, x: Tensor, arena: Arena) -> Tensor: ...


def piece_bytes(device: torch.device) -> int:
    """What a piece on a device may have."""
    if device.type == "cpu":
        return _PIECE_BYTES
    cache = gpu.l2_bytes(device) if device.type == "cuda" else 0
    return int(_L2_SHARE * cache) if cache >= _LEAST_L2_BYTES else _GPU_PIECE_BYTES


def piece_frames(frames: int, frame_bytes: int, device: torch.device) -> int:
    """Frames of a piece on a device: on a CPU whole time tiles, and no more than there are."""
    tile = _TILE_FRAMES if device.type == "cpu" else 1
    most = max(piece_bytes(device) // frame_bytes // tile, 1) * tile
    # As many pieces as that makes, but no short one at the end.
    even = -(-frames // -(-frames // most))
    return min(-(-even // tile) * tile, frames)


def pieces(length: int, size: int) -> Iterator[tuple[int, int]]:
    """(first, last + 1) of consecutive pieces."""
    for begin in range(0, length, size):
        yield begin, min(begin + size, length)


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
    them, the largest of the network, never exists as a whole and stays in the cache.

    On a GPU too: one kernel for both would have to compute the pixels that windows of two tiles share twice,
    (9 / 8)**2 = 1.27 times the convolution for tiles of 4x4 pooled pixels, (16 / 14)**2 = 1.31 times in the
    power of two that tiles come in. Of 2c that is 0.27 * 84 us of an H200's arithmetic at 790 TFLOP/s to save
    the 18 us that 77 MB take at 4.3 TB/s; of the stem 0.27 * 67 us to save 24 us (103 MB), but at a third of
    that rate at the most. In the second-level cache the same bytes are saved for nothing. Pieces are whole
    clips where one fits, as the frames that windows share are read, and by the stem also folded, once
    more for each piece. None of this has been measured on a GPU.
    """

    def __init__(self, conv: ConvStep, pool: PoolStep) -> None:
        self.conv = conv
        self.pool = pool
        self.convs = conv.convs

    def __call__(self, x: Tensor, arena: Arena) -> Tensor:
        n, channels, frames, *space = self.conv.shape(x)
        out = arena.output((n, channels, frames, *same_shape(space, self.pool.stride[1:])))
        frame_bytes = channels * math.prod(space) * arena.dtype.itemsize
        size = piece_frames(frames, frame_bytes, arena.device)
        clips = 1
        if size == frames:
            clips = min(max(piece_bytes(arena.device) // (frames * frame_bytes), 1), max(n, 1))
        with arena.temporary():
            memory = arena.take((clips, channels, size, *space))
            for (first, last), (begin, end) in itertools.product(pieces(n, clips), pieces(frames, size)):
                piece = self.conv.conv(x[first:last], memory[: last - first, :, : end - begin], begin)
                target = out[first:last, :, begin:end]
                max_pool3d_same_into(target, piece, self.pool.kernel, self.pool.stride)
        return out


class MixedStep(ABC):
    """A Mixed block, whose branches are written straight into their slice of the output.

    With the max-pool behind it, each branch is pooled into its slice instead: pooling commutes with
    concatenation, and the block's own map never exists as a whole.
    """

    convs: Sequence[PackedConv3d]

    def __init__(self, block: Mixed, pack: Pack) -> None:
        self.b1b, self.b2b, self.b3b = pack(block.b1b), pack(block.b2b), pack(block.b3b)
        self.pool = PoolStep(block.b3a)
        self.slices = [unit.conv3d.out_channels for unit in (block.b0, block.b1b, block.b2b, block.b3b)]
        self.after: PoolStep | None = None

    def followed_by(self, pool: PoolStep) -> MixedStep:
        """The same block and weights with the pool behind it."""
        joint = copy.copy(self)
        joint.after = pool
        return joint

    def __call__(self, x: Tensor, arena: Arena) -> Tensor:
        shape = x.shape[2:] if self.after is None else same_shape(x.shape[2:], self.after.stride)
        out = arena.output((x.shape[0], sum(self.slices), *shape))
        self.run(x, out.split(self.slices, dim=1), arena)
        return out

    @abstractmethod
    def run(self, x: Tensor, slices: Sequence[Tensor], arena: Arena) -> None:
        """Computes the four branches, each into its slice of the output by way of ``branch``."""

    @contextmanager
    def branch(self, x: Tensor, target: Tensor, arena: Arena) -> Iterator[Tensor]:
        """What a branch has to write: its slice of the output, or a map that is pooled into it at the end."""
        with arena.temporary():
            if self.after is None:
                yield target
                return
            full = arena.take((x.shape[0], target.shape[1], *x.shape[2:]))
            yield full
            max_pool3d_same_into(target, full, self.after.kernel, self.after.stride)

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


class SeparateMixedStep(MixedStep):
    """A Mixed block whose convolutions run one by one."""

    def __init__(self, block: Mixed, pack: Pack) -> None:
        super().__init__(block, pack)
        self.b0, self.b1a, self.b2a = pack(block.b0), pack(block.b1a), pack(block.b2a)
        self.convs = (self.b0, self.b1a, self.b1b, self.b2a, self.b2b, self.b3b)

    def run(self, x: Tensor, slices: Sequence[Tensor], arena: Arena) -> None:
        with self.branch(x, slices[0], arena) as y:
            self.b0(x, y)
        for reduce, convolve, target in ((self.b1a, self.b1b, slices[1]), (self.b2a, self.b2b, slices[2])):
            with self.branch(x, target, arena) as y:
                between = arena.take((x.shape[0], reduce.out_channels, *x.shape[2:]))
                convolve(reduce(x, between), y)
        with self.branch(x, slices[3], arena) as y:
            self.pooled(x, y, arena)
