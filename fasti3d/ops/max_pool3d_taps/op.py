"""``fasti3d::max_pool3d_taps_`` and its gradient: schemas, checks, and what the training step calls."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from fasti3d.ops.border import check_apart, check_map, check_out, triple
from fasti3d.ops.max_pool3d_taps.reference import (
    max_pool3d_taps_backward_reference,
    max_pool3d_taps_reference,
)
from fasti3d.ops.on_gpu import on_gpu
from fasti3d.ops.registry import operator
from fasti3d.same_padding import same_shape

# Taps of a window, which a byte counts.
MAX_TAPS = 256
# Of the Triton kernels.
_LAUNCH = "fasti3d.ops.max_pool3d_taps.launch"
_CPU_DTYPES = (torch.float32, torch.bfloat16)


def _check_window(kernel: Sequence[int], stride: Sequence[int]) -> None:
    window = triple("kernel must be", kernel, 1)
    triple("stride must be", stride, 1)
    if math.prod(window) > MAX_TAPS:
        raise ValueError(f"kernel must have at most {MAX_TAPS} taps, which a byte counts, got {window}")


def _check(x: Tensor, kernel: Sequence[int], stride: Sequence[int], out: Tensor, taps: Tensor) -> None:
    check_map(x)
    _check_window(kernel, stride)
    shape = (*x.shape[:2], *same_shape(x.shape[2:], stride))
    check_out(out, shape, x.dtype, x=x)
    check_out(taps, shape, torch.uint8, "taps", x=x)
    check_apart({"out": out, "taps": taps})


def _pool(x: Tensor, kernel: list[int], stride: list[int], out: Tensor, taps: Tensor) -> None:
    _check(x, kernel, stride, out, taps)
    if out.numel():
        max_pool3d_taps_reference(x, kernel, stride, out, taps)


def _check_backward(
    grad: Tensor, taps: Tensor, kernel: Sequence[int], stride: Sequence[int], out: Tensor
) -> None:
    check_map(grad, "grad")
    _check_window(kernel, stride)
    if taps.shape != grad.shape or taps.dtype != torch.uint8 or (taps.shape[1] > 1 and taps.stride(1) != 1):
        raise ValueError(
            f"taps must be channels-last torch.uint8 of grad's shape {tuple(grad.shape)}, got "
            f"{taps.dtype} of {tuple(taps.shape)} with strides {taps.stride()}"
        )
    check_out(out, (*grad.shape[:2], *out.shape[2:]), grad.dtype, grad=grad, taps=taps)
    if same_shape(out.shape[2:], stride) != list(grad.shape[2:]):
        raise ValueError(
            f"out must have a (T, H, W) that stride {tuple(stride)} makes grad's {tuple(grad.shape[2:])}, "
            f"got {tuple(out.shape[2:])}"
        )


def _backward(grad: Tensor, taps: Tensor, kernel: list[int], stride: list[int], out: Tensor) -> None:
    _check_backward(grad, taps, kernel, stride, out)
    if out.numel():
        max_pool3d_taps_backward_reference(grad, taps, kernel, stride, out)


operator(
    "max_pool3d_taps_(Tensor x, int[] kernel, int[] stride, Tensor(a!) out, Tensor(b!) taps) -> ()",
    _pool,
    fake=_check,
    cuda=on_gpu(_LAUNCH, "max_pool3d_taps", _check, max_pool3d_taps_reference),
)
operator(
    "max_pool3d_taps_backward_(Tensor grad, Tensor taps, int[] kernel, int[] stride, Tensor(a!) out) -> ()",
    _backward,
    fake=_check_backward,
    cuda=on_gpu(_LAUNCH, "max_pool3d_taps_backward", _check_backward, max_pool3d_taps_backward_reference),
)


def _has_kernel(x: Tensor) -> bool:
    return x.device.type != "cpu" or x.dtype in _CPU_DTYPES


def max_pool3d_taps(x: Tensor, kernel: Sequence[int], stride: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Max-pool a map with TensorFlow's SAME padding, which never wins, and say which tap of each window won.

    Args:
        x: (N, C, T, H, W) with adjacent channels, float32, bfloat16, float16 or float64.
        kernel: window lengths (t, h, w), at most ``MAX_TAPS`` taps together.
        stride: window steps (t, h, w).

    Returns:
        y: (N, C, ceil(T/st), ceil(H/sh), ceil(W/sw)) in x's dtype, channels_last_3d.
        taps: uint8 of the same shape and layout; tap ``(a * kh + b) * kw + c`` of a window is at frame a, row
            b, column c of it. It is the first of the largest, or the last NaN, as in torch.

    Example:
        >>> y, taps = max_pool3d_taps(x, (1, 3, 3), (1, 2, 2))

    Source: TensorFlow's SAME rule, as in the released I3D network (deepmind/kinetics-i3d).
    """
    shape = (*x.shape[:2], *same_shape(x.shape[2:], stride))
    y = torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last_3d)
    taps = torch.empty_like(y, dtype=torch.uint8)
    run = torch.ops.fasti3d.max_pool3d_taps_ if _has_kernel(x) else _pool
    run(x, list(kernel), list(stride), y, taps)
    return y, taps


def max_pool3d_taps_backward(
    grad: Tensor, taps: Tensor, kernel: Sequence[int], stride: Sequence[int], size: Sequence[int]
) -> Tensor:
    """Compute the gradient of ``max_pool3d_taps`` with respect to x, where each value gathers its windows'.

    Args:
        grad: gradient of y, with adjacent channels, in x's dtype.
        taps: those that ``max_pool3d_taps`` gave.
        kernel, stride: the same.
        size: (T, H, W) of x.

    Returns:
        (N, C, T, H, W) in grad's dtype, channels_last_3d; sums are float32 at least, in the order of taps.

    Example:
        >>> grad_x = max_pool3d_taps_backward(grad, taps, (1, 3, 3), (1, 2, 2), x.shape[2:])
    """
    shape = (*grad.shape[:2], *size)
    out = torch.empty(shape, dtype=grad.dtype, device=grad.device, memory_format=torch.channels_last_3d)
    run = torch.ops.fasti3d.max_pool3d_taps_backward_ if _has_kernel(grad) else _backward
    run(grad, taps, list(kernel), list(stride), out)
    return out
