"""The max-pools in plain PyTorch, and their gradient."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from fasti3d.ops.max_pool3d_same.window import covering, pool_size
from fasti3d.same_padding import pad_same, same_padding

_ZEROS = (0, 0, 0)


def max_pool3d_reference(
    x: Tensor,
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int] | None,
    ceil_mode: bool = False,
) -> Tensor:
    """torch's max_pool3d, of a padded copy where ``padding`` is None (SAME); channels-last."""
    if not x.numel():  # of which torch's own refuses some
        shape = (*x.shape[:2], *pool_size(x.shape[2:], kernel, stride, padding, ceil_mode))
        return x.new_empty(shape).contiguous(memory_format=torch.channels_last_3d)
    window = covering(x.shape[2:], kernel, padding)
    if padding is None:
        x, padding = pad_same(x, window, stride, float("-inf")), _ZEROS
    pooled = F.max_pool3d(x, window, list(stride), list(padding), ceil_mode=ceil_mode)
    return pooled.contiguous(memory_format=torch.channels_last_3d)


def max_pool3d_same_reference(x: Tensor, kernel: Sequence[int], stride: Sequence[int]) -> Tensor:
    """With SAME padding."""
    return max_pool3d_reference(x, kernel, stride, None)


def max_pool3d_backward(
    grad: Tensor,
    x: Tensor,
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int] | None,
    ceil_mode: bool = False,
) -> Tensor:
    """Gradient with respect to x: each output's goes to the first maximum of its window, as in torch."""
    if not x.numel():
        return torch.zeros_like(x)
    window, step = covering(x.shape[2:], kernel, padding), list(stride)
    padded = pad_same(x, window, step, float("-inf")) if padding is None else x
    pads = list(padding or _ZEROS)
    _, indices = F.max_pool3d(padded, window, step, pads, ceil_mode=ceil_mode, return_indices=True)
    grad_x = torch.ops.aten.max_pool3d_with_indices_backward(
        grad, padded, window, step, pads, [1, 1, 1], ceil_mode, indices
    )
    if padding is None:
        for axis, (size, k, s) in enumerate(zip(x.shape[2:], window, step, strict=True), start=2):
            grad_x = grad_x.narrow(axis, same_padding(size, k, s)[0], size)
    return grad_x
