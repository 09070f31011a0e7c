"""The head as one kernel: weighted sums of the map, the classifier on them, and the sum over channels.

All of the head is linear. A window's average over rows and columns, averaged over all windows, weighs each
pixel by the number of windows that hold it, which is a product of one number for its row and one for its
column. This module imports triton, so nothing that ``import fasti3d`` reaches may import it.
"""

from __future__ import annotations

import triton
import triton.language as tl

from fasti3d.ops.dependent_launch.triton_kernels import in_turn

# Do not specialize on integer sizes: one build serves every size.
_SIZES = [
    *("frames", "height", "width", "channels", "classes", "chunks"),
    *("window_t", "window_h", "window_w"),
]


@triton.jit
def _windows(position, length, window):
    """How many windows along an axis hold a position."""
    inner = tl.minimum(length - window + 1, window)
    return tl.minimum(tl.minimum(position + 1, length - position), inner)


@triton.jit(do_not_specialize=_SIZES)
def _average_head_kernel(
    x_ptr,  # [N, T, H, W, C], dense
    weight_ptr,  # [CLASSES, C], dense, float32
    bias_ptr,  # [CLASSES], float32
    features_ptr,  # [N, C, STEPS], dense, float32: a step per window in time
    logits_ptr,  # [N, CLASSES], dense, float32
    parts_ptr,  # [N, CHUNKS, CLASSES], float32: a chunk's share of the logits
    done_ptr,  # [N], int32, zeros: chunks that have written theirs
    frames,
    height,
    width,
    channels,
    classes,
    chunks,  # of BLOCK_C channels
    window_t,
    window_h,
    window_w,
    # Channels come divided by this, so that the compiler knows them as multiples: one load is of 16 bytes.
    VECTOR: tl.constexpr,
    # Frames of a window that are loaded together, 1 or 2.
    FRAMES: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_P: tl.constexpr,
    STEPS: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_J: tl.constexpr,
    PDL: tl.constexpr = False,
):
    """A program sums a chunk of a clip's channels; the last one to finish a clip adds up the chunks' shares
    of the logits, in their order, whatever the order in which they came.
    """
    in_turn(PDL)
    channels *= VECTOR
    n = (tl.program_id(0) // chunks).to(tl.int64)
    chunk = tl.program_id(0) % chunks
    c = chunk * BLOCK_C + tl.arange(0, BLOCK_C)
    pixels = height * width
    steps = frames - window_t + 1
    # In float32, for the product of all may not fit int32.
    windows = ((height - window_h + 1) * (width - window_w + 1)).to(tl.float32)
    windows *= (window_h * window_w).to(tl.float32) * window_t.to(tl.float32)

    mean = tl.zeros((BLOCK_C,), tl.float32)
    for t0 in tl.range(0, steps, BLOCK_T):
        t = t0 + tl.arange(0, BLOCK_T)
        weighted = tl.zeros((BLOCK_T, BLOCK_P, BLOCK_C), tl.float32)
        for d in tl.range(0, window_t, FRAMES):
            frame = (n * frames + t + d) * pixels  # [BLOCK_T]
            for p0 in tl.range(0, pixels, STEPS * BLOCK_P):
                for i in tl.static_range(STEPS):  # whose loads wait for memory together
                    p = p0 + i * BLOCK_P + tl.arange(0, BLOCK_P)
                    held = _windows(p // width, height, window_h)  # [BLOCK_P]
                    held *= _windows(p % width, width, window_w)
                    inside = (t < steps)[:, None] & (p < pixels)[None, :]
                    mask = inside[:, :, None] & (c < channels)[None, None, :]
                    first = (frame[:, None] + p[None, :])[:, :, None] * channels + c[None, None, :]
                    x = tl.load(x_ptr + first, mask=mask, other=0.0).to(tl.float32)  # [T, P, C] of the block
                    if FRAMES == 2:
                        second = first + pixels.to(tl.int64) * channels
                        x += tl.load(x_ptr + second, mask=mask, other=0.0).to(tl.float32)
                    weighted += x * held.to(tl.float32)[None, :, None]
        pooled = tl.sum(weighted, axis=1) / windows  # [BLOCK_T, BLOCK_C]
        tl.store(
            features_ptr + (n * channels + c[None, :]) * steps + t[:, None],
            pooled,
            mask=(t < steps)[:, None] & (c < channels)[None, :],
        )
        mean += tl.sum(pooled, axis=0)
    mean /= steps.to(tl.float32)

    for k0 in tl.range(0, classes, BLOCK_K):
        k = k0 + tl.arange(0, BLOCK_K)
        weight = tl.load(
            weight_ptr + k.to(tl.int64)[:, None] * channels + c[None, :],
            mask=(k < classes)[:, None] & (c < channels)[None, :],
            other=0.0,
        )  # [BLOCK_K, BLOCK_C]
        part = tl.sum(weight * mean[None, :], axis=1)
        tl.store(parts_ptr + (n * chunks + chunk) * classes + k, part, mask=k < classes)

    # All threads have written before one of them tells, and none reads before it was told.
    tl.debug_barrier()
    before = tl.atomic_add(done_ptr + n, 1, sem="acq_rel", scope="gpu")
    tl.debug_barrier()
    if before == chunks - 1:
        for k0 in tl.range(0, classes, BLOCK_K):
            k = k0 + tl.arange(0, BLOCK_K)
            total = tl.load(bias_ptr + k, mask=k < classes, other=0.0)  # [BLOCK_K]
            for j0 in tl.range(0, chunks, BLOCK_J):
                j = j0 + tl.arange(0, BLOCK_J)
                parts = tl.load(
                    parts_ptr + (n * chunks + j)[:, None] * classes + k[None, :],
                    mask=(j < chunks)[:, None] & (k < classes)[None, :],
                    other=0.0,
                )  # [BLOCK_J, BLOCK_K]
                total += tl.sum(parts, axis=0)
            tl.store(logits_ptr + n * classes + k, total, mask=k < classes)
