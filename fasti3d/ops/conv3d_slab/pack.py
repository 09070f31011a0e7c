"""Weights as the kernel for slabs copies them: in blocks of one product each."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from fasti3d.ops.conv3d_slab.config import GROUP, ROWS
from fasti3d.ops.tiling import Triple


def pack_slab(weight: Tensor) -> Tensor:
    """(Cout, Cin, kt, kh, kw) to (rows of 64 output channels, taps, products, 2 halves of K, 64, 8 channels).

    A product's K is two groups of 8 channels at one tap; or, where the groups are odd and the columns of the
    window even, one group at two columns, and then a tap is a row of the window. What is missing is zeros.
    """
    out_channels, channels, kt, kh, kw = weight.shape
    groups = -(-channels // GROUP)
    by_columns = groups % 2 == 1 and kw % 2 == 0
    if not by_columns:
        groups += groups % 2
    missing = groups * GROUP - channels, -out_channels % ROWS
    whole = F.pad(weight.permute(2, 3, 4, 0, 1), (0, missing[0], 0, missing[1]))
    # t, h, w, row, channel of the row, group, channel of the group
    parts = whole.reshape(kt, kh, kw, -1, ROWS, groups, GROUP)
    if by_columns:
        halves = parts.unflatten(2, (kw // 2, 2)).permute(4, 0, 1, 6, 2, 3, 5, 7)
        return halves.reshape(-1, kt * kh, groups * kw // 2, 2, ROWS, GROUP).contiguous()
    halves = parts.unflatten(5, (groups // 2, 2)).permute(3, 0, 1, 2, 5, 6, 4, 7)
    return halves.reshape(-1, kt * kh * kw, groups // 2, 2, ROWS, GROUP).contiguous()


def unpack_slab(packed: Tensor, out_channels: int, channels: int, kernel: Triple) -> Tensor:
    """What ``pack_slab`` made it of."""
    kt, kh, kw = kernel
    rows, taps = packed.shape[:2]
    if taps == kt * kh * kw:
        # row, t, h, w, pair of groups, half, channel of the row, channel of the group
        parts = packed.reshape(rows, kt, kh, kw, -1, 2, ROWS, GROUP).permute(0, 6, 4, 5, 7, 1, 2, 3)
    else:
        # row, t, h, group, pair of columns, half, channel of the row, channel of the group
        parts = packed.reshape(rows, kt, kh, -1, kw // 2, 2, ROWS, GROUP).permute(0, 6, 3, 7, 1, 2, 4, 5)
    return parts.reshape(rows * ROWS, -1, kt, kh, kw)[:out_channels, :channels]
