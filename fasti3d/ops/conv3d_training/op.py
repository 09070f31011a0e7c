"""``fasti3d::conv3d_training``: the operator, its gradient, and the three passes that it is made of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fasti3d.ops.border import check_out, triple
from fasti3d.ops.conv3d_bn_relu.geometry import output_size
from fasti3d.ops.conv3d_training import reference
from fasti3d.ops.registry import operator

_DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


def _check_maps(**maps: Tensor) -> None:
    (_, first), *_ = maps.items()
    for name, tensor in maps.items():
        if tensor.dim() != 5:
            raise ValueError(
                f"{name} must have 5 dimensions (N, C, T, H, W), got shape {tuple(tensor.shape)}"
            )
        if tensor.dtype not in _DTYPES or tensor.dtype != first.dtype:
            raise ValueError(
                f"{name} must be float64, float32, bfloat16 or float16, and the maps of one dtype, got "
                f"{tensor.dtype}"
            )
        if tensor.device != first.device:
            raise ValueError(
                f"{name} is on {tensor.device}, and not on {first.device}: move one to the other"
            )
        if 0 in tensor.shape[1:]:
            raise ValueError(
                f"{name} must have channels, frames, rows and columns, got {tuple(tensor.shape)}"
            )


def _check_weight(weight: Tensor, channels: int, axis: int, of: Tensor) -> None:
    if weight.dim() != 5 or weight.shape[axis] != channels or 0 in weight.shape:
        wanted = ["Cout", "Cin", "kt", "kh", "kw"]
        wanted[axis] = str(channels)
        raise ValueError(
            f"weight must be ({', '.join(wanted)}), none of them 0, got shape {tuple(weight.shape)}"
        )
    if weight.device != of.device:
        raise ValueError(f"weight is on {weight.device}, but the maps on {of.device}: move one to the other")
    if weight.dtype not in (of.dtype, torch.float32):
        raise ValueError(f"weight must be {of.dtype}, like the maps, or torch.float32, got {weight.dtype}")


def _into(y: Tensor, out: Tensor | None, **inputs: Tensor) -> Tensor:
    if out is None:
        return y.contiguous(memory_format=torch.channels_last_3d)
    check_out(out, y.shape, y.dtype, **inputs)
    return out.copy_(y)


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
    _check_maps(x=x)
    _check_weight(weight, x.shape[1], 1, x)
    step = triple("stride must be", stride, 1)
    with torch.no_grad():
        return _into(reference.forward(x, weight, step), out, x=x, weight=weight)


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
    _check_maps(grad=grad)
    _check_weight(weight, grad.shape[1], 0, grad)
    step = triple("stride must be", stride, 1)
    size = triple("input_size must be", input_size, 1)
    _check_size(grad, size, step)
    with torch.no_grad():
        return _into(reference.grad_input(grad, weight, step, size), out, grad=grad, weight=weight)


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
    _check_maps(grad=grad, x=x)
    step = triple("stride must be", stride, 1)
    window = triple("kernel must be", kernel, 1)
    if grad.shape[0] != x.shape[0]:
        raise ValueError(f"grad must have x's {x.shape[0]} clips, got {grad.shape[0]}")
    _check_size(grad, x.shape[2:], step)
    with torch.no_grad():
        return reference.grad_weight(grad, x, step, window)


def _check_size(grad: Tensor, size: Sequence[int], stride: Sequence[int]) -> None:
    expected = output_size(size, (1, 1, 1), stride, None)
    if list(grad.shape[2:]) != expected:
        raise ValueError(
            f"grad must have (T, H, W) {tuple(expected)}, the result's for x of {tuple(size)} at stride "
            f"{tuple(stride)}, got {tuple(grad.shape[2:])}"
        )


def _fake(x: Tensor, weight: Tensor, stride: list[int]) -> Tensor:
    _check_maps(x=x)
    _check_weight(weight, x.shape[1], 1, x)
    shape = (x.shape[0], weight.shape[0], *output_size(x.shape[2:], weight.shape[2:], stride, None))
    return torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last_3d)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, weight, ctx.stride = inputs
    ctx.save_for_backward(x, weight)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
    x, weight = ctx.saved_tensors
    x_grad = weight_grad = None
    if ctx.needs_input_grad[0]:
        x_grad = grad_input(grad, weight, ctx.stride, x.shape[2:])
    if ctx.needs_input_grad[1]:
        weight_grad = grad_weight(grad, x, ctx.stride, weight.shape[2:]).to(weight.dtype)
    return x_grad, weight_grad, None


operator(
    "conv3d_training(Tensor x, Tensor weight, int[] stride) -> Tensor",
    forward,
    fake=_fake,
    setup_context=_setup_context,
    backward=_backward,
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
    _check_maps(x=x)
    _check_weight(weight, x.shape[1], 1, x)
    step = triple("stride must be", stride, 1)
    return torch.ops.fasti3d.conv3d_training(x, weight, list(step))
