"""conv3d_bn_relu in plain PyTorch."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from fasti3d.same import pad_same


def conv3d_bn_relu_reference(
    x: Tensor, weight: Tensor, bias: Tensor | None, stride: tuple[int, int, int], relu: bool
) -> Tensor:
    """SAME-padded conv3d, plus bias, then ReLU if asked for."""
    y = F.conv3d(pad_same(x, weight.shape[2:], stride), weight, bias, stride)
    return F.relu(y) if relu else y
