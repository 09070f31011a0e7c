"""What a TV-L1 solve has to do: iterations times pixels, and the arithmetic of one of them."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor

from fasti3d.flow import TVL1Params
from fasti3d.ops.tvl1.reference import Settings, pyramid_sizes

# Of one iteration at one pixel, by csrc/tvl1/math.h with gamma 0: residual 4, thresholding 3, divergences
# 6, step of u 8, squared change 6, forward differences 4, norms 12 (two roots among them), both scales 4
# (one division), duals 12.
FLOP = 59
# float32 of one iteration at one pixel: u (2) and p (4) read and written, the warp's constants (4) read.
BYTES = 4 * (2 * (2 + 4) + 4)


def arguments(params: TVL1Params) -> tuple[Any, ...]:
    """What ``torch.ops.fasti3d.tvl1`` takes after the tensors: the mode first."""
    *numbers, mode = dataclasses.astuple(params)
    return mode, *numbers


def pixel_iterations(iterations: Tensor, size: tuple[int, int], params: TVL1Params) -> int:
    """Iterations times the pixels of their level, from the operator's (pairs, nscales, warps) counts."""
    sizes = pyramid_sizes(size, Settings(*arguments(params)))
    counts = iterations.sum(dim=(0, 2), dtype=torch.int64).tolist()
    return sum(count * height * width for count, (height, width) in zip(counts, sizes, strict=False))


def solved(frames: Tensor, params: TVL1Params) -> int:
    """``pixel_iterations`` of all consecutive pairs of ``frames`` (T, H, W)."""
    _, iterations = torch.ops.fasti3d.tvl1(frames, None, None, *arguments(params))
    return pixel_iterations(iterations, (frames.shape[1], frames.shape[2]), params)
