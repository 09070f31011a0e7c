"""Runs the Triton max-pool. Imports triton: to be imported where it is first used."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fasti3d.ops import subjects
from fasti3d.ops.channels_last import channels_last, vector
from fasti3d.ops.dependent_launch.launch import in_turn_options
from fasti3d.ops.max_pool3d_same.config import WARPS, Config, Problem, choose
from fasti3d.ops.max_pool3d_same.reference import max_pool3d_reference
from fasti3d.ops.max_pool3d_same.triton_kernels import _max_pool3d_same_kernel
from fasti3d.ops.max_pool3d_same.window import front_padding
from fasti3d.ops.tiling import Triple, count
from fasti3d.proof.guard import guarded
from fasti3d.proof.subject import Layout
from fasti3d.runtime.gpu import gpu_traits

# There is nothing to fuse, but triton warns of its default. Unless told how many registers it may take, the
# assembler spills some to make room for one tile more.
_OPTIONS = {"enable_fp_fusion": False, "maxnreg": 168}


def max_pool3d(
    x: Tensor,
    kernel: Triple,
    stride: Triple,
    out: Tensor,
    padding: Triple | None = None,
    ceil_mode: bool = False,
) -> None:
    """Max-pool a clip into ``out``.

    Args:
        x: (N, C, T, H, W), float32, float16 or bfloat16.
        kernel: window lengths (t, h, w), the last one at most ``MAX_COLUMNS``.
        stride: window steps (t, h, w).
        out: (N, C, T', H', W') in x's dtype, channels adjacent, e.g. a channel slice of a wider clip.
        padding: places (t, h, w) on both sides that never win; None is SAME.
        ceil_mode: torch.nn.MaxPool3d's, which ``out`` has the shape for.
    """
    if out.numel() == 0:
        return
    with torch.cuda.device_of(x):
        if x.stride(1) != 1:
            x = x.contiguous(memory_format=torch.channels_last_3d)
        n, channels, t, h, w = out.shape
        config = choose(Problem(n, channels, (t, h, w), kernel, x.element_size(), gpu_traits(x.device).sms))
        geometry = (kernel, stride, padding, ceil_mode)
        guarded(
            x.device,
            ("max_pool3d", config, Layout.of(x), *geometry, Layout.of(out)),
            lambda: subjects.max_pool3d(config, x, *geometry, out),
            lambda: run(config, x, kernel, stride, padding, out),
            lambda: out.copy_(max_pool3d_reference(x, *geometry)),
        )


def run(
    config: Config, x: Tensor, kernel: Triple, stride: Triple, padding: Triple | None, out: Tensor
) -> None:
    """Launches a configuration over a channels-last clip; the current device must be x's."""
    pad = front_padding(x.shape[2:], kernel, stride, padding)
    x, out = channels_last(x), channels_last(out)
    _, t, h, w, channels = out.shape
    tiles_b, tiles_t, tiles_h, tiles_w = map(count, out.shape[:4], config.box)
    tiles_c = count(channels, config.block_c)
    values = min(vector(x), vector(out))
    _max_pool3d_same_kernel[(math.prod((tiles_c, tiles_w, tiles_h, tiles_t, tiles_b)),)](
        x,
        out,
        *x.shape[:4],
        t,
        h,
        w,
        channels // values,
        *(s // values for s in x.stride()[:4]),
        *(s // values for s in out.stride()[:4]),
        tiles_c,
        tiles_w,
        tiles_h,
        tiles_t,
        *pad,
        *kernel,
        *stride,
        values,
        *config.box,
        config.block_c,
        num_warps=WARPS,
        **_OPTIONS,
        **in_turn_options(x.device),
    )
