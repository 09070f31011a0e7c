"""What the Triton kernel computes, in plain PyTorch, from the weights that it reads."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from fasti3d.inputs import without_autocast


def pooled_conv3d(x: Tensor, weight: Tensor, bias: Tensor, relu: bool) -> Tensor:
    """As ``launch.pooled_conv3d``, computed in x's dtype, into a new clip."""
    pooled = F.max_pool3d(x, 3, stride=1, padding=1)
    with without_autocast(x.device):
        y = F.conv3d(pooled, weight.reshape(len(weight), -1, 1, 1, 1), bias.to(x.dtype))
    return F.relu(y) if relu else y


def pooled_conv3d_into(x: Tensor, weight: Tensor, bias: Tensor, relu: bool, out: Tensor) -> None:
    """In place of ``launch.pooled_conv3d``."""
    out.copy_(pooled_conv3d(x, weight, bias, relu))
