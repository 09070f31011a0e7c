"""torch's conv3d and its gradients, right where oneDNN's bfloat16 kernels for AMX are not.

At a stride along w of which the output has a single column, these read beyond the clip (torch 2.13): the
column is the same without the stride. Where they pad along time, the gradient of some weights never ends on
several threads: zeros are copied around the clip there.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def conv3d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    padding: str | Sequence[int] = (0, 0, 0),
    dilation: Sequence[int] = (1, 1, 1),
    groups: int = 1,
) -> Tensor:
    """As ``torch.nn.functional.conv3d``.

    >>> x, weight = torch.ones(1, 2, 3, 3, 3), torch.ones(4, 2, 3, 3, 3)
    >>> conv3d(x, weight, None, (1, 1, 2)).flatten().tolist()
    [54.0, 54.0, 54.0, 54.0]
    """
    columns = _columns(x, weight, stride, padding, dilation)
    if columns is not None:
        x, stride, padding = _one_window(x, columns, stride, padding)
    return F.conv3d(x, weight, bias, tuple(stride), padding, tuple(dilation), groups)


def conv3d_backward(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    needed: tuple[bool, bool, bool],
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Gradients of ``conv3d`` with respect to x, weight and bias, as far as needed."""
    if x.dtype == torch.bfloat16 and x.device.type == "cpu" and needed[1] and padding[0]:
        frames, padded = padding[0], F.pad(x, (0, 0, 0, 0, padding[0], padding[0]))
        x_grad, w_grad, b_grad = conv3d_backward(grad, padded, weight, stride, (0, *padding[1:]), needed)
        return None if x_grad is None else x_grad.narrow(2, frames, x.shape[2]), w_grad, b_grad
    columns = _columns(x, weight, stride, padding, (1, 1, 1))
    width, before = x.shape[4], padding[2]
    if columns is not None:
        x, stride, padding = _one_window(x, columns, stride, padding)
    zeros, ones = [0, 0, 0], [1, 1, 1]
    x_grad, *others = torch.ops.aten.convolution_backward(
        grad, x, weight, [weight.shape[0]], stride, padding, ones, False, zeros, 1, needed
    )
    if columns is not None and x_grad is not None:
        # Its columns in their places: without those of zeros, and none where the window does not reach.
        x_grad = F.pad(x_grad, (-before, width + before - columns))
    return x_grad, *others


def _columns(
    x: Tensor,
    weight: Tensor,
    stride: Sequence[int],
    padding: str | Sequence[int],
    dilation: Sequence[int],
) -> int | None:
    """Columns of the window, if it has a stride along w and a single place."""
    if isinstance(padding, str) or stride[2] == 1:
        return None
    columns = (weight.shape[4] - 1) * dilation[2] + 1
    return columns if x.shape[4] + 2 * padding[2] - columns < stride[2] else None


def _one_window(
    x: Tensor, columns: int, stride: Sequence[int], padding: str | Sequence[int]
) -> tuple[Tensor, Sequence[int], Sequence[int]]:
    """x with its zeros along w, cut to the only window, and what is left of stride and padding."""
    assert not isinstance(padding, str)
    x = F.pad(x, (padding[2], padding[2]))[..., :columns]
    return x, (*stride[:2], 1), (*padding[:2], 0)
