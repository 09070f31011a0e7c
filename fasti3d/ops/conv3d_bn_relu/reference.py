"""conv3d_bn_relu in plain PyTorch."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from fasti3d.same import pad_same


def conv3d_bn_relu_reference(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: tuple[int, int, int],
    relu: bool,
    padding: tuple[int, int, int] | None = None,
) -> Tensor:
    """conv3d with zeros on both sides of each axis, or SAME-padded, plus bias, then ReLU if asked for."""
    if padding is None:
        x, padding = pad_same(x, weight.shape[2:], stride), (0, 0, 0)
    y = F.conv3d(x, weight, bias, stride, padding)
    return F.relu(y) if relu else y
