"""A convolution over slabs in plain PyTorch."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from fasti3d.ops.conv3d_slab.pack import unpack_slab
from fasti3d.ops.tiling import Triple


def conv3d_slab_reference(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    kernel: Triple,
    before: Triple,
    relu: bool,
    out: Tensor,
    residual: Tensor | None = None,
) -> None:
    """Write to ``out`` what the operator does, computed in float32 and rounded once.

    ``before`` are zeros before each axis, negative to skip places; after it are as many as ``out`` asks for.
    """
    pads: list[int] = []
    for n, length, k, start in zip(x.shape[2:], out.shape[2:], kernel, before, strict=True):
        pads = [start, length + k - 1 - start - n, *pads]
    filters = unpack_slab(weight, out.shape[1], x.shape[1], kernel)
    y = F.conv3d(F.pad(x.float(), pads), filters.float(), bias)
    if residual is not None:
        y = y + residual
    out.copy_(y.relu() if relu else y)
