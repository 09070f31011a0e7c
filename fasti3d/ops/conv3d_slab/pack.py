"""Weights as the kernel for slabs copies them: in blocks of one product each."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from fasti3d.ops.conv3d_slab.config import GROUP, ROWS, packed_shape, reduction
from fasti3d.ops.tiling import Triple


def pack_slab(weight: Tensor) -> Tensor:
    """(Cout, Cin, kt, kh, kw) to ``packed_shape``; what is missing is zeros."""
    out_channels, channels, kt, kh, kw = weight.shape
    its = reduction(channels, (kt, kh, kw))
    groups = its.units * its.unit_groups
    missing = groups * GROUP - channels, -out_channels % ROWS
    whole = F.pad(weight.permute(2, 3, 4, 0, 1), (0, missing[0], 0, missing[1]))
    # t, h, w, row, channel of the row, group, channel of the group
    parts = whole.reshape(kt, kh, kw, -1, ROWS, groups, GROUP)
    if its.by_columns:
        halves = parts.unflatten(2, (kw // 2, 2)).permute(4, 0, 1, 6, 2, 3, 5, 7)
    else:
        halves = parts.unflatten(5, (groups // 2, 2)).permute(3, 0, 1, 2, 5, 6, 4, 7)
    return halves.reshape(packed_shape(out_channels, channels, (kt, kh, kw))).contiguous()


def unpack_slab(packed: Tensor, out_channels: int, channels: int, kernel: Triple) -> Tensor:
    """What ``pack_slab`` made it of."""
    (kt, kh, kw), rows = kernel, len(packed)
    if reduction(channels, kernel).by_columns:
        # row, t, h, group, pair of columns, half, channel of the row, channel of the group
        parts = packed.reshape(rows, kt, kh, -1, kw // 2, 2, ROWS, GROUP).permute(0, 6, 3, 7, 1, 2, 4, 5)
    else:
        # row, t, h, w, pair of groups, half, channel of the row, channel of the group
        parts = packed.reshape(rows, kt, kh, kw, -1, 2, ROWS, GROUP).permute(0, 6, 4, 5, 7, 1, 2, 3)
    return parts.reshape(rows * ROWS, -1, kt, kh, kw)[:out_channels, :channels]
