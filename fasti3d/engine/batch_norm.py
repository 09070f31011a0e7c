"""Batch norm folded into the convolution before it."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def fold(conv: nn.Conv3d, bn: nn.modules.batchnorm._BatchNorm | None) -> tuple[Tensor, Tensor]:
    """Weight and bias of a convolution with the following eval-mode batch norm folded in, in float32."""
    if bn is None:
        return _in_float32(conv.weight, conv.bias)
    assert bn.running_mean is not None
    assert bn.running_var is not None
    scale, shift = (bn.weight, bn.bias) if bn.affine else (None, None)
    return fold_tensors(conv.weight, conv.bias, bn.running_mean, bn.running_var, scale, shift, bn.eps)


def fold_tensors(
    weight: Tensor,
    bias: Tensor | None,
    mean: Tensor,
    var: Tensor,
    gamma: Tensor | None,
    beta: Tensor | None,
    eps: float,
) -> tuple[Tensor, Tensor]:
    """The same of the tensors of both."""
    weight, bias = _in_float32(weight, bias)
    if weight.is_meta:  # whose arithmetic would import torch's compiler
        return weight, bias
    deviation = torch.sqrt(var.float() + eps)
    scale = 1 / deviation if gamma is None else gamma.detach().float() / deviation
    shift = (bias - mean.float()) * scale
    folded = weight * scale[:, None, None, None, None]
    return folded, shift if beta is None else beta.detach().float() + shift


def _in_float32(weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor]:
    weight = weight.detach().float()
    return weight, weight.new_zeros(weight.shape[0]) if bias is None else bias.detach().float()
