"""Max-pool that says which tap of each window won, and its gradient, which gathers: every value from the
windows it is in, in the order of its taps there.

This module imports triton, so nothing that ``import fasti3d`` reaches may import it.
"""

from __future__ import annotations

import triton
import triton.language as tl

from fasti3d.ops.max_pool3d_same.triton_kernels import pixels_of_box

# Do not specialize on integer sizes: one build of a configuration serves every size.
_SIZES = [
    *("batch", "size_t", "size_h", "size_w", "out_t", "out_h", "out_w", "channels"),
    *("stride_x_n", "stride_x_t", "stride_x_h", "stride_x_w"),
    *("stride_y_n", "stride_y_t", "stride_y_h", "stride_y_w"),
    *("stride_taps_n", "stride_taps_t", "stride_taps_h", "stride_taps_w"),
    *("tiles_c", "tiles_w", "tiles_h", "tiles_t", "pad_t", "pad_h", "pad_w"),
]


@triton.jit
def _places(b, t, h, w, stride_n, stride_t, stride_h, stride_w, VECTOR: tl.constexpr):
    """Where pixels lie, [BLOCK_M] of int64. Strides come divided by VECTOR, so that the compiler knows them
    as multiples.
    """
    place = b.to(tl.int64) * (stride_n.to(tl.int64) * VECTOR) + t.to(tl.int64) * (
        stride_t.to(tl.int64) * VECTOR
    )
    place += h.to(tl.int64) * (stride_h.to(tl.int64) * VECTOR)
    return place + w.to(tl.int64) * (stride_w.to(tl.int64) * VECTOR)


@triton.jit(do_not_specialize=_SIZES)
def _max_pool3d_taps_kernel(
    x_ptr,  # [N, T, H, W, C], channels adjacent
    y_ptr,  # [N, T', H', W', C], channels adjacent
    taps_ptr,  # likewise, uint8
    batch,
    size_t,
    size_h,
    size_w,
    out_t,
    out_h,
    out_w,
    channels,
    stride_x_n,
    stride_x_t,
    stride_x_h,
    stride_x_w,
    stride_y_n,
    stride_y_t,
    stride_y_h,
    stride_y_w,
    stride_taps_n,
    stride_taps_t,
    stride_taps_h,
    stride_taps_w,
    tiles_c,
    tiles_w,
    tiles_h,
    tiles_t,
    pad_t,
    pad_h,
    pad_w,
    KT: tl.constexpr,
    KH: tl.constexpr,
    KW: tl.constexpr,
    ST: tl.constexpr,
    SH: tl.constexpr,
    SW: tl.constexpr,
    VECTOR: tl.constexpr,
    VECTOR_TAPS: tl.constexpr,
    BLOCK_B: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_H: tl.constexpr,
    BLOCK_W: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """The first of the largest values of a window, or the last NaN: a box of output pixels, so that windows
    share what they read through the L1 cache.
    """
    tile = tl.program_id(0)
    c = (tile % tiles_c) * BLOCK_C + tl.arange(0, BLOCK_C)
    b, t, h, w = pixels_of_box(tile // tiles_c, tiles_w, tiles_h, tiles_t, BLOCK_B, BLOCK_T, BLOCK_H, BLOCK_W)
    stored = ((b < batch) & (t < out_t) & (h < out_h) & (w < out_w))[:, None] & (c < channels * VECTOR)[
        None, :
    ]
    t0 = t * ST - pad_t
    h0 = h * SH - pad_h
    w0 = w * SW - pad_w
    windows = x_ptr + _places(b, t0, h0, w0, stride_x_n, stride_x_t, stride_x_h, stride_x_w, VECTOR)[:, None]
    windows += c[None, :]
    step_t = stride_x_t.to(tl.int64) * VECTOR
    step_h = stride_x_h.to(tl.int64) * VECTOR
    step_w = stride_x_w.to(tl.int64) * VECTOR
    best = tl.full(windows.shape, float("-inf"), tl.float32)
    # Where all are -inf, the first that is not padding.
    first = (tl.maximum(-t0, 0) * KH + tl.maximum(-h0, 0)) * KW + tl.maximum(-w0, 0)  # [BLOCK_M]
    winner = tl.zeros(windows.shape, tl.int32) + first[:, None]
    # A loop, as with all taps unrolled the loads in flight do not fit the registers.
    for row in tl.range(0, KT * KH):
        dt = row // KH
        dh = row % KH
        inside = (t0 + dt >= 0) & (t0 + dt < size_t) & (h0 + dh >= 0) & (h0 + dh < size_h)
        taps = windows + (dt.to(tl.int64) * step_t + dh.to(tl.int64) * step_h)
        for dw in tl.static_range(KW):
            read = stored & (inside & (w0 + dw >= 0) & (w0 + dw < size_w))[:, None]
            x = tl.load(taps + dw * step_w, mask=read, other=float("-inf")).to(tl.float32)
            wins = (x > best) | (x != x)
            best = tl.where(wins, x, best)
            winner = tl.where(wins, row * KW + dw, winner)
    y = (
        y_ptr
        + _places(b, t, h, w, stride_y_n, stride_y_t, stride_y_h, stride_y_w, VECTOR)[:, None]
        + c[None, :]
    )
    tl.store(y, best.to(y_ptr.dtype.element_ty), mask=stored)
    places = _places(b, t, h, w, stride_taps_n, stride_taps_t, stride_taps_h, stride_taps_w, VECTOR_TAPS)
    tl.store(taps_ptr + places[:, None] + c[None, :], winner.to(tl.uint8), mask=stored)


@triton.jit(do_not_specialize=_SIZES)
def _max_pool3d_taps_backward_kernel(
    grad_ptr,  # [N, T', H', W', C], channels adjacent
    taps_ptr,  # likewise, uint8
    x_ptr,  # [N, T, H, W, C], channels adjacent: the gradient that is written
    batch,
    size_t,
    size_h,
    size_w,
    out_t,
    out_h,
    out_w,
    channels,
    stride_y_n,
    stride_y_t,
    stride_y_h,
    stride_y_w,
    stride_taps_n,
    stride_taps_t,
    stride_taps_h,
    stride_taps_w,
    stride_x_n,
    stride_x_t,
    stride_x_h,
    stride_x_w,
    tiles_c,
    tiles_w,
    tiles_h,
    tiles_t,
    pad_t,
    pad_h,
    pad_w,
    KT: tl.constexpr,
    KH: tl.constexpr,
    KW: tl.constexpr,
    ST: tl.constexpr,
    SH: tl.constexpr,
    SW: tl.constexpr,
    VECTOR: tl.constexpr,
    VECTOR_TAPS: tl.constexpr,
    BLOCK_B: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_H: tl.constexpr,
    BLOCK_W: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """A box of input pixels. A pixel at place p of a padded axis is in the windows from p // S on downwards,
    as their taps p % S, p % S + S and so on.
    """
    tile = tl.program_id(0)
    c = (tile % tiles_c) * BLOCK_C + tl.arange(0, BLOCK_C)
    b, t, h, w = pixels_of_box(tile // tiles_c, tiles_w, tiles_h, tiles_t, BLOCK_B, BLOCK_T, BLOCK_H, BLOCK_W)
    stored = ((b < batch) & (t < size_t) & (h < size_h) & (w < size_w))[:, None] & (c < channels * VECTOR)[
        None, :
    ]
    t0 = (t + pad_t) // ST
    h0 = (h + pad_h) // SH
    w0 = (w + pad_w) // SW
    tap_t = (t + pad_t) % ST
    tap_h = (h + pad_h) % SH
    tap_w = (w + pad_w) % SW
    grads = grad_ptr + _places(b, t0, h0, w0, stride_y_n, stride_y_t, stride_y_h, stride_y_w, VECTOR)[:, None]
    grads += c[None, :]
    places = _places(b, t0, h0, w0, stride_taps_n, stride_taps_t, stride_taps_h, stride_taps_w, VECTOR_TAPS)
    taps = taps_ptr + places[:, None] + c[None, :]
    total = tl.zeros(grads.shape, tl.float32)
    ROWS: tl.constexpr = (KH + SH - 1) // SH
    for row in tl.range(0, (KT + ST - 1) // ST * ROWS):
        dt = row // ROWS
        dh = row % ROWS
        its_t = tap_t + dt * ST
        its_h = tap_h + dh * SH
        inside = (its_t < KT) & (t0 - dt >= 0) & (t0 - dt < out_t)
        inside = inside & (its_h < KH) & (h0 - dh >= 0) & (h0 - dh < out_h)
        shift = dt.to(tl.int64) * (stride_y_t.to(tl.int64) * VECTOR)
        shift += dh.to(tl.int64) * (stride_y_h.to(tl.int64) * VECTOR)
        shift_taps = dt.to(tl.int64) * (stride_taps_t.to(tl.int64) * VECTOR_TAPS)
        shift_taps += dh.to(tl.int64) * (stride_taps_h.to(tl.int64) * VECTOR_TAPS)
        for dw in tl.static_range((KW + SW - 1) // SW):
            its_w = tap_w + dw * SW
            read = inside & (its_w < KW) & (w0 - dw >= 0) & (w0 - dw < out_w)
            tap = (its_t * KH + its_h) * KW + its_w  # [BLOCK_M]
            mask = stored & read[:, None]
            winner = tl.load(
                taps - shift_taps - dw * (stride_taps_w.to(tl.int64) * VECTOR_TAPS), mask=mask, other=0
            )
            grad = tl.load(grads - shift - dw * (stride_y_w.to(tl.int64) * VECTOR), mask=mask, other=0.0)
            won = mask & (winner.to(tl.int32) == tap[:, None])
            total += tl.where(won, grad.to(tl.float32), 0.0)
    x = (
        x_ptr
        + _places(b, t, h, w, stride_x_n, stride_x_t, stride_x_h, stride_x_w, VECTOR)[:, None]
        + c[None, :]
    )
    tl.store(x, total.to(x_ptr.dtype.element_ty), mask=stored)
