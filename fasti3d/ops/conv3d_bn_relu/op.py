"""conv3d + bias + residual + ReLU for users: each call packs the weights again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from fasti3d.ops.border import Triple, check_out, is_same_place
from fasti3d.ops.conv3d_bn_relu.checks import check_fits
from fasti3d.ops.conv3d_bn_relu.geometry import output_size
from fasti3d.ops.conv3d_bn_relu.packed import PackedConv3d
from fasti3d.ops.conv3d_bn_relu.reference import conv3d_bn_relu_reference
from fasti3d.ops.registry import needs_ordinary_path, takes_gradients, takes_operators
from fasti3d.runtime.route import compute_dtype


def conv3d_bn_relu(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Sequence[int] = (1, 1, 1),
    relu: bool = True,
    out: Tensor | None = None,
    padding: Literal["same"] | Sequence[int] = "same",
    residual: Tensor | None = None,
) -> Tensor:
    """Convolves a clip, adds bias and residual and applies ReLU, in one pass and without a padded copy.

    The caller folds a following BatchNorm: ``weight * gamma / sqrt(var + eps)`` and
    ``beta - mean * gamma / sqrt(var + eps)``.

    Args:
        x: (N, Cin, T, H, W), float32, bfloat16 or float16, channels_last_3d for speed.
        weight: (Cout, Cin, kt, kh, kw) in x's dtype or float32.
        bias: (Cout,) or None for zeros.
        stride: steps (t, h, w), at least 1 and less than 2**31.
        relu: whether to zero what is negative.
        out: where to write, e.g. a channel slice of a wider channels_last_3d clip; x's dtype. It shares
            no element with x, weight or bias.
        padding: ``"same"`` for TensorFlow's SAME, which is uneven where a stride asks for it, or zeros
            (t, h, w) on both sides of each axis, as ``torch.nn.Conv3d`` takes them, less than 2**15.
        residual: (N, Cout, T', H', W') in x's dtype, added to the float32 sums before the ReLU, or None. It
            may be ``out``; otherwise it shares no element with ``out``.

    Returns:
        (N, Cout, T', H', W') in x's dtype: ``out`` if given. Sums are float32, rounded once. T' is
        ceil(T / st) with SAME, else floor((T + 2 pt - kt) / st) + 1; H' and W' likewise. Values that are not
        finite reach the outputs whose windows they are in, and no others. Where gradients are needed, the
        call runs as ordinary differentiable PyTorch (then ``out`` must be None).

    Raises:
        ValueError: shapes, dtypes or devices that do not fit together; clips without frames, rows or
            columns; ``out`` with gradients, or one that shares memory with itself or with what is read.

    >>> x, weight = torch.ones(1, 2, 4, 5, 5), torch.ones(3, 2, 1, 1, 1)
    >>> conv3d_bn_relu(x, weight, residual=torch.full((1, 3, 4, 5, 5), 0.5)).unique()
    tensor([2.5000])
    """
    zeros = _check(x, weight, bias, stride, out, padding, residual)
    step = (int(stride[0]), int(stride[1]), int(stride[2]))
    needs_grad = takes_gradients(*(t for t in (x, weight, bias, residual) if t is not None))
    if needs_grad and out is not None:
        raise ValueError("out cannot be given where gradients are needed: call under torch.no_grad()")
    if takes_operators(x):  # graph.py's
        y = torch.ops.fasti3d.conv3d_bn_relu(x, weight, bias, step, zeros, relu, residual)
        return y if out is None else out.copy_(y)
    if needs_grad or needs_ordinary_path(x):
        y = conv3d_bn_relu_reference(x, weight, bias, step, relu, zeros, residual)
        return y if out is None else out.copy_(y)
    dtype = compute_dtype(x.device, x.dtype)
    pack = partial(PackedConv3d.pack, *in_float32(weight, bias), step, relu=relu, dtype=dtype, padding=zeros)
    x = x.contiguous(memory_format=torch.channels_last_3d)
    added = None if residual is None else in_channels_last(residual.to(dtype))
    if dtype == x.dtype:
        return convolve(pack(), x, pack, out, added)
    y = convolve(pack(), x.to(dtype), pack, residual=added)
    return y.to(x.dtype) if out is None else out.copy_(y)


def convolve(
    packed: PackedConv3d,
    x: Tensor,
    pack: Callable[..., PackedConv3d],
    out: Tensor | None = None,
    residual: Tensor | None = None,
) -> Tensor:
    """Convolves x, and again by a back end that does not spread, which ``pack`` makes, if values did."""
    if packed.spreads and residual is not None and out is not None and is_same_place(residual, out):
        residual = residual.clone()  # for the second time, when out is written
    y = packed(x, out, residual=residual)
    # A residual's own values that are not finite have spread no further.
    if packed.spread(y) and (residual is None or packed.spread(packed(x))):
        return pack(winograd=False)(x, out, residual=residual)
    return y


def in_float32(weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor]:
    """What is packed: zeros where there is no bias."""
    return weight.float(), weight.new_zeros(weight.shape[0]).float() if bias is None else bias.float()


def in_channels_last(x: Tensor) -> Tensor:
    """x, copied where its channels are not adjacent."""
    return x if x.stride(1) == 1 else x.contiguous(memory_format=torch.channels_last_3d)


def _check(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    out: Tensor | None,
    padding: Literal["same"] | Sequence[int],
    residual: Tensor | None,
) -> Triple | None:
    """The padding, None for SAME, of arguments that fit together."""
    zeros = check_fits(x, weight, bias, stride, padding, residual)
    if weight.dtype not in (x.dtype, torch.float32):
        raise ValueError(f"weight must be {x.dtype}, like x, or torch.float32, got {weight.dtype}")
    if out is not None:
        if out.device != x.device:
            raise ValueError(f"out is on {out.device}, but x on {x.device}: move one to the other")
        shape = (x.shape[0], weight.shape[0], *output_size(x.shape[2:], weight.shape[2:], stride, zeros))
        check_out(out, shape, x.dtype, residual=residual, x=x, weight=weight, bias=bias)
    return zeros
