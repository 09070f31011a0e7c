"""TensorFlow SAME padding as a copy, for plain PyTorch layers that cannot pad unevenly."""

from __future__ import annotations

from collections.abc import Iterable

import torch.nn.functional as F
from torch import Tensor

from fasti3d.network import same_padding


def pad_same(x: Tensor, kernel: Iterable[int], stride: Iterable[int], value: float = 0.0) -> Tensor:
    """Pads (N, C, T, H, W) as TensorFlow's SAME does, which depends on the size of every axis."""
    pads: list[int] = []
    for size, k, s in zip(x.shape[2:], kernel, stride, strict=True):
        pads = [*same_padding(size, k, s), *pads]  # F.pad wants the last axis first
    return F.pad(x, pads, value=value) if any(pads) else x
