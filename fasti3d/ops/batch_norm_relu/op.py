"""``fasti3d::batch_norm_stats_`` and the passes around it: schemas, checks, and what the training step calls.

A map is (N, C, T, H, W) with adjacent channels: channels_last_3d, or a channel slice of such a tensor. What
belongs to channels is a (C,) vector, float32 for maps of at most 32 bits, float64 for those of float64.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fasti3d.ops.batch_norm_relu.reference import (
    batch_norm_relu_backward_reference,
    batch_norm_relu_sums_reference,
    batch_norm_stats_reference,
    scale_shift_relu_reference,
)
from fasti3d.ops.border import check_apart, check_map, check_out, check_vectors, sum_dtype
from fasti3d.ops.on_gpu import on_gpu
from fasti3d.ops.registry import operator

# Of the Triton kernels.
_LAUNCH = "fasti3d.ops.batch_norm_relu.launch"
# What the kernels for the CPU compute.
_CPU_DTYPES = (torch.float32, torch.bfloat16)


def _check_gradient(grad: Tensor, x: Tensor) -> None:
    check_map(grad, "grad")
    if grad.shape != x.shape or grad.dtype != x.dtype:
        raise ValueError(
            f"grad must be {x.dtype} of x's shape {tuple(x.shape)}, got {grad.dtype} of {tuple(grad.shape)}"
        )


def _stats(x: Tensor, mean: Tensor, var: Tensor) -> None:
    _check_stats(x, mean, var)
    batch_norm_stats_reference(x, mean, var)


def _check_stats(x: Tensor, mean: Tensor, var: Tensor) -> None:
    check_map(x)
    if not x.numel():
        raise ValueError(f"x must have clips, channels and pixels, got (N, C, T, H, W) {tuple(x.shape)}")
    check_vectors(x, mean=mean, var=var)
    check_apart({"mean": mean, "var": var}, x=x)


def _scale_shift_relu(x: Tensor, scale: Tensor, shift: Tensor, out: Tensor) -> None:
    _check_scale_shift_relu(x, scale, shift, out)
    scale_shift_relu_reference(x, scale, shift, out)


def _check_scale_shift_relu(x: Tensor, scale: Tensor, shift: Tensor, out: Tensor) -> None:
    check_map(x)
    check_vectors(x, scale=scale, shift=shift)
    check_out(out, x.shape, x.dtype, x=x, scale=scale, shift=shift)


def _sums(
    grad: Tensor, x: Tensor, mean: Tensor, scale: Tensor, shift: Tensor, total: Tensor, dot: Tensor
) -> None:
    _check_sums(grad, x, mean, scale, shift, total, dot)
    batch_norm_relu_sums_reference(grad, x, mean, scale, shift, total, dot)


def _check_sums(
    grad: Tensor, x: Tensor, mean: Tensor, scale: Tensor, shift: Tensor, total: Tensor, dot: Tensor
) -> None:
    check_map(x)
    _check_gradient(grad, x)
    check_vectors(x, mean=mean, scale=scale, shift=shift, total=total, dot=dot)
    read = {"grad": grad, "x": x, "mean": mean, "scale": scale, "shift": shift}
    check_apart({"total": total, "dot": dot}, **read)


def _backward(
    grad: Tensor,
    x: Tensor,
    mean: Tensor,
    scale: Tensor,
    shift: Tensor,
    slope: Tensor,
    offset: Tensor,
    out: Tensor,
) -> None:
    _check_backward(grad, x, mean, scale, shift, slope, offset, out)
    batch_norm_relu_backward_reference(grad, x, mean, scale, shift, slope, offset, out)


def _check_backward(
    grad: Tensor,
    x: Tensor,
    mean: Tensor,
    scale: Tensor,
    shift: Tensor,
    slope: Tensor,
    offset: Tensor,
    out: Tensor,
) -> None:
    check_map(x)
    _check_gradient(grad, x)
    vectors = {"mean": mean, "scale": scale, "shift": shift, "slope": slope, "offset": offset}
    check_vectors(x, **vectors)
    check_out(out, x.shape, x.dtype, grad=grad, x=x, **vectors)


operator(
    "batch_norm_stats_(Tensor x, Tensor(a!) mean, Tensor(b!) var) -> ()",
    _stats,
    fake=_check_stats,
    cuda=on_gpu(_LAUNCH, "batch_norm_stats", _check_stats, batch_norm_stats_reference),
)
operator(
    "scale_shift_relu_(Tensor x, Tensor scale, Tensor shift, Tensor(a!) out) -> ()",
    _scale_shift_relu,
    fake=_check_scale_shift_relu,
    cuda=on_gpu(_LAUNCH, "scale_shift_relu", _check_scale_shift_relu, scale_shift_relu_reference),
)
operator(
    "batch_norm_relu_sums_(Tensor grad, Tensor x, Tensor mean, Tensor scale, Tensor shift, "
    "Tensor(a!) total, Tensor(b!) dot) -> ()",
    _sums,
    fake=_check_sums,
    cuda=on_gpu(_LAUNCH, "batch_norm_relu_sums", _check_sums, batch_norm_relu_sums_reference),
)
operator(
    "batch_norm_relu_backward_(Tensor grad, Tensor x, Tensor mean, Tensor scale, Tensor shift, "
    "Tensor slope, Tensor offset, Tensor(a!) out) -> ()",
    _backward,
    fake=_check_backward,
    cuda=on_gpu(_LAUNCH, "batch_norm_relu_backward", _check_backward, batch_norm_relu_backward_reference),
)


def _run(
    kernel: Callable[..., Any], plain: Callable[..., None], x: Tensor, arguments: tuple[Any, ...]
) -> None:
    """The operator, or the reference for what the kernels of the CPU do not compute."""
    if x.device.type == "cpu" and x.dtype not in _CPU_DTYPES:
        plain(*arguments)
    else:
        kernel(*arguments)


def batch_norm_stats(x: Tensor) -> tuple[Tensor, Tensor]:
    """Compute the mean and the biased variance of each channel of a map.

    Args:
        x: a map of at least one pixel, float32, bfloat16, float16 or float64.

    Returns:
        mean, var: (C,), float32, float64 of a float64 map. They keep their digits where the mean is far
            larger than the deviation, and are bit-equal from run to run.

    Example:
        >>> mean, var = batch_norm_stats(x)

    Source: Ioffe & Szegedy, "Batch Normalization" (ICML 2015); variances of parts are joined as in Chan,
    Golub & LeVeque (1979).
    """
    both = torch.empty(2, x.shape[1], dtype=sum_dtype(x.dtype), device=x.device)
    _run(torch.ops.fasti3d.batch_norm_stats_, _stats, x, (x, both[0], both[1]))
    return both[0], both[1]


def scale_shift_relu_(x: Tensor, scale: Tensor, shift: Tensor, out: Tensor) -> Tensor:
    """Write ``max(0, x * scale + shift)``, rounded once, into a map.

    Args:
        x: a map.
        scale, shift: a number per channel.
        out: a map of x's shape and dtype in other memory, such as a channel slice of a concatenation.

    Returns:
        out

    Example:
        >>> scale_shift_relu_(x, scale, shift, wide[:, 64:192])
    """
    _run(torch.ops.fasti3d.scale_shift_relu_, _scale_shift_relu, x, (x, scale, shift, out))
    return out


def batch_norm_relu_sums(
    grad: Tensor, x: Tensor, mean: Tensor, scale: Tensor, shift: Tensor
) -> tuple[Tensor, Tensor]:
    """Sum the gradient of a batch norm with ReLU over pixels: pass one of the gradient.

    Args:
        grad: gradient of the ReLU's output, a map of x's shape and dtype, such as a slice.
        x: the batch norm's input, a map.
        mean, scale, shift: a number per channel; the ReLU's input was ``x * scale + shift``.

    Returns:
        total, dot: (C,) sums over pixels of d and of ``d * (x - mean)``, d being ``grad`` where the ReLU's
            input is above 0 or NaN; bit-equal from run to run.

    Example:
        >>> total, dot = batch_norm_relu_sums(grad, x, mean, weight * invstd, bias - mean * weight * invstd)
        >>> grad_bias, grad_weight = total, dot * invstd
    """
    both = torch.empty(2, x.shape[1], dtype=sum_dtype(x.dtype), device=x.device)
    arguments = (grad, x, mean, scale, shift, both[0], both[1])
    _run(torch.ops.fasti3d.batch_norm_relu_sums_, _sums, x, arguments)
    return both[0], both[1]


def batch_norm_relu_backward_(
    grad: Tensor,
    x: Tensor,
    mean: Tensor,
    scale: Tensor,
    shift: Tensor,
    slope: Tensor,
    offset: Tensor,
    out: Tensor,
) -> Tensor:
    """Write the gradient of a batch norm's input, ``d * scale + (x - mean) * slope + offset``: pass two.

    Args:
        grad, x, mean, scale, shift, d: as ``batch_norm_relu_sums`` has them.
        slope, offset: a number per channel. For statistics over M pixels ``-scale * invstd**2 * dot / M`` and
            ``-scale * total / M``; zeros where the statistics are constants.
        out: a map of x's shape and dtype in other memory.

    Returns:
        out

    Example:
        >>> batch_norm_relu_backward_(grad, x, mean, scale, shift, slope, offset, torch.empty_like(x))
    """
    arguments = (grad, x, mean, scale, shift, slope, offset, out)
    _run(torch.ops.fasti3d.batch_norm_relu_backward_, _backward, x, arguments)
    return out
