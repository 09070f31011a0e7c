"""From an I3D in eval mode to a list of fused steps: folded batch norm, no padded copies, no concatenation.

A plan holds weights derived from the model's: folded in float32, packed for their kernels. It is
immutable, so threads may share it; ``I3D`` makes a new one whenever the model's weights change.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from fasti3d import extension, network
from fasti3d.network import ENDPOINTS, same_shape
from fasti3d.ops.conv3d_bn_relu.op import PackedConv3d, has_kernel
from fasti3d.ops.max_pool3d_same import max_pool3d_same
from fasti3d.reference import I3D, MaxPool3dSame, Mixed, Unit3D, head_pool


@dataclass(frozen=True)
class Route:
    """Which path clips of one dtype take on one device.

    ``path`` is ``fused-gpu``, ``fused-cpu`` or ``reference`` (the operators' PyTorch references, still
    with folded batch norm); ``compute_dtype`` is what the convolutions read, and ``why`` one sentence.
    """

    path: str
    compute_dtype: torch.dtype
    why: str


def route(device: torch.device, dtype: torch.dtype) -> Route:
    """The path of eval-mode clips of ``dtype`` (float32, bfloat16 or float16) on ``device``."""
    if device.type != "cpu":
        return Route(
            "reference", dtype, "there are no fused kernels for this device: torch's own (cuDNN) run"
        )
    if extension.CORE is None:
        why = extension.load_error() or "the extension was not built (FASTI3D_BUILD=none)"
        return Route("reference", torch.float32 if dtype == torch.float16 else dtype, why)
    isa = extension.instruction_set()
    if dtype == torch.bfloat16:
        if has_kernel(device, dtype):
            return Route("fused-cpu", dtype, "AVX512_BF16 dot products, summed in float32")
        if extension.has_amx_bf16():
            return Route("reference", dtype, "the CPU has AMX, which oneDNN's bfloat16 convolutions use")
        return Route("fused-cpu", torch.float32, f"no bfloat16 dot product here: runs in float32 ({isa})")
    if dtype == torch.float16:
        return Route("fused-cpu", torch.float32, f"no float16 arithmetic is used: runs in float32 ({isa})")
    return Route("fused-cpu", torch.float32, f"{isa} kernels")


def fold(unit: Unit3D) -> tuple[Tensor, Tensor]:
    """Weight and bias of a unit with its batch norm folded in, in float32."""
    weight = unit.conv3d.weight.detach().float()
    if unit.bn is None:
        assert unit.conv3d.bias is not None
        return weight, unit.conv3d.bias.detach().float()
    bn = unit.bn
    assert bn.running_mean is not None
    assert bn.running_var is not None
    scale = bn.weight.detach().float() / torch.sqrt(bn.running_var.float() + bn.eps)
    bias = bn.bias.detach().float() - bn.running_mean.float() * scale
    return weight * scale[:, None, None, None, None], bias


# What a step that goes through a clip piece by piece may keep of it: a part of a last-level cache.
_PIECE_BYTES = 16 << 20
# Time tiles of the convolutions have this many frames.
_TILE_FRAMES = 4


def pieces(frames: int, frame_bytes: int) -> Iterator[tuple[int, int]]:
    """(first, last + 1) frames of consecutive pieces of a clip, each of whole time tiles."""
    size = max(_PIECE_BYTES // frame_bytes // _TILE_FRAMES, 1) * _TILE_FRAMES
    for begin in range(0, frames, size):
        yield begin, min(begin + size, frames)


def empty_clip(x: Tensor, channels: int, size: Iterable[int]) -> Tensor:
    """Uninitialised channels-last memory with x's batch, dtype and device."""
    shape = (x.shape[0], channels, *size)
    return torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last_3d)


class PoolStep:
    """A max-pool of the trunk."""

    def __init__(self, pool: MaxPool3dSame) -> None:
        self.kernel = pool.kernel
        self.stride = pool.stride

    def __call__(self, x: Tensor) -> Tensor:
        return max_pool3d_same(x, self.kernel, self.stride)


class ConvPoolStep:
    """A convolution and the max-pool over space behind it, piece by piece, so that the map between
    them, the largest of the network, never exists as a whole.
    """

    def __init__(self, conv: PackedConv3d, pool: PoolStep) -> None:
        self.conv = conv
        self.pool = pool

    def __call__(self, x: Tensor) -> Tensor:
        frames, *space = same_shape(x.shape[2:], self.conv.stride)
        channels = self.conv.out_channels
        pooled = empty_clip(x, channels, (frames, *same_shape(space, self.pool.stride[1:])))
        frame_bytes = x.shape[0] * channels * math.prod(space) * x.element_size()
        for begin, end in pieces(frames, frame_bytes):
            piece = self.conv(x, empty_clip(x, channels, (end - begin, *space)), begin)
            pooled[:, :, begin:end] = self.pool(piece)
        return pooled


class MixedStep:
    """A Mixed block whose branches are written straight into their slice of the output."""

    def __init__(self, block: Mixed, pack: Callable[[Unit3D], PackedConv3d]) -> None:
        self.b0, self.b1a, self.b1b = pack(block.b0), pack(block.b1a), pack(block.b1b)
        self.b2a, self.b2b, self.b3b = pack(block.b2a), pack(block.b2b), pack(block.b3b)
        self.pool = PoolStep(block.b3a)
        last = (self.b0, self.b1b, self.b2b, self.b3b)
        self.slices = [conv.out_channels for conv in last]

    def __call__(self, x: Tensor) -> Tensor:
        out = empty_clip(x, sum(self.slices), x.shape[2:])
        out0, out1, out2, out3 = out.split(self.slices, dim=1)
        self.b0(x, out0)
        self.b1b(self.b1a(x), out1)
        self.b2b(self.b2a(x), out2)
        self.pool_branch(x, out3)
        return out

    def pool_branch(self, x: Tensor, out: Tensor) -> None:
        """Branch 3, piece by piece: each is pooled with the frame before and after it."""
        frames = x.shape[2]
        for begin, end in pieces(frames, x[:, :, :1].numel() * x.element_size()):
            first = max(begin - 1, 0)
            pooled = self.pool(x[:, :, first : end + 1])
            self.b3b(pooled[:, :, begin - first : end - first], out[:, :, begin:end])


class Plan:
    """The eval-mode network for one compute dtype, with weights of its own."""

    def __init__(self, model: I3D, dtype: torch.dtype) -> None:
        self.dtype = dtype

        def pack(unit: Unit3D) -> PackedConv3d:
            return PackedConv3d.pack(*fold(unit), unit.stride, relu=True, dtype=dtype)

        self.steps: dict[str, Callable[[Tensor], Tensor]] = {}
        # By the convolution's name: it and the pool behind it in one step, for when nobody asks for its map.
        self.joint: dict[str, tuple[str, ConvPoolStep]] = {}
        previous = ""
        for name in network.TRUNK:
            module = getattr(model, name, None)
            if isinstance(module, MaxPool3dSame):
                step = PoolStep(module)
                conv = self.steps.get(previous)
                if isinstance(conv, PackedConv3d) and module.kernel[0] == module.stride[0] == 1:
                    self.joint[previous] = (name, ConvPoolStep(conv, step))
                self.steps[name] = step
            elif isinstance(module, Mixed):
                self.steps[name] = MixedStep(module, pack)
            elif isinstance(module, Unit3D):
                self.steps[name] = pack(module)
            previous = name
        self.classifier = None if model.logits is None else fold(model.logits)

    def run(self, x: Tensor, wanted: set[str], dtype: torch.dtype) -> dict[str, Tensor]:
        """The wanted endpoints of a checked clip, in ``dtype``."""
        to_head = bool(wanted & {"Logits", "Predictions"})
        left = wanted.intersection(self.steps)
        maps: dict[str, Tensor] = {}
        x = x.to(self.dtype)
        done = ""
        for name, step in self.steps.items():
            if name == done:
                continue
            if not (left or to_head):
                break
            if name in self.joint and name not in wanted:
                name, step = self.joint[name]
            x = step(x)
            done = name
            if name in wanted:
                maps[name] = x.to(dtype)
                left.discard(name)
        if to_head:
            assert self.classifier is not None
            weight, bias = self.classifier
            # The classifier is linear, so averaging before it gives the average of its outputs.
            logits = F.linear(head_pool(x.float()).mean(dim=(2, 3, 4)), weight.flatten(1), bias)
            maps |= {"Logits": logits.to(dtype), "Predictions": logits.softmax(dim=1).to(dtype)}
        return {name: maps[name] for name in ENDPOINTS if name in wanted}
