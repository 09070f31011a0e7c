"""The convolutions of a fused network: with the following batch norm and ReLU inside."""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fasti3d.engine.batch_norm import fold
from fasti3d.inputs import autocast_dtype
from fasti3d.ops.conv3d_bn_relu.checks import check_fills
from fasti3d.ops.conv3d_bn_relu.op import convolve
from fasti3d.ops.conv3d_bn_relu.packed import PackedConv3d
from fasti3d.ops.conv3d_bn_relu.reference import conv3d_bn_relu_reference
from fasti3d.ops.conv3d_bn_relu.space_to_depth import FEW_CHANNELS
from fasti3d.ops.conv3d_bn_relu.torch_conv3d import conv3d
from fasti3d.ops.registry import needs_ordinary_path, takes_operators
from fasti3d.runtime import gpu
from fasti3d.runtime.route import compute_dtype
from fasti3d.utils.derived import DerivedCache


class FusedConv3d(nn.Module):
    """A Conv3d with the following batch norm folded in and, with ``relu``, the ReLU: inference only.

    Takes (N, Cin, T, H, W) in the weights' dtype, or any that autocast turns into its own, and returns
    (N, Cout, T', H', W') in channels_last_3d. A clip in another layout is copied into that one first: once a
    network, whose other layers keep it. Where a gradient with respect to the clip is asked for, or under
    a transformation such as vmap, it runs as plain PyTorch; in graphs of torch.compile and torch.export it is
    one operator.

    Its weights are the buffers ``folded_weight`` and ``folded_bias``, which move, cast and load as buffers
    do. What the kernel reads is packed from them at the first call and again after they changed (an
    edit through ``.data`` cannot be seen); copies and pickles pack their own.

    Raises:
        ValueError: a clip of another shape, dtype or device than the weights take.
    """

    folded_weight: Tensor
    folded_bias: Tensor

    def __init__(self, conv: nn.Conv3d, bn: nn.modules.batchnorm._BatchNorm | None, relu: bool) -> None:
        super().__init__()
        weight, bias = fold(conv, bn)
        self.register_buffer("folded_weight", weight.to(conv.weight.dtype, copy=True))
        self.register_buffer("folded_bias", bias.to(conv.weight.dtype, copy=True))
        self.in_channels = conv.in_channels
        self.out_channels = conv.out_channels
        self.kernel_size = _triple(conv.kernel_size)
        self.stride = _triple(conv.stride)
        self.padding = _zeros(conv)
        self.relu = relu
        self._packed: DerivedCache[PackedConv3d] = DerivedCache()

    def forward(self, x: Tensor) -> Tensor:
        self._check(x)
        x = x.to(autocast_dtype(x.device) or x.dtype)
        weight, bias = self.folded_weight, self.folded_bias
        if takes_operators(x):
            return torch.ops.fasti3d.conv3d_bn_relu(x, weight, bias, self.stride, self.padding, self.relu)
        if (torch.is_grad_enabled() and x.requires_grad) or needs_ordinary_path(x):
            return conv3d_bn_relu_reference(x, weight, bias, self.stride, self.relu, self.padding)
        dtype = compute_dtype(x.device, x.dtype)
        clip = x.to(dtype)
        if self.in_channels >= FEW_CHANNELS:
            clip = clip.contiguous(memory_format=torch.channels_last_3d)
        with torch.no_grad(), torch.autocast(x.device.type, enabled=False):
            return convolve(self._pack(dtype), clip, partial(self._packed_for, dtype)).to(x.dtype)

    def _check(self, x: Tensor) -> None:
        weight = self.folded_weight
        if x.dim() != 5 or x.shape[1] != self.in_channels:
            raise ValueError(f"x must be (N, {self.in_channels}, T, H, W), got shape {tuple(x.shape)}")
        if x.dtype != weight.dtype and autocast_dtype(x.device) is None:
            raise ValueError(f"x is {x.dtype} but the weights are {weight.dtype}: cast one to the other")
        if x.device != weight.device:
            raise ValueError(f"x is on {x.device}, but the weights on {weight.device}: move one to the other")
        check_fills(x.shape, self.kernel_size, self.padding)

    def _pack(self, dtype: torch.dtype) -> PackedConv3d:
        """The packed convolution for the weights as they are now."""
        weight, bias = self.folded_weight, self.folded_bias
        key = (dtype, *((id(t), None if t.is_inference() else t._version) for t in (weight, bias)))
        # In a capture of a CUDA graph it is the graph's own, made again by every replay.
        return self._packed.get(
            key,
            partial(self._packed_for, dtype),
            hold=lambda: (weight, bias),
            keep=lambda: gpu.synchronize_unless_capturing(weight.device),
        )

    def _packed_for(self, dtype: torch.dtype, *, winograd: bool = True) -> PackedConv3d:
        return PackedConv3d.pack(
            self.folded_weight.float(),
            self.folded_bias.float(),
            self.stride,
            relu=self.relu,
            dtype=dtype,
            padding=self.padding,
            winograd=winograd,
        )

    def extra_repr(self) -> str:
        return (
            f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}, "
            f"padding={self.padding}, relu={self.relu}"
        )


class FoldedConv3d(nn.Module):
    """A Conv3d with groups, dilation or other padding than zeros, its batch norm folded in: inference only.

    Torch's own convolution runs, as in ``torch.nn.Conv3d``, and with ``relu`` the ReLU in place on its
    result. Its weights are the buffers ``folded_weight`` and ``folded_bias``.
    """

    folded_weight: Tensor
    folded_bias: Tensor

    def __init__(self, conv: nn.Conv3d, bn: nn.modules.batchnorm._BatchNorm | None, relu: bool) -> None:
        super().__init__()
        for name, value in zip(("folded_weight", "folded_bias"), fold(conv, bn), strict=True):
            self.register_buffer(name, value.to(conv.weight.dtype, copy=True))
        self.in_channels, self.out_channels = conv.in_channels, conv.out_channels
        self.kernel_size, self.stride, self.padding = conv.kernel_size, conv.stride, conv.padding
        self.dilation, self.groups, self.padding_mode = conv.dilation, conv.groups, conv.padding_mode
        self.relu = relu
        self._sides = list(conv._reversed_padding_repeated_twice)

    @classmethod
    def unfused(cls, fused: FusedConv3d) -> FoldedConv3d:
        """The layer that computes what a fused one does, with the same weights."""
        padding = "same" if fused.padding is None else fused.padding
        with torch.device("meta"):
            conv = nn.Conv3d(
                fused.in_channels,
                fused.out_channels,
                fused.kernel_size,
                fused.stride,
                padding,
                dtype=fused.folded_weight.dtype,
            )
        layer = cls(conv, None, fused.relu)
        layer.folded_weight, layer.folded_bias = fused.folded_weight, fused.folded_bias
        return layer

    def forward(self, x: Tensor) -> Tensor:
        padding = self.padding
        if self.padding_mode != "zeros":
            x, padding = F.pad(x, self._sides, self.padding_mode), (0, 0, 0)
        y = conv3d(x, self.folded_weight, self.folded_bias, self.stride, padding, self.dilation, self.groups)
        return F.relu(y, inplace=True) if self.relu else y

    def extra_repr(self) -> str:
        return (
            f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}, "
            f"padding={self.padding}, dilation={self.dilation}, groups={self.groups}, "
            f"padding_mode={self.padding_mode}, relu={self.relu}"
        )


def _zeros(conv: nn.Conv3d) -> tuple[int, int, int] | None:
    """A layer's padding as the operator takes it: None for SAME, which torch allows at stride 1 only."""
    if isinstance(conv.padding, str):
        return None if conv.padding == "same" else (0, 0, 0)
    return _triple(conv.padding)


def _triple(values: tuple[int, ...]) -> tuple[int, int, int]:
    t, h, w = map(int, values)  # also of NumPy's integers
    return t, h, w
