"""depthwise_conv3d in plain PyTorch, and its gradient."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from fasti3d.inputs import without_autocast
from fasti3d.same_padding import pad_same, same_padding

_ZEROS = (0, 0, 0)


def depthwise_conv3d_reference(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int] | None,
    relu: bool,
) -> Tensor:
    """conv3d of as many groups as channels, plus bias, then ReLU if asked for; ``padding`` None is SAME.

    Whatever autocast would make of it, half precision is summed in float32 and rounded once.
    """
    dtype = torch.promote_types(x.dtype, torch.float32)
    clip = x.to(dtype)
    if padding is None:
        clip, padding = pad_same(clip, weight.shape[2:], stride), _ZEROS
    bias = None if bias is None else bias.to(dtype)
    with without_autocast(x.device):
        y = F.conv3d(clip, weight.to(dtype), bias, tuple(stride), tuple(padding), groups=weight.shape[0])
    return (F.relu(y) if relu else y).to(x.dtype)


def depthwise_conv3d_backward(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    y: Tensor,
    stride: Sequence[int],
    padding: Sequence[int] | None,
    relu: bool,
    needed: tuple[bool, bool, bool],
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Gradients with respect to x, weight and bias in float32, as far as needed, of the result y."""
    if relu:
        grad = torch.where(y > 0, grad, 0)
    clip = x.float()
    padded = pad_same(clip, weight.shape[2:], stride) if padding is None else clip
    x_grad, weight_grad, bias_grad = torch.ops.aten.convolution_backward(
        grad.float(),
        padded,
        weight.float(),
        [weight.shape[0]],
        stride,
        padding or _ZEROS,
        [1, 1, 1],
        False,
        _ZEROS,
        weight.shape[0],
        needed,
    )
    if padding is None and needed[0]:
        for axis, (size, k, s) in enumerate(zip(x.shape[2:], weight.shape[2:], stride, strict=True), start=2):
            x_grad = x_grad.narrow(axis, same_padding(size, k, s)[0], size)
    return x_grad, weight_grad, bias_grad
