"""TensorFlow's SAME padding: its arithmetic, and a padded copy for PyTorch layers."""

from __future__ import annotations

from collections.abc import Iterable

import torch.nn.functional as F
from torch import Tensor


def same_output(size: int, stride: int) -> int:
    """Output length of a SAME window along one axis."""
    # Not -(-size // stride): ONNX rounds quotients of negative numbers up.
    return (size + stride - 1) // stride


def same_shape(size: Iterable[int], stride: Iterable[int]) -> list[int]:
    """Output lengths of a SAME window, axis by axis."""
    return [same_output(n, s) for n, s in zip(size, stride, strict=True)]


def same_padding(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """(front, back) padding of a SAME window along one axis; an odd total has its extra zero at the back."""
    total = max((same_output(size, stride) - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2


def pad_same(x: Tensor, kernel: Iterable[int], stride: Iterable[int], value: float = 0.0) -> Tensor:
    """Pads (N, C, T, H, W) as TensorFlow's SAME does, which depends on the size of every axis."""
    pads: list[int] = []
    for size, k, s in zip(x.shape[2:], kernel, stride, strict=True):
        pads = [*same_padding(size, k, s), *pads]  # F.pad wants the last axis first
    return F.pad(x, pads, value=value) if any(pads) else x
