"""A batch norm with ReLU over rows of channels: statistics, normalized map, and both passes of the gradient.

Sums are float32 in a fixed order: each program writes those of its rows, and another kernel joins them.
This module imports triton, so nothing that ``import fasti3d`` reaches may import it.
"""

from __future__ import annotations

import triton
import triton.language as tl

# Do not specialize on integer sizes: one build of a configuration serves every size.
_SIZES = [
    *("rows", "channels", "tiles_c", "steps"),
    *("pitch_x", "pitch_grad", "pitch_y"),
]
_JOIN_SIZES = ["tiles", "per_group", "channels", "groups", "pitch"]


@triton.jit
def _channels_of_tile(channels, tiles_c, VECTOR: tl.constexpr, BLOCK_C: tl.constexpr):
    """Channels, and which of them there are, [BLOCK_C] each."""
    c = (tl.program_id(0) % tiles_c) * BLOCK_C + tl.arange(0, BLOCK_C)
    return c, c < channels * VECTOR


@triton.jit
def _rows_of_tile(tiles_c, steps, BLOCK_M: tl.constexpr):
    """The first rows of a tile, [BLOCK_M] of int64."""
    tile = tl.program_id(0) // tiles_c
    return tile.to(tl.int64) * steps * BLOCK_M + tl.arange(0, BLOCK_M)


@triton.jit
def _load(ptr, row, pitch, c, inside, VECTOR: tl.constexpr):
    """A tile in float32, 0 outside. Channels and pitches come divided by VECTOR, so that the compiler knows
    them as multiples.
    """
    first = row * (pitch.to(tl.int64) * VECTOR)
    return tl.load(ptr + first[:, None] + c[None, :], mask=inside, other=0.0).to(tl.float32)


@triton.jit
def _below_relu(grad, x, scale, shift):
    """The gradient before the ReLU, which passes it where its input is above 0 or NaN."""
    return tl.where(x * scale[None, :] + shift[None, :] <= 0, 0.0, grad)


@triton.jit
def store_part(part_ptr, tile, c, channels, mean, spread, count, there):
    """What a tile adds to statistics, as ``_batch_norm_stats_join_kernel`` reads it: [BLOCK_C] of each."""
    part = part_ptr + tile.to(tl.int64) * 3 * channels + c
    tl.store(part, mean, mask=there)
    tl.store(part + channels, spread, mask=there)
    tl.store(part + 2 * channels, count, mask=there)


@triton.jit(do_not_specialize=_SIZES)
def _batch_norm_stats_kernel(
    x_ptr,  # [rows, C]
    part_ptr,  # [tiles, 3, C], float32
    rows,
    channels,
    pitch_x,
    tiles_c,
    steps,
    VECTOR: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """The mean of a tile's rows, the sum of the squared distances to it, and how many they are."""
    c, there = _channels_of_tile(channels, tiles_c, VECTOR, BLOCK_C)
    row = _rows_of_tile(tiles_c, steps, BLOCK_M)  # [BLOCK_M]
    left = rows - (tl.program_id(0) // tiles_c).to(tl.int64) * steps * BLOCK_M
    inside = (row < rows)[:, None] & there[None, :]
    # Near the mean, so that sums of squares about it lose no digits to the mean.
    about = tl.sum(_load(x_ptr, row, pitch_x, c, inside, VECTOR), 0) / tl.minimum(left, BLOCK_M).to(
        tl.float32
    )
    about = tl.where(tl.abs(about) < float("inf"), about, 0.0)
    total = tl.zeros((BLOCK_M, BLOCK_C), tl.float32)
    squares = tl.zeros((BLOCK_M, BLOCK_C), tl.float32)
    for _ in tl.range(0, steps):
        inside = (row < rows)[:, None] & there[None, :]
        x = _load(x_ptr, row, pitch_x, c, inside, VECTOR)  # [BLOCK_M, BLOCK_C]
        off = tl.where(inside, x - about[None, :], 0.0)
        total += off
        squares += off * off
        row += BLOCK_M
    count = tl.minimum(left, steps * BLOCK_M).to(tl.float32)
    mean = tl.sum(total, 0) / count  # less ``about``
    spread = tl.maximum(tl.sum(squares, 0) - count * mean * mean, 0.0, propagate_nan=tl.PropagateNan.ALL)
    store_part(
        part_ptr, tl.program_id(0) // tiles_c, c, channels * VECTOR, about + mean, spread, count, there
    )


@triton.jit(do_not_specialize=_JOIN_SIZES)
def _batch_norm_stats_join_kernel(
    part_ptr,  # [tiles, 3, C]: means, sums of squared distances to them, numbers of pixels
    mean_ptr,  # of the first group, as the next two; the next group's lie ``pitch`` behind
    spread_ptr,
    count_ptr,
    tiles,
    per_group,
    groups,
    channels,
    pitch,
    FINAL: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """The same of groups of tiles: what is in the tiles, and between their means. With FINAL the biased
    variance in place of the sum, and no number.
    """
    c = (tl.program_id(0) // groups) * BLOCK_C + tl.arange(0, BLOCK_C)
    group = tl.program_id(0) % groups
    last = tl.minimum((group + 1) * per_group, tiles)
    counts = tl.zeros((BLOCK_T, BLOCK_C), tl.float32)
    total = tl.zeros((BLOCK_T, BLOCK_C), tl.float32)
    for first in tl.range(group * per_group, last, BLOCK_T):
        tile = first + tl.arange(0, BLOCK_T)
        inside = (tile < last)[:, None] & (c < channels)[None, :]
        part = part_ptr + (tile.to(tl.int64) * 3 * channels)[:, None] + c[None, :]
        count = tl.load(part + 2 * channels, mask=inside, other=0.0)
        total += tl.load(part, mask=inside, other=0.0) * count
        counts += count
    pixels = tl.sum(counts, 0)
    mean = tl.sum(total, 0) / tl.maximum(pixels, 1.0)
    total = tl.zeros((BLOCK_T, BLOCK_C), tl.float32)
    for first in tl.range(group * per_group, last, BLOCK_T):
        tile = first + tl.arange(0, BLOCK_T)
        inside = (tile < last)[:, None] & (c < channels)[None, :]
        part = part_ptr + (tile.to(tl.int64) * 3 * channels)[:, None] + c[None, :]
        off = tl.load(part, mask=inside, other=0.0) - mean[None, :]
        spread = tl.load(part + channels, mask=inside, other=0.0)
        total += spread + off * off * tl.load(part + 2 * channels, mask=inside, other=0.0)
    spread = tl.sum(total, 0)
    if FINAL:
        spread /= pixels
    else:
        tl.store(count_ptr + group * pitch + c, pixels, mask=c < channels)
    tl.store(mean_ptr + group * pitch + c, mean, mask=c < channels)
    tl.store(spread_ptr + group * pitch + c, spread, mask=c < channels)


@triton.jit(do_not_specialize=_SIZES)
def _scale_shift_relu_kernel(
    x_ptr,  # [rows, C]
    scale_ptr,  # [C]
    shift_ptr,  # [C]
    y_ptr,  # [rows, C]
    rows,
    channels,
    pitch_x,
    pitch_y,
    tiles_c,
    VECTOR: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """max(0, x * scale + shift), rounded once."""
    c, there = _channels_of_tile(channels, tiles_c, VECTOR, BLOCK_C)
    row = _rows_of_tile(tiles_c, 1, BLOCK_M)
    inside = (row < rows)[:, None] & there[None, :]
    scale = tl.load(scale_ptr + c, mask=there, other=0.0)
    shift = tl.load(shift_ptr + c, mask=there, other=0.0)
    x = _load(x_ptr, row, pitch_x, c, inside, VECTOR)
    y = tl.maximum(x * scale[None, :] + shift[None, :], 0.0, propagate_nan=tl.PropagateNan.ALL)
    first = row * (pitch_y.to(tl.int64) * VECTOR)
    tl.store(y_ptr + first[:, None] + c[None, :], y.to(y_ptr.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=_SIZES)
def _batch_norm_relu_sums_kernel(
    grad_ptr,  # [rows, C]
    x_ptr,  # [rows, C]
    mean_ptr,  # [C], as the next two
    scale_ptr,
    shift_ptr,
    part_ptr,  # [tiles, 2, C], float32
    rows,
    channels,
    pitch_grad,
    pitch_x,
    tiles_c,
    steps,
    VECTOR: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """Sums over a tile's rows of the gradient before the ReLU, and of that times x - mean."""
    c, there = _channels_of_tile(channels, tiles_c, VECTOR, BLOCK_C)
    row = _rows_of_tile(tiles_c, steps, BLOCK_M)
    mean = tl.load(mean_ptr + c, mask=there, other=0.0)
    scale = tl.load(scale_ptr + c, mask=there, other=0.0)
    shift = tl.load(shift_ptr + c, mask=there, other=0.0)
    total = tl.zeros((BLOCK_M, BLOCK_C), tl.float32)
    dot = tl.zeros((BLOCK_M, BLOCK_C), tl.float32)
    for _ in tl.range(0, steps):
        inside = (row < rows)[:, None] & there[None, :]
        x = _load(x_ptr, row, pitch_x, c, inside, VECTOR)
        below = _below_relu(_load(grad_ptr, row, pitch_grad, c, inside, VECTOR), x, scale, shift)
        total += below
        dot += below * (x - mean[None, :])
        row += BLOCK_M
    part = part_ptr + (tl.program_id(0) // tiles_c).to(tl.int64) * 2 * channels * VECTOR + c
    tl.store(part, tl.sum(total, 0), mask=there)
    tl.store(part + channels * VECTOR, tl.sum(dot, 0), mask=there)


@triton.jit(do_not_specialize=_JOIN_SIZES)
def _sums_join_kernel(
    part_ptr,  # [tiles, 2, C]
    total_ptr,  # [C]
    dot_ptr,  # [C]
    tiles,
    channels,
    BLOCK_T: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """Both sums over the tiles."""
    c = tl.program_id(0) * BLOCK_C + tl.arange(0, BLOCK_C)
    total = tl.zeros((BLOCK_T, BLOCK_C), tl.float32)
    dot = tl.zeros((BLOCK_T, BLOCK_C), tl.float32)
    for first in tl.range(0, tiles, BLOCK_T):
        tile = first + tl.arange(0, BLOCK_T)
        inside = (tile < tiles)[:, None] & (c < channels)[None, :]
        part = part_ptr + (tile.to(tl.int64) * 2 * channels)[:, None] + c[None, :]
        total += tl.load(part, mask=inside, other=0.0)
        dot += tl.load(part + channels, mask=inside, other=0.0)
    tl.store(total_ptr + c, tl.sum(total, 0), mask=c < channels)
    tl.store(dot_ptr + c, tl.sum(dot, 0), mask=c < channels)


@triton.jit(do_not_specialize=_SIZES)
def _batch_norm_relu_backward_kernel(
    grad_ptr,  # [rows, C]
    x_ptr,  # [rows, C]
    mean_ptr,  # [C], as the next four
    scale_ptr,
    shift_ptr,
    slope_ptr,
    offset_ptr,
    y_ptr,  # [rows, C]
    rows,
    channels,
    pitch_grad,
    pitch_x,
    pitch_y,
    tiles_c,
    VECTOR: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """d * scale + (x - mean) * slope + offset, rounded once, d being the gradient before the ReLU."""
    c, there = _channels_of_tile(channels, tiles_c, VECTOR, BLOCK_C)
    row = _rows_of_tile(tiles_c, 1, BLOCK_M)
    inside = (row < rows)[:, None] & there[None, :]
    mean = tl.load(mean_ptr + c, mask=there, other=0.0)
    scale = tl.load(scale_ptr + c, mask=there, other=0.0)
    shift = tl.load(shift_ptr + c, mask=there, other=0.0)
    slope = tl.load(slope_ptr + c, mask=there, other=0.0)
    offset = tl.load(offset_ptr + c, mask=there, other=0.0)
    x = _load(x_ptr, row, pitch_x, c, inside, VECTOR)
    below = _below_relu(_load(grad_ptr, row, pitch_grad, c, inside, VECTOR), x, scale, shift)
    y = below * scale[None, :] + (x - mean[None, :]) * slope[None, :] + offset[None, :]
    first = row * (pitch_y.to(tl.int64) * VECTOR)
    tl.store(y_ptr + first[:, None] + c[None, :], y.to(y_ptr.dtype.element_ty), mask=inside)
