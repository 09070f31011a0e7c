"""Space-to-depth of clips with few channels, so that a window's rows lie in memory in one piece.

Three channels fill a fifth of the smallest GEMM step. The pixels of one step of the stride, put side by
side, form a cell of many channels, over which the window steps by one: a 7x7x7 window of stride 2 over 3
channels becomes a 4x4x4 window over cells of 24, whose rows of 4 cells lie in memory as 96 values. Weights at
places beyond the window are zero, so that a pixel that is not finite also reaches outputs whose windows end
right before it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor

Triple = tuple[int, int, int]
Shape = tuple[int, int, int, int, int]

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


def cells_shape(clips: int, channels: int, kernel: Triple, stride: Triple, size: Sequence[int]) -> Shape:
    """(N, T', H', W', channels of a cell) of the cells for an output of (T, H, W) ``size``."""
    t, h, w = (n + k - 1 for n, k in zip(size, folded_kernel(kernel, stride), strict=True))
    return clips, t, h, w, cell_channels(channels, stride)


def windows(cells: Tensor, kernel: Triple, stride: Triple) -> Tensor:
    """Cells as a clip (N, C, T', H', W) that a window of one column steps over: its channels are whole rows
    of the window, which overlap.
    """
    n, t, h, w, channels = cells.shape
    columns = folded_kernel(kernel, stride)[2]
    shape, strides = (n, t, h, w - columns + 1, columns * channels), (*cells.stride()[:3], channels, 1)
    return cells.as_strided(shape, strides).permute(0, 4, 1, 2, 3)


def fold_clip(x: Tensor, kernel: Triple, stride: Triple, before: Sequence[int], shape: Shape) -> Tensor:
    """The cells of (N, C, T, H, W) in plain PyTorch, with so many zeros before each axis."""
    n, *size, channels = shape
    t, h, w = size
    edges: list[int] = []
    for length, front, cells, step in zip(x.shape[2:], before, size, stride, strict=True):
        edges = [front, cells * step - length - front, *edges]  # the last axis first
    st, sh, sw = stride
    whole = F.pad(x, edges).reshape(n, x.shape[1], t, st, h, sh, w, sw)
    folded = whole.permute(0, 2, 4, 6, 3, 5, 7, 1).flatten(4)
    return F.pad(folded, (0, channels - folded.shape[4]))


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
