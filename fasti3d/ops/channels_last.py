"""Clips as kernels see them: channels last."""

from __future__ import annotations

from torch import Tensor

# The widest load, in bytes.
_VECTOR_BYTES = 16


def channels_last(x: Tensor) -> Tensor:
    """(N, C, T, H, W) as (N, T, H, W, C)."""
    return x.permute(0, 2, 3, 4, 1)


def rows(x: Tensor) -> Tensor | None:
    """(N, C, T, H, W) as (N * T * H * W, C); None where pixels do not all lie one pitch apart."""
    try:
        return channels_last(x).view(-1, x.shape[1])
    except RuntimeError:
        return None


def vector(x: Tensor) -> int:
    """Channels (the last axis) of an aligned pack of 16 bytes wherever one begins, or 1."""
    values = _VECTOR_BYTES // x.element_size()
    strides = [s for s, n in zip(x.stride()[:-1], x.shape[:-1], strict=True) if n > 1]
    aligned = x.data_ptr() % _VECTOR_BYTES == 0
    return values if aligned and all(s % values == 0 for s in (x.shape[-1], *strides)) else 1
