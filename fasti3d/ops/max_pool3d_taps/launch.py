"""Runs the Triton max-pool with taps, and its gradient. Imports triton: to be imported at first use."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from fasti3d.ops import subjects
from fasti3d.ops.channels_last import channels_last, vector
from fasti3d.ops.max_pool3d_same.config import WARPS, Config
from fasti3d.ops.max_pool3d_same.window import front_padding
from fasti3d.ops.max_pool3d_taps import config as choice
from fasti3d.ops.max_pool3d_taps.reference import (
    max_pool3d_taps_backward_reference,
    max_pool3d_taps_reference,
)
from fasti3d.ops.max_pool3d_taps.triton_kernels import (
    _max_pool3d_taps_backward_kernel,
    _max_pool3d_taps_kernel,
)
from fasti3d.ops.tiling import Triple, count
from fasti3d.proof.guard import guarded
from fasti3d.proof.subject import Layout
from fasti3d.runtime.gpu import gpu_traits

# As of the max-pool without taps.
_OPTIONS = {"enable_fp_fusion": False, "num_warps": WARPS, "maxnreg": 168}


def max_pool3d_taps(x: Tensor, kernel: list[int], stride: list[int], out: Tensor, taps: Tensor) -> None:
    """Takes what the operator of this name with a "_" takes: float16, bfloat16 or float32."""
    window, step = _triple(kernel), _triple(stride)
    if not choice.has_kernel(window):
        max_pool3d_taps_reference(x, kernel, stride, out, taps)
        return
    with torch.cuda.device_of(x):
        n, channels, t, h, w = out.shape
        sms = gpu_traits(x.device).sms
        config = choice.choose(n, channels, (t, h, w), window, x.element_size(), sms)
        guarded(
            x.device,
            ("max_pool3d_taps", config, window, step, *map(Layout.of, (x, out, taps))),
            lambda: subjects.max_pool3d_taps(config, x, window, step, out, taps),
            lambda: run(config, x, window, step, out, taps),
            lambda: max_pool3d_taps_reference(x, kernel, stride, out, taps),
        )


def max_pool3d_taps_backward(
    grad: Tensor, taps: Tensor, kernel: list[int], stride: list[int], out: Tensor
) -> None:
    """Likewise."""
    window, step = _triple(kernel), _triple(stride)
    if not choice.has_kernel(window):
        max_pool3d_taps_backward_reference(grad, taps, kernel, stride, out)
        return
    with torch.cuda.device_of(grad):
        n, channels, t, h, w = out.shape
        sms = gpu_traits(grad.device).sms
        config = choice.choose_backward(n, channels, (t, h, w), window, step, grad.element_size(), sms)
        guarded(
            grad.device,
            ("max_pool3d_taps_backward", config, window, step, *map(Layout.of, (grad, taps, out))),
            lambda: subjects.max_pool3d_taps_backward(config, grad, taps, window, step, out),
            lambda: run_backward(config, grad, taps, window, step, out),
            lambda: max_pool3d_taps_backward_reference(grad, taps, kernel, stride, out),
        )


def run(config: Config, x: Tensor, kernel: Triple, stride: Triple, out: Tensor, taps: Tensor) -> None:
    """Launches a configuration; the current device must be x's."""
    pad = front_padding(x.shape[2:], kernel, stride, None)
    maps = x, out, taps = channels_last(x), channels_last(out), channels_last(taps)
    grid, sizes, constants = _arguments(config, x, out, taps, out.shape[:4], maps, pad, (kernel, stride))
    _max_pool3d_taps_kernel[grid](*maps, *sizes, *constants, **_OPTIONS)


def run_backward(
    config: Config, grad: Tensor, taps: Tensor, kernel: Triple, stride: Triple, out: Tensor
) -> None:
    """Likewise of the gradient."""
    pad = front_padding(out.shape[2:], kernel, stride, None)
    maps = grad, taps, out = channels_last(grad), channels_last(taps), channels_last(out)
    grid, sizes, constants = _arguments(config, out, grad, taps, out.shape[:4], maps, pad, (kernel, stride))
    _max_pool3d_taps_backward_kernel[grid](*maps, *sizes, *constants, **_OPTIONS)


def _arguments(
    config: Config,
    x: Tensor,
    y: Tensor,
    taps: Tensor,
    tiled: torch.Size,
    maps: tuple[Tensor, ...],
    pad: list[int],
    window: tuple[Triple, Triple],
) -> tuple[tuple[int], list[int], list[Any]]:
    """The grid over ``tiled`` pixels, the kernel's sizes and strides, of ``maps`` in order, its constants."""
    values = min(vector(x), vector(y))
    packed = all(s % values == 0 for s, n in zip(taps.stride()[:4], taps.shape, strict=False) if n > 1)
    values_taps = values if packed else 1
    tiles_b, tiles_t, tiles_h, tiles_w = map(count, tiled, config.box)
    tiles_c = count(x.shape[4], config.block_c)
    sizes = [*x.shape[:4], *y.shape[1:4], x.shape[4] // values]
    for its in maps:
        sizes += [s // (values_taps if its is taps else values) for s in its.stride()[:4]]
    sizes += [tiles_c, tiles_w, tiles_h, tiles_t, *pad]
    constants = [*window[0], *window[1], values, values_taps, *config.box, config.block_c]
    return (math.prod((tiles_c, tiles_w, tiles_h, tiles_t, tiles_b)),), sizes, constants


def _triple(lengths: list[int]) -> Triple:
    return lengths[0], lengths[1], lengths[2]
