"""A pool and convolution over slabs in plain PyTorch."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from fasti3d.ops.conv3d_slab.pack import unpack_slab


def pooled_conv3d_slab_reference(x: Tensor, weight: Tensor, bias: Tensor, relu: bool, out: Tensor) -> None:
    """Write to ``out`` what the operator does, computed in float32 and rounded once."""
    pooled = F.max_pool3d(F.pad(x.float(), [1] * 6), 3, stride=1)
    filters = unpack_slab(weight, out.shape[1], x.shape[1], (1, 1, 1))
    y = F.conv3d(pooled, filters.float(), bias)
    out.copy_(y.relu() if relu else y)
