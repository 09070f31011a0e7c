"""The compiled operators of csrc/conv3d: schemas, and what they return, for tracing."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor

from fasti3d.ops.conv3d_bn_relu.space_to_depth import FEW_CHANNELS
from fasti3d.ops.registry import operator

# Output channels per panel of packed weights (csrc/conv3d/conv.h).
PANEL = 16


def _packed_shape(
    weight: Tensor, dtype: torch.dtype, filters: Sequence[Tensor], gradient: bool = False
) -> Tensor:
    """As csrc/conv3d/cpu_pack.cpp lays weights out."""
    outputs, channels, *kernel = weight.transpose(0, 1).shape if gradient else weight.shape
    pairs = dtype == torch.bfloat16
    merged = channels < FEW_CHANNELS or (pairs and channels % 2 != 0)
    run = kernel[2] * channels if merged else channels
    # In the direct form every tap of the window is a phase of its own.
    phases = [matrix.shape[1] for matrix in filters] if filters else list(kernel)
    taps = phases[0] * phases[1] * (1 if merged else phases[2])
    shape = (-(-outputs // PANEL), taps, run + run % 2 if pairs else run, PANEL)
    components = (prod(matrix.shape[0] for matrix in filters),) if filters else ()
    return weight.new_empty(*components, *shape, dtype=dtype)


# gradient: for the convolution that gives the gradient with respect to the input.
operator(
    "conv3d_pack(Tensor weight, ScalarType dtype, Tensor[] filters, bool gradient=False) -> Tensor",
    None,
    fake=_packed_shape,
)
# Padding of None is SAME; inputs, outputs and filters are those of t, h and w (winograd.py). ``bytes`` is
# float32 (channels, 256), what the bytes of a uint8 x stand for: zeros of the padding are zeros among these.
operator(
    "conv3d_packed_(Tensor x, Tensor packed, Tensor bias, int[] kernel, int[] stride, int[]? padding, "
    "bool relu, Tensor(a!) out, int start, Tensor? residual=None, Tensor? bytes=None) -> ()",
    None,
)
operator(
    "conv3d_winograd_(Tensor x, Tensor packed, Tensor bias, Tensor[] inputs, Tensor[] outputs, int[] kernel, "
    "int[] stride, int[]? padding, bool relu, Tensor(a!) out, int start, Tensor? residual=None, "
    "Tensor? bytes=None) -> ()",
    None,
)
# With weights as tiles.py packs them, in bfloat16 alone.
operator(
    "conv3d_tiles_(Tensor x, Tensor packed, Tensor bias, int[] kernel, int[] stride, int[]? padding, "
    "bool relu, Tensor(a!) out, int start, Tensor? residual=None, Tensor? bytes=None) -> ()",
    None,
)
