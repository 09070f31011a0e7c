"""``fasti3d::conv3d_bn_relu``: the convolution as an operator for the graphs of compilers."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from fasti3d.ops.conv3d_bn_relu.checks import check_fits
from fasti3d.ops.conv3d_bn_relu.geometry import output_size
from fasti3d.ops.conv3d_bn_relu.op import convolve, in_channels_last, in_float32
from fasti3d.ops.conv3d_bn_relu.packed import PackedConv3d
from fasti3d.ops.conv3d_bn_relu.reference import conv3d_bn_relu_backward
from fasti3d.ops.conv3d_bn_relu.space_to_depth import FEW_CHANNELS
from fasti3d.ops.fingerprint import fingerprint
from fasti3d.ops.registry import operator
from fasti3d.runtime.route import compute_dtype
from fasti3d.utils.derived import DerivedCaches, memory_of

# By the weight.
_packed: DerivedCaches[PackedConv3d] = DerivedCaches()


def _pack(
    weight: Tensor,
    bias: Tensor | None,
    stride: tuple[int, int, int],
    padding: tuple[int, int, int] | None,
    relu: bool,
    dtype: torch.dtype,
) -> tuple[PackedConv3d, Callable[..., PackedConv3d]]:
    """The packed convolution for the weights as they are now, and what packs them.

    On the CPU, where weights can be looked at and packing takes longer than that, it is kept as long as
    the weight lives. On a GPU it is a copy in another order, and none in channels_last_3d.
    """

    pack = partial(
        PackedConv3d.pack, *in_float32(weight, bias), stride, relu=relu, dtype=dtype, padding=padding
    )

    if weight.device.type != "cpu":
        return pack(), pack
    tensors = [weight] if bias is None else [weight, bias]
    key = (stride, padding, relu, dtype, fingerprint(tensors))
    return _packed.of(weight).get(key, pack, lambda: memory_of(tensors)), pack


def _conv3d_bn_relu(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: list[int],
    padding: list[int] | None,
    relu: bool,
    residual: Tensor | None = None,
) -> Tensor:
    check_fits(x, weight, bias, stride, padding, residual)
    dtype = compute_dtype(x.device, x.dtype)
    layout = torch.channels_last_3d
    step = (stride[0], stride[1], stride[2])
    zeros = None if padding is None else (padding[0], padding[1], padding[2])
    with torch.no_grad(), torch.autocast(x.device.type, enabled=False):
        packed, pack = _pack(weight, bias, step, zeros, relu, dtype)
        clip = x.to(dtype)
        if x.shape[1] >= FEW_CHANNELS:
            clip = clip.contiguous(memory_format=layout)
        added = None if residual is None else in_channels_last(residual.to(dtype))
        y = convolve(packed, clip, pack, residual=added)
        return y.to(x.dtype).contiguous(memory_format=layout)


def _fake(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: list[int],
    padding: list[int] | None,
    relu: bool,
    residual: Tensor | None = None,
) -> Tensor:
    check_fits(x, weight, bias, stride, padding, residual)
    shape = (x.shape[0], weight.shape[0], *output_size(x.shape[2:], weight.shape[2:], stride, padding))
    return torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last_3d)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, weight, bias, ctx.stride, ctx.padding, ctx.relu, _ = inputs
    ctx.bias_dtype = None if bias is None else bias.dtype
    ctx.save_for_backward(x, weight, output)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    x, weight, y = ctx.saved_tensors
    # An argument left at its default is not in the tuple.
    needed = (*ctx.needs_input_grad[:3], any(ctx.needs_input_grad[6:]))
    x_grad, weight_grad, bias_grad, residual_grad = conv3d_bn_relu_backward(
        grad, x, weight, y, ctx.stride, ctx.relu, ctx.padding, needed
    )
    if x_grad is not None:
        x_grad = x_grad.to(x.dtype)
    if weight_grad is not None:
        weight_grad = weight_grad.to(weight.dtype)
    if bias_grad is not None:
        bias_grad = bias_grad.to(ctx.bias_dtype)
    return x_grad, weight_grad, bias_grad, None, None, None, residual_grad


operator(
    "conv3d_bn_relu(Tensor x, Tensor weight, Tensor? bias, int[] stride, int[]? padding, bool relu, "
    "Tensor? residual=None) -> Tensor",
    _conv3d_bn_relu,
    fake=_fake,
    setup_context=_setup_context,
    backward=_backward,
)
