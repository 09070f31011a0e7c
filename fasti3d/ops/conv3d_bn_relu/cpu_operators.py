"""The compiled operators of csrc/conv3d: schemas, and what they return, for tracing."""

from __future__ import annotations

import torch
from torch import Tensor

from fasti3d.ops.conv3d_bn_relu.space_to_depth import FEW_CHANNELS
from fasti3d.ops.registry import operator

# Output channels per panel of packed weights (csrc/conv3d/conv.h).
PANEL = 16


def _packed_shape(
    weight: Tensor, dtype: torch.dtype, filters: Tensor | None = None, gradient: bool = False
) -> Tensor:
    """As csrc/conv3d/cpu.cpp lays weights out."""
    outputs, channels, *kernel = weight.transpose(0, 1).shape if gradient else weight.shape
    pairs = dtype == torch.bfloat16
    merged = channels < FEW_CHANNELS or (pairs and channels % 2 != 0)
    run = kernel[2] * channels if merged else channels
    plane = kernel[1] * (1 if merged else kernel[2])
    # In the direct form every frame of the window is a phase of its own.
    phases = kernel[0] if filters is None else filters.shape[1]
    shape = (-(-outputs // PANEL), phases * plane, run + run % 2 if pairs else run, PANEL)
    return weight.new_empty(shape if filters is None else (filters.shape[0], *shape), dtype=dtype)


# gradient: for the convolution that gives the gradient with respect to the input.
operator(
    "conv3d_pack(Tensor weight, ScalarType dtype, Tensor? filters=None, bool gradient=False) -> Tensor",
    None,
    fake=_packed_shape,
)
# Padding of None is SAME.
operator(
    "conv3d_packed_(Tensor x, Tensor packed, Tensor bias, int[] kernel, int[] stride, int[]? padding, "
    "bool relu, Tensor(a!) out, int start, Tensor? residual=None) -> ()",
    None,
)
operator(
    "conv3d_winograd_(Tensor x, Tensor packed, Tensor bias, Tensor inputs, Tensor outputs, int[] kernel, "
    "int[] stride, int[]? padding, bool relu, Tensor(a!) out, int start, Tensor? residual=None) -> ()",
    None,
)
# With weights as tiles.py packs them, in bfloat16 alone.
operator(
    "conv3d_tiles_(Tensor x, Tensor packed, Tensor bias, int[] kernel, int[] stride, int[]? padding, "
    "bool relu, Tensor(a!) out, int start, Tensor? residual=None) -> ()",
    None,
)
