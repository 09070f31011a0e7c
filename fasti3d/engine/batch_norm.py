"""Batch norm folded into the convolution before it."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def fold(conv: nn.Conv3d, bn: nn.modules.batchnorm._BatchNorm | None) -> tuple[Tensor, Tensor]:
    """Weight and bias of a convolution with the eval-mode batch norm behind it folded in, in float32."""
    weight = conv.weight.detach().float()
    bias = weight.new_zeros(weight.shape[0]) if conv.bias is None else conv.bias.detach().float()
    if bn is None:
        return weight, bias
    assert bn.running_mean is not None
    assert bn.running_var is not None
    deviation = torch.sqrt(bn.running_var.float() + bn.eps)
    scale = bn.weight.detach().float() / deviation if bn.affine else 1 / deviation
    shift = (bias - bn.running_mean.float()) * scale
    return weight * scale[:, None, None, None, None], bn.bias.detach().float() + shift if bn.affine else shift
