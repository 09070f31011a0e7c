"""Launches the Triton kernel that folds clips of few channels; imports triton: import it where it is used."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import torch
from torch import Tensor

from fasti3d.inputs import RGB_CHANNELS, Scaling
from fasti3d.ops import subjects
from fasti3d.ops.conv3d_bn_relu import plain
from fasti3d.ops.conv3d_bn_relu.geometry import Geometry
from fasti3d.ops.conv3d_bn_relu.triton_kernels import _conv3d_fold_kernel
from fasti3d.ops.dependent_launch.launch import in_turn_options
from fasti3d.ops.tiling import Triple, count
from fasti3d.proof.guard import guarded

_BLOCK = 1024
# What Triton distinguishes of addresses.
_ALIGNMENT = 16
# Layouts whose launches are remembered.
_MAX_LAUNCHES = 256
# Bytes of 0 to 255 become -1 to 1.
_TO_UNIT = Scaling((127.5,) * RGB_CHANNELS, (127.5,) * RGB_CHANNELS)
_launches: OrderedDict[Hashable, Callable[[Tensor, Tensor], None]] = OrderedDict()


def fold(x: Tensor, geometry: Geometry, cells: Tensor, scaling: Scaling | None = None) -> None:
    """Writes the cells of whole clips: the part of a convolution of few channels that reads the clip.

    Args:
        x: as ``launch.conv3d`` takes it where it is folded.
        geometry: of the convolution.
        cells: dense memory of ``cells_shape``, in half precision.
        scaling: of bytes, of RGB; None makes -1 to 1 of them. What lies outside the clip is zero after it.
    """
    key = ("conv3d_fold", geometry, scaling, x.device, *_layout(x), *_layout(cells))
    with torch.cuda.device_of(x):
        guarded(
            x.device,
            key,
            lambda: subjects.conv3d_fold(x, geometry, cells, scaling),
            lambda: _launch(key, x, geometry, cells, scaling),
            lambda: plain.fold_into(x, geometry, cells, scaling),
        )


def run_fold(
    x: Tensor, geometry: Geometry, cells: Tensor, scaling: Scaling | None = None
) -> Callable[[Tensor, Tensor], None] | None:
    """Launches it; the current device must be x's. Returns what does so for other clips that lie alike."""
    before = [zeros for zeros, _ in geometry.pads(x.shape[2:])]
    return launch_fold(x, geometry.stride, before, cells, cells.shape, scaling)


def launch_fold(
    x: Tensor,
    stride: Triple,
    pad: Sequence[int],
    cells: Tensor,
    shape: Sequence[int],
    scaling: Scaling | None = None,
) -> Callable[[Tensor, Tensor], None] | None:
    """The same for cells of a shape, with so many zeros before each axis; negative ones skip."""
    n, frames, rows, columns, cell = shape
    channels, *size = x.shape[1:]
    grid = (n * frames * rows, count(columns * cell, _BLOCK), 1)
    options = in_turn_options(x.device)
    mean, std = scaling or _TO_UNIT
    sizes = (*size, *x.stride(), frames, rows, columns, *pad, *mean, *(1 / v for v in std))
    constants = (channels, *stride, cell, _BLOCK, options.pop("PDL", False))
    kernel: Any = _conv3d_fold_kernel[grid](x, cells, *sizes, *constants, enable_fp_fusion=False, **options)
    if kernel is None:  # interpreted, or only noted
        return None
    start = kernel[grid]
    return lambda x, cells: start(x, cells, *sizes, *constants)


def _launch(key: Hashable, x: Tensor, geometry: Geometry, cells: Tensor, scaling: Scaling | None) -> None:
    """Launches what was compiled for clips that lie as x does, without what Triton does to find it."""
    launch = _launches.get(key)
    if launch is not None:
        launch(x, cells)
    elif (launch := run_fold(x, geometry, cells, scaling)) is not None:
        _launches[key] = launch
        while len(_launches) > _MAX_LAUNCHES:
            _launches.popitem(last=False)


def _layout(x: Tensor) -> tuple[Hashable, ...]:
    return x.shape, x.stride(), x.dtype, x.data_ptr() % _ALIGNMENT
