"""What the Triton convolutions compute, in plain PyTorch, from the weights that they read."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from fasti3d.inputs import Scaling, as_floats, without_autocast
from fasti3d.ops.conv3d_bn_relu import torch_conv3d
from fasti3d.ops.conv3d_bn_relu.geometry import Geometry
from fasti3d.ops.conv3d_bn_relu.space_to_depth import fold_clip, is_folded, unfold_weight


def conv3d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    geometry: Geometry,
    frames: tuple[int, int],
    dtype: torch.dtype,
    residual: Tensor | None = None,
) -> Tensor:
    """Output frames from the first of ``frames`` on, as many as its second, computed in ``dtype``; the rest
    is as ``launch.conv3d`` takes it.
    """
    kernel, stride, _, relu = geometry
    channels = x.shape[1]
    weight = (
        unfold_weight(weight, channels, kernel, stride)
        if is_folded(channels, kernel)
        else weight.transpose(1, 2).reshape(len(weight), channels, *kernel)
    )
    x = as_floats(x, dtype)
    # A residual is added to sums that are not rounded yet.
    sums = dtype if residual is None else torch.promote_types(dtype, torch.float32)
    pads = geometry.pads(x.shape[2:])
    # The frames that those are computed from, and zeros where there are none.
    first = frames[0] * stride[0] - pads[0][0]
    last = first + (frames[1] - 1) * stride[0] + kernel[0]
    x, length = x[:, :, max(first, 0) : max(last, 0)], x.shape[2]
    pads[0] = max(-first, 0), max(last - length, 0)
    x = F.pad(x, [zeros for pair in reversed(pads) for zeros in pair])
    with without_autocast(x.device):
        y = torch_conv3d.conv3d(x.to(sums), weight.to(dtype).to(sums), bias.to(sums), stride)
    y = y if residual is None else y + residual
    return (F.relu(y) if relu else y).to(dtype)


def conv3d_into(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    geometry: Geometry,
    out: Tensor,
    start: int,
    residual: Tensor | None = None,
) -> None:
    """In place of ``launch.conv3d``."""
    out.copy_(conv3d(x, weight, bias, geometry, (start, out.shape[2]), out.dtype, residual))


def conv3d_split_into(
    x: Tensor, weight: Tensor, bias: Tensor, relu: bool, out: Tensor, second: Tensor
) -> None:
    """In place of ``launch.conv3d_split``."""
    geometry = Geometry((1, 1, 1), (1, 1, 1), None, relu)
    y = conv3d(x, weight, bias, geometry, (0, x.shape[2]), out.dtype)
    for target, values in zip((out, second), y.split([out.shape[1], second.shape[1]], dim=1), strict=True):
        target.copy_(values)


def fold_into(x: Tensor, geometry: Geometry, cells: Tensor, scaling: Scaling | None = None) -> None:
    """In place of ``fold.fold``."""
    before = [zeros for zeros, _ in geometry.pads(x.shape[2:])]
    n, t, h, w, channels = cells.shape
    clip = as_floats(x, cells.dtype, scaling)
    cells.copy_(fold_clip(clip, geometry.kernel, geometry.stride, before, (n, t, h, w, channels)))
