"""Space-to-depth of clips with few channels, so that a window's rows lie in memory in one piece.

Three channels fill a fifth of the smallest GEMM step. The pixels of one step of the stride, put side by
side, form a cell of many channels, over which the window steps by one: a 7x7x7 window of stride 2 over 3
channels becomes a 4x4x4 window over cells of 24, whose rows of 4 cells lie in memory as 96 values. Weights at
places beyond the window are zero, so that a pixel that is not finite also reaches outputs whose windows end
right before it.
"""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor

Triple = tuple[int, int, int]

# Clips of fewer channels are folded.
FEW_CHANNELS = 16
# Cells are padded to whole loads of 16 bytes.
_ALIGNMENT = 8


def is_folded(channels: int, kernel: Triple) -> bool:
    """Whether a convolution over so many channels runs on cells. A single tap has no rows to merge."""
    return channels < FEW_CHANNELS and math.prod(kernel) > 1


def cell_channels(channels: int, stride: Triple) -> int:
    """Channels of a cell."""
    return -(-channels * math.prod(stride) // _ALIGNMENT) * _ALIGNMENT


def folded_kernel(kernel: Triple, stride: Triple) -> Triple:
    """The window in cells."""
    return tuple(-(-k // s) for k, s in zip(kernel, stride, strict=True))  # type: ignore[return-value]


def fold_weight(weight: Tensor, stride: Triple) -> Tensor:
    """(Cout, Cin, kt, kh, kw) to (Cout, rows, cells of a row * channels of a cell)."""
    out_channels, channels, *kernel = weight.shape
    (t, h, w), (st, sh, sw) = folded_kernel((kernel[0], kernel[1], kernel[2]), stride), stride
    missing = (w * sw - kernel[2], h * sh - kernel[1], t * st - kernel[0])
    whole = F.pad(weight, (0, missing[0], 0, missing[1], 0, missing[2]))
    cells = whole.view(out_channels, channels, t, st, h, sh, w, sw).permute(0, 2, 4, 6, 3, 5, 7, 1)
    cells = cells.reshape(out_channels, t * h, w, -1)
    return F.pad(cells, (0, cell_channels(channels, stride) - cells.shape[-1])).flatten(2)


def unfold_weight(folded: Tensor, channels: int, kernel: Triple, stride: Triple) -> Tensor:
    """What ``fold_weight`` made it of."""
    (t, h, w), (st, sh, sw) = folded_kernel(kernel, stride), stride
    cells = folded.view(len(folded), t, h, w, -1)[..., : channels * math.prod(stride)]
    whole = cells.reshape(len(folded), t, h, w, st, sh, sw, channels).permute(0, 7, 1, 4, 2, 5, 3, 6)
    whole = whole.reshape(len(folded), channels, t * st, h * sh, w * sw)
    return whole[:, :, : kernel[0], : kernel[1], : kernel[2]]
