"""conv3d + bias + residual + ReLU as an implicit GEMM of channels-last clips; space-to-depth of few channels.

Two forms of one computation: a tile of pixels times a tile of output channels, summed in float32 over
the window's taps and the input channels. SAME padding is nothing but loads that read zero outside the clip.
This module imports triton, so nothing that ``import fasti3d`` reaches may import it.
"""

from __future__ import annotations

import triton
import triton.language as tl

from fasti3d.ops.batch_norm_relu.triton_kernels import store_part
from fasti3d.ops.dependent_launch.triton_kernels import in_turn

# Do not specialize on integer sizes: one binary serves all shapes.
_DESCRIPTOR_SIZES = [
    *("in_channels", "out_channels", "split", "chunks"),
    *("tiles_n", "tiles_y", "tiles_w", "tiles_h", "tiles_t", "batch", "out_t", "out_h", "out_w"),
]
_PADDING = ["pad_t", "pad_h", "pad_w"]
_POINTER_SIZES = [
    *("pixels", "size_t", "size_h", "size_w", "in_channels", "out_t", "out_h", "out_w", "out_channels"),
    *("stride_x_n", "stride_x_t", "stride_x_h", "stride_x_w"),
    *("stride_y_n", "stride_y_t", "stride_y_h", "stride_y_w"),
    *("stride_z_n", "stride_z_t", "stride_z_h", "stride_z_w"),
    *("stride_r_n", "stride_r_t", "stride_r_h", "stride_r_w", "split", "chunks", "tiles_n", "tiles_y"),
]
_FOLD_SIZES = [
    *("size_t", "size_h", "size_w", "cells_t", "cells_h", "cells_w"),
    *("stride_x_n", "stride_x_c", "stride_x_t", "stride_x_h", "stride_x_w"),
]


@triton.jit
def _next_chunk(
    c,
    w_row,
    t,
    h,
    w,
    channels,
    w_rows,
    h_first,
    w_first,
    KH: tl.constexpr,
    KW: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """The next step of a loop over taps and chunks of ``channels``: its first channel, the first row of its
    weights, of which a tap has ``w_rows``, and the tap's place. A division in every step would take longer.
    """
    c += BLOCK_K
    carry = c >= channels
    c = tl.where(carry, 0, c)
    w_row = tl.where(carry, w_row + w_rows, w_row)
    w = tl.where(carry, w + 1, w)
    carry = w == w_first + KW
    w = tl.where(carry, w_first, w)
    h = tl.where(carry, h + 1, h)
    carry = h == h_first + KH
    h = tl.where(carry, h_first, h)
    t = tl.where(carry, t + 1, t)
    return c, w_row, t, h, w


@triton.jit
def _parts(x):
    """float32 as the sum of two values of 10 bits of the mantissa, all that tensor cores read of it."""
    high = (x.to(tl.int32, bitcast=True) & -8192).to(tl.float32, bitcast=True)
    return high, x - high


@triton.jit
def product(a, b, acc, PRODUCTS: tl.constexpr):
    """Adds a step's product to the sums. With 3 PRODUCTS that of float32: of its parts, but for two low ones.

    Each step's sums begin at zero and are added up outside the tensor cores, which round towards zero: over
    thousands of channels and taps that would cost more than the third product brings.
    """
    if PRODUCTS == 1:
        acc = tl.dot(a, b, acc, input_precision="tf32")
    else:
        a_high, a_low = _parts(a)
        b_high, b_low = _parts(b)
        small = tl.dot(a_low, b_high, input_precision="tf32")
        small = tl.dot(a_high, b_low, small, input_precision="tf32")
        # What is left of an infinity is not a number.
        small = tl.where(small == small, small, 0.0)
        acc += tl.dot(a_high, b_high, small, input_precision="tf32")
    return acc


@triton.jit
def _store_stats(
    part_ptr,
    tile,
    acc,
    left_b,
    left_t,
    left_h,
    left_w,
    n0,
    out_channels,
    CHANNELS: tl.constexpr,
    BLOCK_B: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_H: tl.constexpr,
    BLOCK_W: tl.constexpr,
):
    """Statistics over the pixels of a tile of sums, of which ``left`` on each axis are pixels of the output;
    axis CHANNELS of ``acc`` is of channels from ``n0`` on.
    """
    PIXELS: tl.constexpr = 1 - CHANNELS
    n = n0 + tl.arange(0, acc.shape[CHANNELS])
    count = tl.minimum(left_b, BLOCK_B) * tl.minimum(left_t, BLOCK_T)
    count *= tl.minimum(left_h, BLOCK_H) * tl.minimum(left_w, BLOCK_W)
    # Near the mean, so that sums of squares about it lose no digits to the mean.
    about = tl.sum(acc, PIXELS) / acc.shape[PIXELS]
    about = tl.where(tl.abs(about) < float("inf"), about, 0.0)
    off = acc - tl.expand_dims(about, PIXELS)
    # Not of whole tiles: which pixels are inside takes registers.
    if count < BLOCK_B * BLOCK_T * BLOCK_H * BLOCK_W:
        m = tl.arange(0, acc.shape[PIXELS])
        # Steps to the nearest end, as a comparison on each axis takes more predicates than there are.
        inside = tl.minimum(left_w - m % BLOCK_W, left_h - m // BLOCK_W % BLOCK_H)
        inside = tl.minimum(inside, left_t - m // (BLOCK_W * BLOCK_H) % BLOCK_T)
        inside = tl.minimum(inside, left_b - m // (BLOCK_W * BLOCK_H * BLOCK_T)) > 0
        off = tl.where(tl.expand_dims(inside, CHANNELS), off, 0.0)
    mean = tl.sum(off, PIXELS) / count.to(tl.float32)  # less ``about``
    spread = tl.sum(off * off, PIXELS) - mean * mean * count.to(tl.float32)
    spread = tl.maximum(spread, 0.0, propagate_nan=tl.PropagateNan.ALL)
    counts = tl.zeros_like(mean) + count.to(tl.float32)
    store_part(part_ptr, tile, n, out_channels, about + mean, spread, counts, n < out_channels)


@triton.jit
def _finish(
    acc,
    bias_ptr,
    out_channels,
    r_desc,
    y_desc,
    z_desc,
    in_z,
    split,
    b,
    t,
    h,
    w,
    n0,
    part_ptr,
    tile,
    batch,
    out_t,
    out_h,
    out_w,
    ADD: tl.constexpr,
    RELU: tl.constexpr,
    SPLIT: tl.constexpr,
    STATS: tl.constexpr,
):
    """Stores a tile [BLOCK_N, BLOCK_M] of sums, from a pixel and channel ``n0`` on, with bias, residual and
    ReLU, or with its statistics.
    """
    if not STATS:
        n = n0 + tl.arange(0, acc.shape[0])
        acc += tl.load(bias_ptr + n, mask=n < out_channels, other=0.0)[:, None]
    if ADD:
        r = tl.reshape(r_desc.load([b, t, h, w, n0]), (acc.shape[1], acc.shape[0]))  # [BLOCK_M, BLOCK_N]
        acc += r.T.to(tl.float32)
    if RELU:
        acc = tl.maximum(acc, 0.0, propagate_nan=tl.PropagateNan.ALL)
    y = tl.reshape(acc.to(y_desc.dtype).T, y_desc.block_shape)
    if SPLIT:
        if in_z:
            z_desc.store([b, t, h, w, n0 - split], y)
        else:
            y_desc.store([b, t, h, w, n0], y)
    else:
        y_desc.store([b, t, h, w, n0], y)
    if STATS:
        # Behind the store, when nothing else needs the sums' registers.
        _store_stats(
            part_ptr, tile, acc, batch - b, out_t - t, out_h - h, out_w - w, n0, out_channels, 0,
            y_desc.block_shape[0], y_desc.block_shape[1], y_desc.block_shape[2], y_desc.block_shape[3],
        )  # fmt: skip


@triton.jit(do_not_specialize=_DESCRIPTOR_SIZES + _PADDING)
def _conv3d_descriptor_kernel(
    x_desc,  # [N, T, H, W, CI] in boxes [BLOCK_B, BLOCK_T, BLOCK_H, BLOCK_W, BLOCK_K]
    # Two axes, as the compiler would take a reshaped tile of weights through registers. A box is zero beyond
    # the last input channel; beyond a tap's last row are the next tap's, for channels that no output has.
    w_desc,  # [KT * KH * KW * CO, CI] in boxes [BLOCK_N, BLOCK_K]
    w_rest_desc,  # the same in boxes [BLOCK_N_REST, BLOCK_K]
    bias_ptr,  # [CO], float32
    y_desc,  # [N, T', H', W', CO] in boxes [BLOCK_B, BLOCK_T, BLOCK_H, BLOCK_W, BLOCK_N]
    y_rest_desc,  # the same in boxes of BLOCK_N_REST channels
    z_desc,  # like y's, where SPLIT: the channels from split on
    z_rest_desc,
    r_desc,  # like y's, where ADD: the residual
    r_rest_desc,
    part_ptr,  # [tiles of pixels, 3, CO], float32, where STATS
    in_channels,
    out_channels,  # of both outputs
    split,  # channels of y
    chunks,  # of BLOCK_K input channels
    tiles_n,
    tiles_y,  # of these the ones over y's channels
    tiles_w,
    tiles_h,
    tiles_t,
    batch,
    out_t,
    out_h,
    out_w,
    pad_t,
    pad_h,
    pad_w,
    KT: tl.constexpr,
    KH: tl.constexpr,
    KW: tl.constexpr,
    RELU: tl.constexpr,
    SPLIT: tl.constexpr,
    ADD: tl.constexpr,
    STATS: tl.constexpr,
    PRODUCTS: tl.constexpr,  # 3 for the results of float32
    BLOCK_B: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_H: tl.constexpr,
    BLOCK_W: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_N_REST: tl.constexpr,
    BLOCK_K: tl.constexpr,
    PDL: tl.constexpr = False,
):
    """Stride 1: a tap's pixels are the tile's box, shifted. Weights stand on the left, so that both operands
    of a product stay in shared memory. BLOCK_N_REST, if not 0, is a second tile of channels over the
    same pixels, for numbers of channels that are no power of two. With SPLIT no tile has channels of both
    outputs: what it computes beyond its own output's last channel, that output's descriptor drops. With STATS
    neither bias nor ReLU, and the statistics of the sums as they are before they are rounded.
    """
    in_turn(PDL)
    BLOCK_M: tl.constexpr = BLOCK_B * BLOCK_T * BLOCK_H * BLOCK_W
    tile = tl.program_id(0)
    n0 = (tile % tiles_n) * (BLOCK_N + BLOCK_N_REST)
    in_z = False
    if SPLIT:
        in_z = tile % tiles_n >= tiles_y
        if in_z:
            n0 += split - tiles_y * (BLOCK_N + BLOCK_N_REST)
    tile = tile // tiles_n
    w0 = (tile % tiles_w) * BLOCK_W
    tile = tile // tiles_w
    h0 = (tile % tiles_h) * BLOCK_H
    tile = tile // tiles_h
    t0 = (tile % tiles_t) * BLOCK_T
    b0 = (tile // tiles_t) * BLOCK_B

    acc = tl.zeros((BLOCK_N, BLOCK_M), tl.float32)
    if BLOCK_N_REST > 0:
        acc_rest = tl.zeros((BLOCK_N_REST, BLOCK_M), tl.float32)
    h_first = h0 - pad_h
    w_first = w0 - pad_w
    t = t0 - pad_t
    h = h_first
    w = w_first
    w_row = n0
    c0 = 0
    for _ in tl.range(0, KT * KH * KW * chunks):
        # Weights before x is reshaped, so that their loads share a barrier.
        weight = w_desc.load([w_row, c0])
        if BLOCK_N_REST > 0:
            weight_rest = w_rest_desc.load([w_row + BLOCK_N, c0])
        x = tl.reshape(x_desc.load([b0, t, h, w, c0]), (BLOCK_M, BLOCK_K)).T  # [BLOCK_K, BLOCK_M]
        acc = product(weight, x, acc, PRODUCTS)
        if BLOCK_N_REST > 0:
            acc_rest = product(weight_rest, x, acc_rest, PRODUCTS)
        c0, w_row, t, h, w = _next_chunk(
            c0, w_row, t, h, w, in_channels, out_channels, h_first, w_first, KH, KW, BLOCK_K
        )

    pixels = tl.program_id(0) // tiles_n
    if BLOCK_N_REST > 0:
        # First, so that its registers are free when the larger tile's residual is read.
        n1 = n0 + BLOCK_N
        _finish(
            acc_rest, bias_ptr, out_channels, r_rest_desc, y_rest_desc, z_rest_desc, in_z, split,
            b0, t0, h0, w0, n1, part_ptr, pixels,
            batch, out_t, out_h, out_w, ADD, RELU, SPLIT, STATS,
        )  # fmt: skip
    _finish(
        acc, bias_ptr, out_channels, r_desc, y_desc, z_desc, in_z, split,
        b0, t0, h0, w0, n0, part_ptr, pixels,
        batch, out_t, out_h, out_w, ADD, RELU, SPLIT, STATS,
    )  # fmt: skip


@triton.jit(do_not_specialize=_POINTER_SIZES + _PADDING)
def _conv3d_pointer_kernel(
    x_ptr,  # [N, T, H, W, CI], channels adjacent
    w_ptr,  # [KT * KH * KW, CO, CI], dense
    bias_ptr,  # [CO], float32
    y_ptr,  # [N, T', H', W', CO], channels adjacent
    z_ptr,  # like y, where SPLIT: the channels from split on
    r_ptr,  # like y, where ADD: the residual
    part_ptr,  # [tiles of pixels, 3, CO], float32, where STATS
    pixels,  # N * T' * H' * W'
    size_t,
    size_h,
    size_w,
    in_channels,
    out_t,
    out_h,
    out_w,
    out_channels,  # of both outputs
    split,  # channels of y
    stride_x_n,
    stride_x_t,
    stride_x_h,
    stride_x_w,
    stride_y_n,
    stride_y_t,
    stride_y_h,
    stride_y_w,
    stride_z_n,
    stride_z_t,
    stride_z_h,
    stride_z_w,
    stride_r_n,
    stride_r_t,
    stride_r_h,
    stride_r_w,
    chunks,  # of BLOCK_K input channels
    tiles_n,
    tiles_y,  # of these the ones over y's channels
    pad_t,
    pad_h,
    pad_w,
    KT: tl.constexpr,
    KH: tl.constexpr,
    KW: tl.constexpr,
    ST: tl.constexpr,
    SH: tl.constexpr,
    SW: tl.constexpr,
    RELU: tl.constexpr,
    SPLIT: tl.constexpr,
    ADD: tl.constexpr,
    STATS: tl.constexpr,
    PRODUCTS: tl.constexpr,
    # Channels and strides come divided by these, so that the compiler knows them as multiples: one load is
    # of 16 bytes.
    VECTOR_X: tl.constexpr,
    VECTOR_Y: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    PDL: tl.constexpr = False,
):
    """Any strides, any channels, every architecture. With SPLIT no tile has channels of both outputs; STATS
    is as above.
    """
    in_turn(PDL)
    in_channels *= VECTOR_X
    stride_x_n = stride_x_n.to(tl.int64) * VECTOR_X
    stride_x_t = stride_x_t.to(tl.int64) * VECTOR_X
    stride_x_h = stride_x_h.to(tl.int64) * VECTOR_X
    stride_x_w = stride_x_w.to(tl.int64) * VECTOR_X
    out_channels *= VECTOR_Y
    stride_y_n = stride_y_n.to(tl.int64) * VECTOR_Y
    stride_y_t = stride_y_t.to(tl.int64) * VECTOR_Y
    stride_y_h = stride_y_h.to(tl.int64) * VECTOR_Y
    stride_y_w = stride_y_w.to(tl.int64) * VECTOR_Y
    tile = tl.program_id(0)
    n0 = (tile % tiles_n) * BLOCK_N
    end = out_channels  # of the tile's output
    if SPLIT:
        split *= VECTOR_Y
        if tile % tiles_n < tiles_y:
            end = split
        else:
            n0 += split - tiles_y * BLOCK_N
            # Channel n of the weights is channel n - split of z.
            y_ptr = z_ptr - split
            stride_y_n = stride_z_n.to(tl.int64) * VECTOR_Y
            stride_y_t = stride_z_t.to(tl.int64) * VECTOR_Y
            stride_y_h = stride_z_h.to(tl.int64) * VECTOR_Y
            stride_y_w = stride_z_w.to(tl.int64) * VECTOR_Y
    n = n0 + tl.arange(0, BLOCK_N)
    m = (tile // tiles_n) * BLOCK_M + tl.arange(0, BLOCK_M)
    w_out = m % out_w
    row = m // out_w
    h_out = row % out_h
    frame = row // out_h
    t_out = frame % out_t
    b = (frame // out_t).to(tl.int64)
    t0 = t_out * ST - pad_t
    h0 = h_out * SH - pad_h
    w0 = w_out * SW - pad_w
    x_first = b * stride_x_n + t0.to(tl.int64) * stride_x_t + h0.to(tl.int64) * stride_x_h  # [BLOCK_M]
    x_first += w0.to(tl.int64) * stride_x_w
    w_pitch = in_channels.to(tl.int64)
    w_first = n * w_pitch  # [BLOCK_N]
    k = tl.arange(0, BLOCK_K)

    acc = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    c0 = 0
    w_row = 0
    t = 0
    h = 0
    w = 0
    for _ in tl.range(0, KT * KH * KW * chunks):
        c = c0 + k
        inside = (t0 + t >= 0) & (t0 + t < size_t) & (h0 + h >= 0) & (h0 + h < size_h)
        inside = inside & (w0 + w >= 0) & (w0 + w < size_w) & (m < pixels)
        shift = t * stride_x_t + h * stride_x_h + w * stride_x_w
        channel = c < in_channels
        x = tl.load(
            x_ptr + (x_first + shift)[:, None] + c[None, :],
            mask=inside[:, None] & channel[None, :],
            other=0.0,
        )  # [BLOCK_M, BLOCK_K]
        weight = tl.load(
            w_ptr + (w_first + w_row * w_pitch)[None, :] + c[:, None],
            mask=(n < out_channels)[None, :] & channel[:, None],
            other=0.0,
        )  # [BLOCK_K, BLOCK_N]
        acc = product(x, weight, acc, PRODUCTS)
        c0, w_row, t, h, w = _next_chunk(c0, w_row, t, h, w, in_channels, out_channels, 0, 0, KH, KW, BLOCK_K)

    if not STATS:
        acc += tl.load(bias_ptr + n, mask=n < out_channels, other=0.0)[None, :]
    stored = (m < pixels)[:, None] & (n < end)[None, :]
    if ADD:
        r_first = b * (stride_r_n.to(tl.int64) * VECTOR_Y) + t_out * (stride_r_t.to(tl.int64) * VECTOR_Y)
        r_first += h_out * (stride_r_h.to(tl.int64) * VECTOR_Y) + w_out * (stride_r_w.to(tl.int64) * VECTOR_Y)
        acc += tl.load(r_ptr + r_first[:, None] + n[None, :], mask=stored, other=0.0).to(tl.float32)
    if RELU:
        acc = tl.maximum(acc, 0.0, propagate_nan=tl.PropagateNan.ALL)
    y_first = b * stride_y_n + t_out.to(tl.int64) * stride_y_t + h_out.to(tl.int64) * stride_y_h
    y_first += w_out.to(tl.int64) * stride_y_w
    tl.store(
        y_ptr + y_first[:, None] + n[None, :],
        acc.to(y_ptr.dtype.element_ty),
        mask=stored,
    )
    if STATS:
        left = pixels - tile // tiles_n * BLOCK_M
        _store_stats(part_ptr, tile // tiles_n, acc, 1, 1, 1, left, n0, out_channels, 1, 1, 1, 1, BLOCK_M)


@triton.jit(do_not_specialize=_FOLD_SIZES + _PADDING)
def _conv3d_fold_kernel(
    x_ptr,  # [N, C, T, H, W], any layout
    y_ptr,  # [N, T', H', W', CELL], dense
    size_t,
    size_h,
    size_w,
    stride_x_n,
    stride_x_c,
    stride_x_t,
    stride_x_h,
    stride_x_w,
    cells_t,
    cells_h,
    cells_w,
    pad_t,
    pad_h,
    pad_w,
    mean_0,  # of bytes, by channel
    mean_1,
    mean_2,
    scale_0,  # 1 / std: a division would take a stack
    scale_1,
    scale_2,
    C: tl.constexpr,
    ST: tl.constexpr,
    SH: tl.constexpr,
    SW: tl.constexpr,
    CELL: tl.constexpr,
    BLOCK: tl.constexpr,
    PDL: tl.constexpr = False,
):
    """Space-to-depth: a window's step of ST x SH x SW pixels becomes one cell of that many times C channels,
    zero outside the clip and from there up to CELL. Bytes b become (b - mean) * scale.
    """
    in_turn(PDL)
    row = tl.program_id(0)
    h_cell = row % cells_h
    frame = row // cells_h
    t_cell = frame % cells_t
    b = (frame // cells_t).to(tl.int64)
    e = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)  # [BLOCK], along a row of cells
    inner = e % CELL
    c = inner % C
    pixel = inner // C
    t = t_cell * ST + pixel // (SH * SW) - pad_t
    h = h_cell * SH + pixel // SW % SH - pad_h
    w = e // CELL * SW + pixel % SW - pad_w
    inside = (pixel < ST * SH * SW) & (t >= 0) & (t < size_t) & (h >= 0) & (h < size_h)
    inside = inside & (w >= 0) & (w < size_w)
    source = b * stride_x_n + c.to(tl.int64) * stride_x_c + t.to(tl.int64) * stride_x_t
    source += h.to(tl.int64) * stride_x_h + w.to(tl.int64) * stride_x_w
    inside = inside & (e < cells_w * CELL)
    if x_ptr.dtype.element_ty == tl.uint8:
        byte = tl.load(x_ptr + source, mask=inside, other=0).to(tl.float32)
        mean = tl.where(c == 0, mean_0, tl.where(c == 1, mean_1, mean_2))
        scale = tl.where(c == 0, scale_0, tl.where(c == 1, scale_1, scale_2))
        # In half precision the same as by a division for every byte and all known means, and as / 127.5 - 1;
        # in float32 within its rounding.
        value = tl.where(inside, (byte - mean) * scale, 0.0).to(y_ptr.dtype.element_ty)
    else:
        value = tl.load(x_ptr + source, mask=inside, other=0.0)
    tl.store(y_ptr + row.to(tl.int64) * (cells_w * CELL) + e, value, mask=e < cells_w * CELL)
