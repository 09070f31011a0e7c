"""Which form a convolution takes on a CPU: from its shape, dtype and a limit on memory alone.

Weights are packed once, for maps of any size: what a clip gives must not depend on which came before it, nor
on what shares its batch, so sizes have no say.
"""

from __future__ import annotations

import itertools
from math import prod
from typing import NamedTuple

import torch

from fasti3d.ops.conv3d_bn_relu.geometry import Geometry
from fasti3d.ops.conv3d_bn_relu.space_to_depth import FEW_CHANNELS
from fasti3d.ops.conv3d_bn_relu.winograd import amplification, minimal_filter
from fasti3d.ops.tiling import Triple

# Rounding errors of float32 forms, as multiples of the direct form's (see ``amplification``): 3.8 in tiles of
# 4x2x2 outputs of three taps, 5.0 of 3x3 of seven taps at stride 2. Measured, they add 3 to 10 % to those of
# tiles of four frames alone, whose sums are longer, and I3D's logits are as exact.
MAX_AMPLIFICATION = 5.0
# Of bfloat16, whose transformed values are rounded once more: two outputs.
_MAX_HALF_AMPLIFICATION = 1.3
# Multiplications that take as long as one transformed value, at 64 to 192 channels, measured; in bfloat16 two
# take as long as one in float32.
_TRANSFORM, _HALF_TRANSFORM = 30, 60
# Values of a tile (csrc/conv3d/winograd.h).
_MAX_TILE = 256
# Bytes of packed weights per layer. Those of 160 by 320 channels in tiles of 4x2x2 are 19.7 MB.
MEMORY_LIMIT = 20_000_000
# What weights may always grow to: 72 taps of 27, as in tiles of 2x1x4 outputs.
_MIN_GROWTH = 2.7
# What the weights of the last layers of networks have at least: those of 192 by 384 channels have 8 MB.
_LAST_BYTES = 6_000_000


class Form(NamedTuple):
    """How a convolution is computed: ``outputs`` per tile along t, h and w, and the dtype of its weights.

    One output per tile is the direct form of an axis. ``time`` is estimated, in multiplications per output
    pixel of all its channels, ``bytes`` are those of the packed weights.
    """

    outputs: Triple
    dtype: torch.dtype
    products: float
    time: float
    bytes: int

    @property
    def direct(self) -> bool:
        return self.outputs == (1, 1, 1)

    def __str__(self) -> str:
        return f"{tile_name(self.outputs)}, {self.products:.4g} products per output and input channel"


def tile_name(outputs: Triple) -> str:
    """Of tiles of so many outputs along t, h and w."""
    t, h, w = outputs
    return "direct" if outputs == (1, 1, 1) else f"F({t},{h},{w})"


def choose_form(
    in_channels: int,
    out_channels: int,
    geometry: Geometry,
    dtype: torch.dtype,
    memory_limit: int = MEMORY_LIMIT,
    max_amplification: float = MAX_AMPLIFICATION,
) -> Form:
    """The form of the least estimated time of those whose error and memory are within their limits.

    >>> same = Geometry((3, 3, 3), (1, 1, 1), None, True)
    >>> print(choose_form(64, 192, same, torch.float32))
    F(4,2,2), 6 products per output and input channel
    >>> print(choose_form(192, 384, same, torch.float32))
    F(2,1,4), 9 products per output and input channel
    """
    every = forms(in_channels, out_channels, geometry, dtype, max_amplification)
    found = [form for form in every if _pays(form, in_channels, geometry)]
    direct = next(form for form in found if form.direct)
    limit = max(memory_limit, int(_MIN_GROWTH * direct.bytes))

    def length(form: Form) -> Triple:
        # Of equal ones that of the longest tiles along time, of which most layers have many steps; the last
        # ones of a network have as few as two.
        t, h, w = form.outputs
        return (abs(t - 2), h, w) if direct.bytes > _LAST_BYTES else (-t, -h, -w)

    return min(
        (form for form in found if form.bytes <= limit),
        key=lambda form: (form.time, form.bytes, length(form)),
    )


def _pays(form: Form, in_channels: int, geometry: Geometry) -> bool:
    """Whether a form may be faster than the direct one.

    Of three taps at stride 2 a filter saves a quarter of the products, for transforms of both phases: 0.73 to
    0.95 times the direct form's speed at 64 to 512 channels, in every combination of axes, measured.
    """
    axes = zip(form.outputs, geometry.kernel, geometry.stride, strict=True)
    return in_channels < FEW_CHANNELS or not any(m > 1 and k == 3 and s == 2 for m, k, s in axes)


def forms(
    in_channels: int,
    out_channels: int,
    geometry: Geometry,
    dtype: torch.dtype,
    max_amplification: float = MAX_AMPLIFICATION,
) -> list[Form]:
    """Those whose error is within its limit, in float32 ``max_amplification``."""
    few = in_channels < FEW_CHANNELS
    exact = dtype == torch.float32 or few
    allowed = max_amplification if exact else _MAX_HALF_AMPLIFICATION
    axes = list(zip(geometry.kernel, geometry.stride, strict=True))
    choices = [_outputs(taps, stride) for taps, stride in axes]
    if few:
        choices[2] = (1,)  # whose taps are one run of values
    if not exact and in_channels % 2:
        choices = [(1,), (1,), (1,)]
    found = []
    for t, h, w in itertools.product(*choices):
        outputs = t, h, w
        filters = [minimal_filter(m, *axis) for m, axis in zip(outputs, axes, strict=True)]
        if prod(amplification(m, *axis) for m, axis in zip(outputs, axes, strict=True)) > allowed:
            continue
        tiles = [f.inputs.shape for f, m in zip(filters, outputs, strict=True) if m > 1]
        if prod(max(components, frames) * phases for components, phases, frames in tiles) > _MAX_TILE:
            continue
        weights = torch.float32 if exact and outputs != (1, 1, 1) else dtype
        found.append(_form(in_channels, out_channels, geometry, outputs, weights))
    return found


def _outputs(taps: int, stride: int) -> tuple[int, ...]:
    """Outputs per tile that an axis may have."""
    if (stride, taps) == (1, 3):
        return 1, 2, 4
    return (1, 2, 3, 4) if stride == 2 and 3 <= taps <= 7 else (1,)


def _form(
    in_channels: int, out_channels: int, geometry: Geometry, outputs: Triple, dtype: torch.dtype
) -> Form:
    axes = zip(geometry.kernel, geometry.stride, outputs, strict=True)
    filters = [(minimal_filter(m, taps, stride), m) for taps, stride, m in axes]
    products = prod(f.products / m for f, m in filters)
    # Transformed values per output, of inputs and of sums; the direct axes of a tile share their inputs.
    values = prod(f.products / m for f, m in filters if m > 1)
    sums = prod(len(f.inputs) / m for f, m in filters)
    time = products * in_channels * out_channels
    if outputs != (1, 1, 1):
        strides = prod(stride for stride, m in zip(geometry.stride, outputs, strict=True) if m == 1)
        transform = _HALF_TRANSFORM if dtype == torch.bfloat16 else _TRANSFORM
        time += transform * (values * in_channels * strides + sums * out_channels)
    taps = prod(len(f.inputs) * f.inputs.shape[1] for f, _ in filters)
    return Form(outputs, dtype, products, time, taps * in_channels * out_channels * dtype.itemsize)
