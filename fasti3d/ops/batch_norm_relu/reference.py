"""Batch norm with ReLU in training mode in plain PyTorch, for every floating dtype and device."""

from __future__ import annotations

import torch
from torch import Tensor

from fasti3d.ops.border import sum_dtype

_PIXELS = (0, 2, 3, 4)


def _channels(values: Tensor) -> Tensor:
    return values.view(-1, 1, 1, 1)


def batch_norm_stats_reference(x: Tensor, mean: Tensor, var: Tensor) -> None:
    found, average = torch.var_mean(x.to(sum_dtype(x.dtype)), _PIXELS, correction=0)
    mean.copy_(average)
    var.copy_(found)


def scale_shift_relu_reference(x: Tensor, scale: Tensor, shift: Tensor, out: Tensor) -> None:
    out.copy_((x * _channels(scale) + _channels(shift)).relu())


def _below_relu(grad: Tensor, x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """The gradient before the ReLU, which passes it where its input is above 0 or NaN."""
    stopped = x * _channels(scale) + _channels(shift) <= 0
    return grad.to(sum_dtype(x.dtype)).masked_fill(stopped, 0)


def batch_norm_relu_sums_reference(
    grad: Tensor, x: Tensor, mean: Tensor, scale: Tensor, shift: Tensor, total: Tensor, dot: Tensor
) -> None:
    below = _below_relu(grad, x, scale, shift)
    total.copy_(below.sum(_PIXELS))
    dot.copy_((below * (x - _channels(mean))).sum(_PIXELS))


def batch_norm_relu_backward_reference(
    grad: Tensor,
    x: Tensor,
    mean: Tensor,
    scale: Tensor,
    shift: Tensor,
    slope: Tensor,
    offset: Tensor,
    out: Tensor,
) -> None:
    below = _below_relu(grad, x, scale, shift) * _channels(scale)
    out.copy_(below + (x - _channels(mean)) * _channels(slope) + _channels(offset))
