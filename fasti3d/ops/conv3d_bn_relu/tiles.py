"""Weights for the CPU's matrix tiles (AMX), in bfloat16: how a window is cut into products of tiles.

A product takes up to 32 values of each of 16 pixels, and a value of zero takes as long as another: windows
of few channels are cut into rows, whose pixels' channels lie side by side, where that makes fewer products.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from fasti3d.ops.conv3d_bn_relu.cpu_operators import PANEL
from fasti3d.ops.tiling import Triple

# Values of a pixel that one product takes.
_STEP = 32


class TileForm(NamedTuple):
    """``steps`` products per tap of ``pairs`` pairs of values each.

    ``merged``: a tap is a row of the window, and not one of its pixels. ``channels`` are those of a pixel as
    it is multiplied, the clip's and then zeros.
    """

    merged: bool
    channels: int
    steps: int
    pairs: int


def tile_form(channels: int, kernel: Triple) -> TileForm:
    """The form of fewest products for clips of ``channels`` channels."""
    apart = _apart(channels, pointwise=kernel == (1, 1, 1))
    columns = kernel[2]
    if columns == 1:
        return apart
    together = _together(channels, columns)
    return together if together.steps < columns * apart.steps else apart


def _apart(channels: int, *, pointwise: bool) -> TileForm:
    steps = -(-channels // _STEP)
    # Without zeros after a clip's channels it can be read where it lies.
    exact = channels % (2 * steps) == 0 and (pointwise or steps == 1)
    values = channels // steps if exact else _STEP if steps > 1 else channels + channels % 2
    return TileForm(False, steps * values, steps, values // 2)


def _together(channels: int, columns: int) -> TileForm:
    padded = channels + channels % 2
    # No product reaches into the pixel after the row: zeros times what is not finite are not zero.
    while columns * padded % (2 * -(-columns * padded // _STEP)):
        padded += 2
    steps = -(-columns * padded // _STEP)
    return TileForm(True, padded, steps, columns * padded // steps // 2)


def pack_tiles(weight: Tensor) -> Tensor:
    """(Cout, Cin, kt, kh, kw) to bfloat16 (panels, taps, steps, pairs, 2 * PANEL), as csrc/conv3d/tiles.h
    has it.
    """
    outputs, channels, *kernel = weight.shape
    form = tile_form(channels, (kernel[0], kernel[1], kernel[2]))
    panels = -(-outputs // PANEL)
    padded = F.pad(weight.to(torch.bfloat16).permute(0, 2, 3, 4, 1), (0, form.channels - channels))
    padded = F.pad(padded.flatten(1), (0, 0, 0, panels * PANEL - outputs))
    packed = padded.view(panels, PANEL, -1, form.steps, form.pairs, 2).permute(0, 2, 3, 4, 1, 5)
    return packed.reshape(*packed.shape[:4], 2 * PANEL)
