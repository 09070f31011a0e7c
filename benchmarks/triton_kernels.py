"""Convolutions written otherwise than those that ship, to measure what they would be worth.

As in fasti3d's own, a tile of pixels is a box of a channels-last clip, read and written by descriptors.
"""

from __future__ import annotations

import triton
import triton.language as tl

_ACTIVATIONS_LEFT_SIZES = [
    *("in_channels", "out_channels", "chunks", "tiles_n", "tiles_w", "tiles_h", "tiles_t"),
    *("pad_t", "pad_h", "pad_w"),
]
_STEM_PAIRS_SIZES = ["out_channels", "chunks", "tiles_w", "tiles_h", "pairs"]


@triton.jit(do_not_specialize=_ACTIVATIONS_LEFT_SIZES)
def _conv3d_activations_left_kernel(
    x_desc,  # [N, T, H, W, CI] in boxes [BLOCK_B, BLOCK_T, BLOCK_H, BLOCK_W, BLOCK_K]
    w_desc,  # [CO, KT * KH * KW * CI] in boxes [BLOCK_N, BLOCK_K]
    bias_ptr,  # [CO], float32
    y_desc,  # [N, T', H', W', CO] in boxes [BLOCK_B, BLOCK_T, BLOCK_H, BLOCK_W, BLOCK_N]
    in_channels,
    out_channels,
    chunks,  # of BLOCK_K input channels
    tiles_n,
    tiles_w,
    tiles_h,
    tiles_t,
    pad_t,
    pad_h,
    pad_w,
    KT: tl.constexpr,
    KH: tl.constexpr,
    KW: tl.constexpr,
    BLOCK_B: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_H: tl.constexpr,
    BLOCK_W: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """The descriptor form with the operands of the product the other way round: pixels times channels."""
    BLOCK_M: tl.constexpr = BLOCK_B * BLOCK_T * BLOCK_H * BLOCK_W
    tile = tl.program_id(0)
    n0 = (tile % tiles_n) * BLOCK_N
    tile = tile // tiles_n
    w0 = (tile % tiles_w) * BLOCK_W
    tile = tile // tiles_w
    h0 = (tile % tiles_h) * BLOCK_H
    tile = tile // tiles_h
    t0 = (tile % tiles_t) * BLOCK_T
    b0 = (tile // tiles_t) * BLOCK_B

    acc = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for i in tl.range(0, KT * KH * KW * chunks):
        tap = i // chunks
        c0 = (i - tap * chunks) * BLOCK_K
        t = t0 + tap // (KH * KW) - pad_t
        h = h0 + tap // KW % KH - pad_h
        w = w0 + tap % KW - pad_w
        x = tl.reshape(x_desc.load([b0, t, h, w, c0]), (BLOCK_M, BLOCK_K))  # [BLOCK_M, BLOCK_K]
        acc = tl.dot(x, w_desc.load([n0, tap * in_channels + c0]).T, acc)

    n = n0 + tl.arange(0, BLOCK_N)
    acc += tl.load(bias_ptr + n, mask=n < out_channels, other=0.0)[None, :]
    acc = tl.maximum(acc, 0.0, propagate_nan=tl.PropagateNan.ALL)
    y_desc.store([b0, t0, h0, w0, n0], tl.reshape(acc.to(y_desc.dtype), y_desc.block_shape))


@triton.jit(do_not_specialize=_STEM_PAIRS_SIZES)
def _stem_pairs_kernel(
    x_desc,  # [N, T' + 3, H' + 3, W', CI], rows that overlap, in boxes [1, 1, BLOCK_H, BLOCK_W, BLOCK_K]
    w_desc,  # [2 * BLOCK_N, 5 * 4 * CI] in boxes [BLOCK_N, BLOCK_K]: a pair's first frame, then its second
    bias_ptr,  # [CO], float32
    y_desc,  # [N, T', H', W', CO] in boxes [1, 1, BLOCK_H, BLOCK_W, BLOCK_N]
    out_channels,  # no more than BLOCK_N
    chunks,  # of BLOCK_K of a row's values
    tiles_w,
    tiles_h,
    pairs,  # of output frames
    KT: tl.constexpr,  # of a frame's window; a pair's has one more
    KH: tl.constexpr,
    BLOCK_H: tl.constexpr,
    BLOCK_W: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """The folded stem, two frames of the output at once: what they share of the clip is read once, and each
    multiplies a frame of it by zeros.
    """
    BLOCK_M: tl.constexpr = BLOCK_H * BLOCK_W
    tile = tl.program_id(0)
    w0 = (tile % tiles_w) * BLOCK_W
    tile = tile // tiles_w
    h0 = (tile % tiles_h) * BLOCK_H
    tile = tile // tiles_h
    t0 = (tile % pairs) * 2
    b = tile // pairs

    first = tl.zeros((BLOCK_N, BLOCK_M), tl.float32)
    second = tl.zeros((BLOCK_N, BLOCK_M), tl.float32)
    for i in tl.range(0, (KT + 1) * KH * chunks):
        tap = i // chunks
        c0 = (i - tap * chunks) * BLOCK_K
        x = tl.reshape(x_desc.load([b, t0 + tap // KH, h0 + tap % KH, w0, c0]), (BLOCK_M, BLOCK_K)).T
        first = tl.dot(w_desc.load([0, i * BLOCK_K]), x, first)
        second = tl.dot(w_desc.load([BLOCK_N, i * BLOCK_K]), x, second)

    n = tl.arange(0, BLOCK_N)
    bias = tl.load(bias_ptr + n, mask=n < out_channels, other=0.0)[:, None]  # [BLOCK_N, 1]
    first = tl.maximum(first + bias, 0.0, propagate_nan=tl.PropagateNan.ALL)
    second = tl.maximum(second + bias, 0.0, propagate_nan=tl.PropagateNan.ALL)
    y_desc.store([b, t0, h0, w0, 0], tl.reshape(first.to(y_desc.dtype).T, y_desc.block_shape))
    y_desc.store([b, t0 + 1, h0, w0, 0], tl.reshape(second.to(y_desc.dtype).T, y_desc.block_shape))


@triton.jit(do_not_specialize=["blocks"])
def _read_kernel(
    x_ptr,  # [blocks * BLOCK], int32
    sum_ptr,  # [programs]
    blocks,
    BLOCK: tl.constexpr,
):
    """Every program reads all of x, each from another place on, past the L1 cache."""
    program = tl.program_id(0)
    block = program * 97 % blocks
    total = tl.zeros((BLOCK,), tl.int32)
    for _ in tl.range(0, blocks):
        total += tl.load(x_ptr + block * BLOCK + tl.arange(0, BLOCK), cache_modifier=".cg")
        block = tl.where(block + 1 == blocks, 0, block + 1)
    tl.store(sum_ptr + program, tl.sum(total))
