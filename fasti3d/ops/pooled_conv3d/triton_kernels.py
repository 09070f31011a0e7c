"""max-pool 3x3x3 (stride 1, SAME) + 1x1x1 convolution + bias + ReLU as one GEMM.

This module imports triton, so nothing that ``import fasti3d`` reaches may import it.
"""

from __future__ import annotations

import triton
import triton.language as tl

from fasti3d.ops.conv3d_bn_relu.triton_kernels import product
from fasti3d.ops.dependent_launch.triton_kernels import in_turn
from fasti3d.ops.max_pool3d_same.triton_kernels import pixels_of_box, window_maximum

# Do not specialize on integer sizes: one build of a configuration serves every layer and size.
_SIZES = [
    *("batch", "size_t", "size_h", "size_w", "in_channels", "out_channels"),
    *("stride_x_n", "stride_x_t", "stride_x_h", "stride_x_w"),
    *("stride_y_n", "stride_y_t", "stride_y_h", "stride_y_w"),
    *("chunks", "tiles_w", "tiles_h", "tiles_t"),
]


@triton.jit(do_not_specialize=_SIZES)
def _pooled_conv3d_kernel(
    x_ptr,  # [N, T, H, W, CI], channels adjacent
    w_ptr,  # [CO, CI], dense
    bias_ptr,  # [CO], float32
    y_ptr,  # [N, T, H, W, CO], channels adjacent
    batch,
    size_t,
    size_h,
    size_w,
    in_channels,
    out_channels,
    stride_x_n,
    stride_x_t,
    stride_x_h,
    stride_x_w,
    stride_y_n,
    stride_y_t,
    stride_y_h,
    stride_y_w,
    chunks,  # of BLOCK_K input channels
    tiles_w,
    tiles_h,
    tiles_t,
    RELU: tl.constexpr,
    PRODUCTS: tl.constexpr,  # 3 for the results of float32
    # Channels and strides come divided by these, so that the compiler knows them as multiples.
    VECTOR_X: tl.constexpr,
    VECTOR_Y: tl.constexpr,
    BLOCK_B: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_H: tl.constexpr,
    BLOCK_W: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    PDL: tl.constexpr = False,
):
    """A chunk of channels is pooled in registers and goes from there into the product. All output channels
    are in one tile, so that nothing is pooled twice.

    No tensor descriptors: the copy engine reads past the L1 cache, which has most of the 27 shifted
    boxes, and would pad with zeros.
    """
    in_turn(PDL)
    BLOCK_M: tl.constexpr = BLOCK_B * BLOCK_T * BLOCK_H * BLOCK_W
    in_channels *= VECTOR_X
    out_channels *= VECTOR_Y
    stride_x_n = stride_x_n.to(tl.int64) * VECTOR_X
    stride_x_t = stride_x_t.to(tl.int64) * VECTOR_X
    stride_x_h = stride_x_h.to(tl.int64) * VECTOR_X
    stride_x_w = stride_x_w.to(tl.int64) * VECTOR_X
    b, t, h, w = pixels_of_box(
        tl.program_id(0), tiles_w, tiles_h, tiles_t, BLOCK_B, BLOCK_T, BLOCK_H, BLOCK_W
    )
    n = tl.arange(0, BLOCK_N)

    acc = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    # One stage: only the weights could be loaded ahead, and they arrive in time.
    for i in tl.range(0, chunks, num_stages=1):
        c = i * BLOCK_K + tl.arange(0, BLOCK_K)
        channel = c < in_channels
        x = window_maximum(
            x_ptr,
            b,
            t - 1,
            h - 1,
            w - 1,
            c,
            batch,
            size_t,
            size_h,
            size_w,
            in_channels,
            stride_x_n,
            stride_x_t,
            stride_x_h,
            stride_x_w,
            3,
            3,
            3,
        )
        # -inf times the zeros of the weights beyond the last channel would be NaN.
        x = tl.where(channel[None, :], x, 0.0).to(x_ptr.dtype.element_ty)  # [BLOCK_M, BLOCK_K]
        weight = tl.load(
            w_ptr + n.to(tl.int64)[None, :] * in_channels + c[:, None],
            mask=(n < out_channels)[None, :] & channel[:, None],
            other=0.0,
        )  # [BLOCK_K, BLOCK_N]
        acc = product(x, weight, acc, PRODUCTS)

    acc += tl.load(bias_ptr + n, mask=n < out_channels, other=0.0)[None, :]
    if RELU:
        acc = tl.maximum(acc, 0.0, propagate_nan=tl.PropagateNan.ALL)
    y_first = b.to(tl.int64) * (stride_y_n.to(tl.int64) * VECTOR_Y)  # [BLOCK_M]
    y_first += t.to(tl.int64) * (stride_y_t.to(tl.int64) * VECTOR_Y)
    y_first += h.to(tl.int64) * (stride_y_h.to(tl.int64) * VECTOR_Y)
    y_first += w.to(tl.int64) * (stride_y_w.to(tl.int64) * VECTOR_Y)
    inside = (b < batch) & (t < size_t) & (h < size_h) & (w < size_w)
    tl.store(
        y_ptr + y_first[:, None] + n[None, :],
        acc.to(y_ptr.dtype.element_ty),
        mask=inside[:, None] & (n < out_channels)[None, :],
    )
