"""Max-pool of channels-last clips, padded by loads that read -inf outside the clip.

This module imports triton, so nothing that ``import fasti3d`` reaches may import it.
"""

from __future__ import annotations

import triton
import triton.language as tl

from fasti3d.ops.dependent_launch.triton_kernels import in_turn

# Do not specialize on integer sizes: one build of a configuration serves every size.
_SIZES = [
    *("batch", "size_t", "size_h", "size_w", "out_t", "out_h", "out_w", "channels"),
    *("stride_x_n", "stride_x_t", "stride_x_h", "stride_x_w"),
    *("stride_y_n", "stride_y_t", "stride_y_h", "stride_y_w"),
    *("tiles_c", "tiles_w", "tiles_h", "tiles_t", "pad_t", "pad_h", "pad_w"),
]


@triton.jit
def pixels_of_box(
    tile,
    tiles_w,
    tiles_h,
    tiles_t,
    BLOCK_B: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_H: tl.constexpr,
    BLOCK_W: tl.constexpr,
):
    """Clip, frame, row and column of each pixel of a box, [BLOCK_M] each."""
    m = tl.arange(0, BLOCK_B * BLOCK_T * BLOCK_H * BLOCK_W)
    w = (tile % tiles_w) * BLOCK_W + m % BLOCK_W
    tile = tile // tiles_w
    h = (tile % tiles_h) * BLOCK_H + m // BLOCK_W % BLOCK_H
    tile = tile // tiles_h
    t = (tile % tiles_t) * BLOCK_T + m // (BLOCK_W * BLOCK_H) % BLOCK_T
    b = (tile // tiles_t) * BLOCK_B + m // (BLOCK_W * BLOCK_H * BLOCK_T)
    return b, t, h, w


@triton.jit
def window_maximum(
    x_ptr,
    b,  # [BLOCK_M], as the next three: the window's first pixel, which may lie outside the clip
    t0,
    h0,
    w0,
    c,  # [BLOCK_C]
    batch,
    size_t,
    size_h,
    size_w,
    channels,
    stride_x_n,  # int64, as the next three
    stride_x_t,
    stride_x_h,
    stride_x_w,
    KT: tl.constexpr,
    KH: tl.constexpr,
    KW: tl.constexpr,
):
    """The largest values of windows, [BLOCK_M, BLOCK_C] in x's dtype: -inf where a window lies outside. A NaN
    wins, as in torch.
    """
    # Some releases of triton compare bfloat16 in float32, some by itself, and the interpreter by its bits.
    COMPARED: tl.constexpr = tl.float32 if x_ptr.dtype.element_ty == tl.bfloat16 else x_ptr.dtype.element_ty
    first = b.to(tl.int64) * stride_x_n + t0.to(tl.int64) * stride_x_t + h0.to(tl.int64) * stride_x_h
    first += w0.to(tl.int64) * stride_x_w
    windows = x_ptr + first[:, None] + c[None, :]  # [BLOCK_M, BLOCK_C]
    best = tl.full(windows.shape, float("-inf"), COMPARED)
    # A loop, as with all taps of 3x3x3 unrolled the loads in flight do not fit the registers.
    for row in tl.range(0, KT * KH):
        t = row // KH
        h = row % KH
        inside = (t0 + t >= 0) & (t0 + t < size_t) & (h0 + h >= 0) & (h0 + h < size_h) & (b < batch)
        taps = windows + (t.to(tl.int64) * stride_x_t + h.to(tl.int64) * stride_x_h)
        for w in tl.static_range(KW):
            read = inside & (w0 + w >= 0) & (w0 + w < size_w)
            x = tl.load(
                taps + w * stride_x_w,
                mask=read[:, None] & (c < channels)[None, :],
                other=float("-inf"),
            )  # [BLOCK_M, BLOCK_C]
            best = tl.maximum(best, x.to(COMPARED), propagate_nan=tl.PropagateNan.ALL)
    return best.to(x_ptr.dtype.element_ty)


@triton.jit(do_not_specialize=_SIZES)
def _max_pool3d_same_kernel(
    x_ptr,  # [N, T, H, W, C], channels adjacent
    y_ptr,  # [N, T', H', W', C], channels adjacent
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
    # Channels and strides come divided by this, so that the compiler knows them as multiples.
    VECTOR: tl.constexpr,
    BLOCK_B: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_H: tl.constexpr,
    BLOCK_W: tl.constexpr,
    BLOCK_C: tl.constexpr,
    PDL: tl.constexpr = False,
):
    """A box of output pixels, so that windows share what they read through the L1 cache."""
    in_turn(PDL)
    channels *= VECTOR
    tile = tl.program_id(0)
    c = (tile % tiles_c) * BLOCK_C + tl.arange(0, BLOCK_C)
    b, t, h, w = pixels_of_box(tile // tiles_c, tiles_w, tiles_h, tiles_t, BLOCK_B, BLOCK_T, BLOCK_H, BLOCK_W)
    best = window_maximum(
        x_ptr,
        b,
        t * ST - pad_t,
        h * SH - pad_h,
        w * SW - pad_w,
        c,
        batch,
        size_t,
        size_h,
        size_w,
        channels,
        stride_x_n.to(tl.int64) * VECTOR,
        stride_x_t.to(tl.int64) * VECTOR,
        stride_x_h.to(tl.int64) * VECTOR,
        stride_x_w.to(tl.int64) * VECTOR,
        KT,
        KH,
        KW,
    )  # [BLOCK_M, BLOCK_C]
    y_first = b.to(tl.int64) * (stride_y_n.to(tl.int64) * VECTOR)  # [BLOCK_M]
    y_first += t.to(tl.int64) * (stride_y_t.to(tl.int64) * VECTOR)
    y_first += h.to(tl.int64) * (stride_y_h.to(tl.int64) * VECTOR)
    y_first += w.to(tl.int64) * (stride_y_w.to(tl.int64) * VECTOR)
    inside = (b < batch) & (t < out_t) & (h < out_h) & (w < out_w)
    tl.store(
        y_ptr + y_first[:, None] + c[None, :],
        best,
        mask=inside[:, None] & (c < channels)[None, :],
    )
