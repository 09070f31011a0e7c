"""Runs the Triton kernel of a max-pool and a 1x1x1 convolution. Imports triton: to be imported where it is
first used.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fasti3d.ops import subjects
from fasti3d.ops.channels_last import channels_last, vector
from fasti3d.ops.dependent_launch.launch import in_turn_options
from fasti3d.ops.pooled_conv3d import plain
from fasti3d.ops.pooled_conv3d.config import Config, Problem, choose
from fasti3d.ops.pooled_conv3d.triton_kernels import _pooled_conv3d_kernel
from fasti3d.ops.tiling import count
from fasti3d.proof.guard import guarded
from fasti3d.proof.subject import Layout
from fasti3d.runtime.gpu import gpu_traits
from fasti3d.runtime.precision import precision_of

# Do not fuse products and sums: what Triton does by default depends on its release.
# Unless told how many registers it may take, the assembler spills some to make room for a third tile.
_OPTIONS = {"enable_fp_fusion": False, "maxnreg": 255}


def pooled_conv3d(x: Tensor, weight: Tensor, bias: Tensor, relu: bool, out: Tensor) -> None:
    """Max-pool 3x3x3 (stride 1, SAME), then convolves 1x1x1, adds the bias and applies ReLU.

    Args:
        x: (N, Cin, T, H, W), float32, float16 or bfloat16.
        weight: what ``pack_triton`` made of (Cout, Cin, 1, 1, 1), in x's dtype, Cout at most
            ``MAX_CHANNELS``.
        bias: (Cout,), float32.
        relu: whether to zero what is negative.
        out: (N, Cout, T, H, W), channels adjacent, e.g. a channel slice of a wider clip.
    """
    if out.numel() == 0:
        return
    with torch.cuda.device_of(x):
        if x.stride(1) != 1:
            x = x.contiguous(memory_format=torch.channels_last_3d)
        n, channels, t, h, w = out.shape
        sms, precision = gpu_traits(x.device).sms, precision_of(x.dtype)
        config = choose(Problem(n, x.shape[1], channels, (t, h, w), sms, precision))
        call = (x, weight, bias, relu, out)
        guarded(
            x.device,
            ("pooled_conv3d", config, Layout.of(x), Layout.of(weight), relu, Layout.of(out)),
            lambda: subjects.pooled_conv3d(config, *call),
            lambda: run(config, *call),
            lambda: plain.pooled_conv3d_into(*call),
        )


def run(config: Config, x: Tensor, weight: Tensor, bias: Tensor, relu: bool, out: Tensor) -> None:
    """Launches a configuration over a channels-last clip; the current device must be x's."""
    x, out = channels_last(x), channels_last(out)
    channels = out.shape[4]
    tiles_b, tiles_t, tiles_h, tiles_w = map(count, out.shape[:4], config.box)
    vector_x, vector_y = vector(x), vector(out)
    _pooled_conv3d_kernel[(math.prod((tiles_w, tiles_h, tiles_t, tiles_b)),)](
        x,
        weight,
        bias,
        out,
        *x.shape[:4],
        x.shape[4] // vector_x,
        channels // vector_y,
        *(s // vector_x for s in x.stride()[:4]),
        *(s // vector_y for s in out.stride()[:4]),
        count(x.shape[4], config.block_k),
        tiles_w,
        tiles_h,
        tiles_t,
        relu,
        config.precision.products,
        vector_x,
        vector_y,
        *config.box,
        config.block_n,
        config.block_k,
        num_warps=config.warps,
        **_OPTIONS,
        **in_turn_options(x.device),
    )
