"""conv3d_bn_relu in plain PyTorch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from fasti3d.inputs import without_autocast
from fasti3d.ops.conv3d_bn_relu.torch_conv3d import conv3d, conv3d_backward
from fasti3d.runtime.route import compute_dtype
from fasti3d.same_padding import pad_same, same_padding


def conv3d_bn_relu_reference(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: tuple[int, int, int],
    relu: bool,
    padding: tuple[int, int, int] | None = None,
    residual: Tensor | None = None,
) -> Tensor:
    """conv3d with zeros on both sides of each axis, or SAME-padded, plus bias and ``residual``, then ReLU if
    asked for.

    Returned in x's dtype, whatever autocast would make of it.
    """
    dtype = compute_dtype(x.device, x.dtype)
    clip, weight = x.to(dtype), weight.to(dtype)
    if residual is not None:
        # In float32, because torch's convolution in half precision rounds its sums before anything is added.
        dtype = torch.promote_types(dtype, torch.float32)
        clip, weight = clip.to(dtype), weight.to(dtype)
    if padding is None:
        clip, padding = pad_same(clip, weight.shape[2:], stride), (0, 0, 0)
    with without_autocast(x.device):
        y = conv3d(clip, weight, None if bias is None else bias.to(dtype), stride, padding)
    y = y if residual is None else y + residual
    return (F.relu(y) if relu else y).to(x.dtype)


def conv3d_bn_relu_backward(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    y: Tensor,
    stride: Sequence[int],
    relu: bool,
    padding: Sequence[int] | None,
    needed: tuple[bool, bool, bool, bool],
) -> tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None]:
    """Gradients with respect to x, weight, bias and the residual, as far as needed, of the result y."""
    if relu:
        grad = torch.where(y > 0, grad, 0)
    residual_grad = grad if needed[3] else None
    if not any(needed[:3]):
        return None, None, None, residual_grad
    dtype = compute_dtype(x.device, x.dtype)
    clip = x.to(dtype)
    padded = pad_same(clip, weight.shape[2:], stride) if padding is None else clip
    x_grad, weight_grad, bias_grad = conv3d_backward(
        grad.to(dtype), padded, weight.to(dtype), stride, padding or (0, 0, 0), needed[:3]
    )
    if padding is None and x_grad is not None:
        for axis, (size, k, s) in enumerate(zip(x.shape[2:], weight.shape[2:], stride, strict=True), start=2):
            x_grad = x_grad.narrow(axis, same_padding(size, k, s)[0], size)
    return x_grad, weight_grad, bias_grad, residual_grad
