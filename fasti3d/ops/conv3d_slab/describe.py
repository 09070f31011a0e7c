"""Which convolutions are problems for slabs: of stride 1, or over cells that ``space_to_depth`` folds."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fasti3d.ops.conv3d_bn_relu.geometry import Geometry
from fasti3d.ops.conv3d_bn_relu.space_to_depth import cell_channels, fold_weight, folded_kernel, is_folded
from fasti3d.ops.conv3d_slab.config import CAPABILITY, GROUP, MAX_KERNEL, Problem
from fasti3d.ops.conv3d_slab.op import COMPILED
from fasti3d.ops.conv3d_slab.pack import pack_slab
from fasti3d.runtime.gpu import gpu_traits

_ONE = (1, 1, 1)


def takes_slabs(
    device: torch.device, dtype: torch.dtype, channels: int, out_channels: int, geometry: Geometry
) -> bool:
    """Whether the kernel may be chosen for a convolution: GPU, build, dtype, window and channels are right.

    A single tap reads nothing twice.
    """
    kernel, stride = geometry.kernel, geometry.stride
    return (
        COMPILED
        and device.type == "cuda"
        and dtype in (torch.float16, torch.bfloat16)
        and gpu_traits(device).capability == CAPABILITY
        and out_channels % GROUP == 0
        and (is_folded(channels, kernel) or stride == _ONE)
        and math.prod(kernel) > 1
        and max(kernel) <= MAX_KERNEL
    )


def pack(weight: Tensor, geometry: Geometry, dtype: torch.dtype) -> Tensor:
    """(Cout, Cin, kt, kh, kw) as the kernel reads it, over cells where clips are folded."""
    if is_folded(weight.shape[1], geometry.kernel):
        folded = fold_weight(weight, geometry.stride)
        t, h, w = folded_kernel(geometry.kernel, geometry.stride)
        weight = folded.view(len(weight), t, h, w, -1).permute(0, 4, 1, 2, 3)
    return pack_slab(weight.to(dtype))


def beneath(x: Tensor, geometry: Geometry) -> tuple[Tensor, Geometry]:
    """The cells of a clip whose channels are rows of them, which overlap (``space_to_depth.windows``), and
    the window over the cells; any other clip, and its window, as they are.
    """
    cell, channels = x.stride(4), x.shape[1]
    if x.stride(1) != 1 or not 0 < cell < channels or channels % cell:
        return x, geometry
    columns = channels // cell
    size = (len(x), cell, *x.shape[2:4], x.shape[4] + columns - 1)
    return x.as_strided(size, x.stride()), geometry._replace(kernel=(*geometry.kernel[:2], columns))


def describe(x: Tensor, geometry: Geometry, out: Tensor, start: int, multiprocessors: int) -> Problem:
    """The convolution of ``launch.conv3d`` as ``choose`` wants it."""
    t, h, w = out.shape[2:]
    if is_folded(x.shape[1], geometry.kernel):
        channels = cell_channels(x.shape[1], geometry.stride)
        kernel = kt, kh, kw = folded_kernel(geometry.kernel, geometry.stride)
        size, before = (t + kt - 1, h + kh - 1, w + kw - 1), (0, 0, 0)
    else:
        channels, kernel = x.shape[1], geometry.kernel
        size = x.shape[2], x.shape[3], x.shape[4]
        (front, _), (top, _), (left, _) = geometry.pads(size)
        before = front - start, top, left
    return Problem(len(x), channels, out.shape[1], size, (t, h, w), kernel, before, multiprocessors)
