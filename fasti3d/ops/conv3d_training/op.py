"""``fasti3d::conv3d_training``: the operator, its gradient, and the three passes that it is made of."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from fasti3d.inputs import without_autocast
from fasti3d.ops.border import Triple, check_out, triple
from fasti3d.ops.conv3d_training import cpu_forms, gpu_forms, reference
from fasti3d.ops.conv3d_training.checks import check_grad, check_maps, check_weight
from fasti3d.ops.conv3d_training.choose import Problem, choose
from fasti3d.ops.registry import operator
from fasti3d.runtime.extension import instruction_set
from fasti3d.runtime.route import has_kernel
from fasti3d.same_padding import same_shape


def _problem(
    x: Tensor, channels: int, size: Sequence[int], kernel: Sequence[int], stride: Triple, out_channels: int
) -> Problem:
    """Of a map x, which has the batch, dtype and device."""
    return Problem(
        x.shape[0],
        channels,
        out_channels,
        (size[0], size[1], size[2]),
        (kernel[0], kernel[1], kernel[2]),
        stride,
        x.dtype,
        x.device.type,
        _kernels(x),
    )


def _kernels(x: Tensor) -> str | None:
    """What kernels of this library there are for a map."""
    if x.device.type == "cpu":
        return instruction_set()
    return "triton" if has_kernel(x.device, x.dtype) else None


def _target(out: Tensor | None, shape: Sequence[int], like: Tensor, **inputs: Tensor) -> Tensor:
    """``out``, checked, or a new map."""
    if out is None:
        return torch.empty(
            list(shape), dtype=like.dtype, device=like.device, memory_format=torch.channels_last_3d
        )
    if out.device != like.device:
        raise ValueError(f"out is on {out.device}, but the map on {like.device}: move one to the other")
    check_out(out, shape, like.dtype, **inputs)
    return out


@contextmanager
def _as_it_is(x: Tensor) -> Iterator[None]:
    """Without gradients, and in the dtypes given, whatever autocast would make of them."""
    with torch.no_grad(), without_autocast(x.device):
        yield


def forward(x: Tensor, weight: Tensor, stride: Sequence[int], out: Tensor | None = None) -> Tensor:
    """Convolves a map, SAME-padded, without a bias.

    Args:
        x: (N, Cin, T, H, W), channels_last_3d or a channel slice of such a map for speed.
        weight: (Cout, Cin, kt, kh, kw), in x's dtype or float32.
        stride: steps (t, h, w).
        out: where to write, e.g. a channel slice of a wider channels_last_3d map; None: a new map.

    Returns:
        (N, Cout, ceil(T / st), ceil(H / sh), ceil(W / sw)) in x's dtype, channels-last. It records no
        gradient.

    Raises:
        ValueError: shapes, dtypes or devices that do not fit together.
    """
    step = _check_forward(x, weight, stride)
    problem = _problem(x, x.shape[1], x.shape[2:], weight.shape[2:], step, len(weight))
    choice = choose("forward", problem)
    shape = (x.shape[0], len(weight), *problem.output_size)
    with _as_it_is(x):
        if choice.form == "torch" and out is None:
            return _channels_last(reference.forward(x, weight, step))
        y = _target(out, shape, x, x=x, weight=weight)
        if choice.form == "filter":
            cpu_forms.filtered(x, weight, step, y)
        elif choice.form == "gemm":
            cpu_forms.multiplied(x, weight.flatten(1).t(), y)
        else:
            y.copy_(reference.forward(x, weight, step))
        return y


def grad_input(
    grad: Tensor,
    weight: Tensor,
    stride: Sequence[int],
    input_size: Sequence[int],
    out: Tensor | None = None,
) -> Tensor:
    """The gradient with respect to ``forward``'s x.

    Args:
        grad: (N, Cout, T', H', W') of the result, channels_last_3d or a channel slice for speed.
        weight: (Cout, Cin, kt, kh, kw), in grad's dtype or float32.
        stride: steps (t, h, w).
        input_size: (T, H, W) of x.
        out: where to write; None: a new map.

    Returns:
        (N, Cin, T, H, W) in grad's dtype, channels-last.

    Raises:
        ValueError: shapes, dtypes or devices that do not fit together.
    """
    check_maps(grad=grad)
    check_weight(weight, grad.shape[1], 0, grad)
    step = triple("stride must be", stride, 1)
    size = triple("input_size must be", input_size, 1)
    check_grad(grad, size, step)
    channels = weight.shape[1]
    choice = choose("grad_input", _problem(grad, channels, size, weight.shape[2:], step, len(weight)))
    with _as_it_is(grad):
        if choice.form == "torch" and out is None:
            return _channels_last(reference.grad_input(grad, weight, step, size))
        y = _target(out, (grad.shape[0], channels, *size), grad, grad=grad, weight=weight)
        if choice.form == "filter":
            cpu_forms.filtered(grad, weight, step, y, gradient=True)
        elif choice.form == "triton":
            gpu_forms.grad_input(grad, weight, y)
        elif choice.form == "gemm":
            cpu_forms.multiplied(grad, weight.flatten(1), y)
        else:
            y.copy_(reference.grad_input(grad, weight, step, size))
        return y


def grad_weight(grad: Tensor, x: Tensor, stride: Sequence[int], kernel: Sequence[int]) -> Tensor:
    """The gradient with respect to ``forward``'s weight.

    Args:
        grad: (N, Cout, T', H', W') of the result, channels_last_3d or a channel slice for speed.
        x: (N, Cin, T, H, W), likewise.
        stride: steps (t, h, w).
        kernel: (kt, kh, kw) of the weight.

    Returns:
        (Cout, Cin, kt, kh, kw) in the maps' dtype.

    Raises:
        ValueError: shapes, dtypes or devices that do not fit together.
    """
    check_maps(grad=grad, x=x)
    step = triple("stride must be", stride, 1)
    window = triple("kernel must be", kernel, 1)
    if grad.shape[0] != x.shape[0]:
        raise ValueError(f"grad must have x's {x.shape[0]} clips, got {grad.shape[0]}")
    check_grad(grad, x.shape[2:], step)
    choice = choose("grad_weight", _problem(x, x.shape[1], x.shape[2:], window, step, grad.shape[1]))
    with _as_it_is(x):
        if choice.form == "filter":
            return cpu_forms.filtered_grad_weight(grad, x, step, window, choice.frames)
        if choice.form == "gemm":
            return cpu_forms.multiplied_grad_weight(grad, x)
        return reference.grad_weight(grad, x, step, window)


def _check_forward(x: Tensor, weight: Tensor, stride: Sequence[int]) -> Triple:
    check_maps(x=x)
    check_weight(weight, x.shape[1], 1, x)
    return triple("stride must be", stride, 1)


def _channels_last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last_3d)


def _new_map(like: Tensor, *shape: int) -> Tensor:
    return like.new_empty(shape).contiguous(memory_format=torch.channels_last_3d)


def _fake_forward(x: Tensor, weight: Tensor, stride: list[int]) -> Tensor:
    _check_forward(x, weight, stride)
    return _new_map(x, x.shape[0], weight.shape[0], *same_shape(x.shape[2:], stride))


def _fake_grad_input(grad: Tensor, weight: Tensor, stride: list[int], input_size: list[int]) -> Tensor:
    return _new_map(grad, grad.shape[0], weight.shape[1], *input_size)


def _fake_grad_weight(grad: Tensor, x: Tensor, stride: list[int], kernel: list[int]) -> Tensor:
    return x.new_empty(grad.shape[1], x.shape[1], *kernel)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, weight, ctx.stride = inputs
    ctx.save_for_backward(x, weight)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
    x, weight = ctx.saved_tensors
    operators = torch.ops.fasti3d
    x_grad = weight_grad = None
    if ctx.needs_input_grad[0]:
        x_grad = operators.conv3d_training_grad_input(grad, weight, ctx.stride, x.shape[2:])
    if ctx.needs_input_grad[1]:
        weight_grad = operators.conv3d_training_grad_weight(grad, x, ctx.stride, weight.shape[2:])
        weight_grad = weight_grad.to(weight.dtype)
    return x_grad, weight_grad, None


operator(
    "conv3d_training(Tensor x, Tensor weight, int[] stride) -> Tensor",
    forward,
    fake=_fake_forward,
    setup_context=_setup_context,
    backward=_backward,
)
operator(
    "conv3d_training_grad_input(Tensor grad, Tensor weight, int[] stride, SymInt[] input_size) -> Tensor",
    grad_input,
    fake=_fake_grad_input,
)
operator(
    "conv3d_training_grad_weight(Tensor grad, Tensor x, int[] stride, SymInt[] kernel) -> Tensor",
    grad_weight,
    fake=_fake_grad_weight,
)


def conv3d(x: Tensor, weight: Tensor, stride: Sequence[int] = (1, 1, 1)) -> Tensor:
    """Convolves a map, SAME-padded, without a bias; differentiable.

    Args:
        x: (N, Cin, T, H, W), float64, float32, bfloat16 or float16, channels_last_3d for speed.
        weight: (Cout, Cin, kt, kh, kw), in x's dtype or float32.
        stride: steps (t, h, w), at least 1.

    Returns:
        (N, Cout, ceil(T / st), ceil(H / sh), ceil(W / sw)) in x's dtype, channels_last_3d.

    Raises:
        ValueError: shapes, dtypes or devices that do not fit together.

    >>> conv3d(torch.ones(1, 2, 4, 5, 5), torch.ones(3, 2, 1, 1, 1), (2, 1, 1)).shape
    torch.Size([1, 3, 2, 5, 5])
    """
    step = _check_forward(x, weight, stride)
    return torch.ops.fasti3d.conv3d_training(x, weight, list(step))
