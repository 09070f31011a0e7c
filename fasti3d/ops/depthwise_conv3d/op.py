"""``fasti3d::depthwise_conv3d``: schemas, shapes for tracing, gradient, and what users and plans call."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from fasti3d.ops.border import MAX_PADDING, Triple, check_clip, check_out, triple
from fasti3d.ops.conv3d_bn_relu.checks import check_fills
from fasti3d.ops.conv3d_bn_relu.geometry import output_size
from fasti3d.ops.depthwise_conv3d.reference import depthwise_conv3d_backward, depthwise_conv3d_reference
from fasti3d.ops.registry import needs_ordinary_path, operator, takes_operators
from fasti3d.runtime import extension

# Channels that fill a vector of every instruction set.
_MIN_CHANNELS = 16


def _check(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int] | None,
) -> None:
    check_clip(x)
    if weight.dim() != 5 or weight.shape[:2] != (x.shape[1], 1) or 0 in weight.shape:
        raise ValueError(
            f"weight must be ({x.shape[1]}, 1, kt, kh, kw), one filter per channel of x, none of them 0, got "
            f"shape {tuple(weight.shape)}"
        )
    if bias is not None and bias.shape != weight.shape[:1]:
        raise ValueError(f"bias must have shape ({weight.shape[0]},), got {tuple(bias.shape)}")
    for name, tensor in (("weight", weight), ("bias", bias)):
        if tensor is not None and tensor.device != x.device:
            raise ValueError(f"{name} is on {tensor.device}, but x on {x.device}: move one to the other")
        if tensor is not None and tensor.dtype not in (x.dtype, torch.float32):
            raise ValueError(f"{name} must be {x.dtype}, like x, or torch.float32, got {tensor.dtype}")
    triple("stride must be", stride, 1)
    if padding is not None:
        triple('padding must be "same" or', padding, 0, MAX_PADDING)
    check_fills(x.shape, weight.shape[2:], padding)


def _packed_reference(
    x: Tensor,
    packed: Tensor,
    bias: Tensor,
    kernel: list[int],
    stride: list[int],
    padding: list[int] | None,
    relu: bool,
    out: Tensor,
    start: int,
) -> None:
    window = triple("kernel must be", kernel, 1)
    if packed.dim() != 2 or packed.shape[0] != window[0] * window[1] * window[2]:
        raise ValueError(
            f"packed must be (taps, channels) for the kernel {window}, got {tuple(packed.shape)}"
        )
    weight = packed.t().reshape(-1, 1, *window)
    _check(x, weight, bias, stride, padding)
    frames, *pixels = output_size(x.shape[2:], window, stride, padding)
    if start < 0 or out.dim() != 5 or start + out.shape[2] > frames:
        raise ValueError(f"out must hold frames from {start} on of {frames}, got shape {tuple(out.shape)}")
    check_out(out, (*x.shape[:2], out.shape[2], *pixels), x.dtype, x=x, packed=packed, bias=bias)
    y = depthwise_conv3d_reference(x, weight, bias, stride, padding, relu)
    out.copy_(y[:, :, start : start + out.shape[2]])


operator(
    "depthwise_conv3d_(Tensor x, Tensor packed, Tensor bias, int[] kernel, int[] stride, int[]? padding, "
    "bool relu, Tensor(a!) out, int start) -> ()",
    _packed_reference,
)


@dataclass(frozen=True)
class DepthwiseConv3d:
    """A depthwise convolution made ready to run: weights (taps, channels) and bias in float32, geometry.

    ``padding`` None is SAME; ``dtype`` is that of the clips, float32 or bfloat16.
    """

    weight: Tensor
    bias: Tensor
    out_channels: int
    kernel: Triple
    stride: Triple
    padding: Triple | None
    relu: bool
    dtype: torch.dtype

    @property
    def nbytes(self) -> int:
        """What it keeps in memory, in bytes."""
        return self.weight.nbytes + self.bias.nbytes

    @staticmethod
    def pack(
        weight: Tensor,
        bias: Tensor,
        stride: Triple,
        *,
        relu: bool,
        dtype: torch.dtype,
        padding: Triple | None = None,
    ) -> DepthwiseConv3d:
        """Pack weights (C, 1, kt, kh, kw) and bias (C,) for clips of ``dtype``; ``padding`` None is SAME."""
        kernel = (weight.shape[2], weight.shape[3], weight.shape[4])
        packed = weight.detach().float().flatten(1).t().contiguous()
        values = bias.detach().float().contiguous()
        return DepthwiseConv3d(packed, values, len(weight), kernel, stride, padding, relu, dtype)

    def __call__(self, x: Tensor, out: Tensor | None = None, start: int = 0) -> Tensor:
        """Convolve a channels-last x into ``out``, such as a channel slice of a wider clip, or a new clip.

        With ``out`` it computes as many output frames as that holds, from frame ``start`` on. Meta tensors
        only give shapes.
        """
        if out is None:
            size = output_size(x.shape[2:], self.kernel, self.stride, self.padding)
            shape = (x.shape[0], self.out_channels, *size)
            out = torch.empty(shape, dtype=self.dtype, device=x.device, memory_format=torch.channels_last_3d)
        if not x.is_meta:
            torch.ops.fasti3d.depthwise_conv3d_(
                x, self.weight, self.bias, self.kernel, self.stride, self.padding, self.relu, out, start
            )
        return out


def has_depthwise_kernel(
    weight: Tensor,
    groups: int,
    stride: Sequence[int],
    dilation: Sequence[int],
    dtype: torch.dtype,
    device: torch.device,
) -> bool:
    """Whether a convolution is depthwise, and the kernel of this library measured faster than torch's.

    That is not so where the stride skips frames (0.7 to 1.0 times torch's speed in CSN's such layers).

    Args:
        weight: (Cout, Cin / groups, kt, kh, kw).
        groups: of the convolution.
        stride: steps (t, h, w) of the window.
        dilation: steps (t, h, w) between taps.
        dtype: of the clips.
        device: where they are.
    """
    return (
        device.type == "cpu"
        and extension.CORE is not None
        and dtype in (torch.float32, torch.bfloat16)
        and weight.shape[1] == 1
        and weight.shape[0] == groups >= _MIN_CHANNELS
        and stride[0] == 1
        and all(step == 1 for step in dilation)
    )


def _depthwise_conv3d(
    x: Tensor, weight: Tensor, bias: Tensor | None, stride: list[int], padding: list[int] | None, relu: bool
) -> Tensor:
    _check(x, weight, bias, stride, padding)
    dtype = torch.float32 if x.dtype == torch.float16 else x.dtype
    step = triple("stride must be", stride, 1)
    zeros = None if padding is None else triple("padding must be", padding, 0)
    values = weight.new_zeros(len(weight)) if bias is None else bias
    packed = DepthwiseConv3d.pack(weight, values, step, relu=relu, dtype=dtype, padding=zeros)
    y = packed(x.to(dtype).contiguous(memory_format=torch.channels_last_3d))
    return y.to(x.dtype)


def _fake(
    x: Tensor, weight: Tensor, bias: Tensor | None, stride: list[int], padding: list[int] | None, relu: bool
) -> Tensor:
    _check(x, weight, bias, stride, padding)
    shape = (*x.shape[:2], *output_size(x.shape[2:], weight.shape[2:], stride, padding))
    return torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last_3d)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, weight, bias, ctx.stride, ctx.padding, ctx.relu = inputs
    ctx.bias_dtype = None if bias is None else bias.dtype
    ctx.save_for_backward(x, weight, output)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, None, None, None]:
    x, weight, y = ctx.saved_tensors
    needed = tuple(ctx.needs_input_grad[:3])
    grads = depthwise_conv3d_backward(grad, x, weight, y, ctx.stride, ctx.padding, ctx.relu, needed)
    dtypes = (x.dtype, weight.dtype, ctx.bias_dtype)
    x_grad, weight_grad, bias_grad = (
        None if g is None else g.to(dtype) for g, dtype in zip(grads, dtypes, strict=True)
    )
    return x_grad, weight_grad, bias_grad, None, None, None


operator(
    "depthwise_conv3d(Tensor x, Tensor weight, Tensor? bias, int[] stride, int[]? padding, bool relu) -> "
    "Tensor",
    _depthwise_conv3d,
    fake=_fake,
    setup_context=_setup_context,
    backward=_backward,
)


def depthwise_conv3d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Sequence[int] = (1, 1, 1),
    padding: Literal["same"] | Sequence[int] = "same",
    relu: bool = True,
) -> Tensor:
    """Convolve each channel with a filter of its own, add the bias and apply ReLU, in one pass over the clip.

    Fold a BatchNorm that follows into ``weight`` and ``bias``, as for ``conv3d_bn_relu``.

    Args:
        x: (N, C, T, H, W), float32, bfloat16 or float16, channels_last_3d for speed.
        weight: (C, 1, kt, kh, kw) in x's dtype or float32.
        bias: (C,), likewise, or None for zeros.
        stride: steps (t, h, w), at least 1 and less than 2**31.
        padding: ``"same"`` for TensorFlow's SAME, or zeros (t, h, w) on both sides of each axis, as
            ``torch.nn.Conv3d`` takes them, less than 2**15.
        relu: whether to zero what is negative.

    Returns:
        (N, C, T', H', W') in x's dtype, channels_last_3d, rounded once from float32 sums. T' is ceil(T / st)
        with SAME, else floor((T + 2 pt - kt) / st) + 1; H' and W' likewise. Differentiable.

    Raises:
        ValueError: shapes, dtypes or devices that do not fit together; clips without frames, rows or columns.

    Example:
        >>> x = torch.ones(1, 54, 13, 80, 80).contiguous(memory_format=torch.channels_last_3d)
        >>> depthwise_conv3d(x, torch.ones(54, 1, 3, 3, 3), None, (1, 2, 2), (1, 1, 1)).shape
        torch.Size([1, 54, 13, 40, 40])

    Source: torch.nn.Conv3d with as many groups as channels, as in X3D and CSN.
    """
    zeros = None if isinstance(padding, str) and padding == "same" else padding
    _check(x, weight, bias, stride, zeros)
    if needs_ordinary_path(x) and not takes_operators(x):
        return depthwise_conv3d_reference(x, weight, bias, stride, zeros, relu)
    lengths = None if zeros is None else list(zeros)
    return torch.ops.fasti3d.depthwise_conv3d(x, weight, bias, list(stride), lengths, relu)
