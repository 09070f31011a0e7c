"""max_pool3d_same in plain PyTorch, and its gradient."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from fasti3d.same_padding import pad_same, same_padding, same_shape


def covering(x: Tensor, kernel: list[int]) -> list[int]:
    """A kernel of the same results and no longer than it need be: one of twice an axis covers all of it,
    wherever it stands.
    """
    return [min(k, 2 * n) for k, n in zip(kernel, x.shape[2:], strict=True)]


def max_pool3d_same_reference(x: Tensor, kernel: list[int], stride: list[int]) -> Tensor:
    """The operator as pad + max_pool3d, channels-last like the operator's output."""
    if not x.numel():  # of which torch's own refuses some
        shape = (*x.shape[:2], *same_shape(x.shape[2:], stride))
        return x.new_empty(shape).contiguous(memory_format=torch.channels_last_3d)
    kernel = covering(x, kernel)
    pooled = F.max_pool3d(pad_same(x, kernel, stride, float("-inf")), kernel, stride)
    return pooled.contiguous(memory_format=torch.channels_last_3d)


def max_pool3d_same_backward(grad: Tensor, x: Tensor, kernel: list[int], stride: list[int]) -> Tensor:
    """Gradient with respect to x: each output's goes to the first maximum of its window, as in torch."""
    if not x.numel():
        return torch.zeros_like(x)
    kernel = covering(x, kernel)
    padded = pad_same(x, kernel, stride, float("-inf"))
    _, indices = F.max_pool3d(padded, kernel, stride, return_indices=True)
    grad_padded = torch.ops.aten.max_pool3d_with_indices_backward(
        grad, padded, kernel, stride, [0, 0, 0], [1, 1, 1], False, indices
    )
    for axis, (size, k, s) in enumerate(zip(x.shape[2:], kernel, stride, strict=True), start=2):
        grad_padded = grad_padded.narrow(axis, same_padding(size, k, s)[0], size)
    return grad_padded
