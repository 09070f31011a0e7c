"""What the passes check of their arguments."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fasti3d.same_padding import same_shape

_DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


def check_maps(**maps: Tensor) -> None:
    """ValueError unless all are maps of one dtype and device, with pixels and channels."""
    (leader, first), *_ = maps.items()
    for name, tensor in maps.items():
        shape = tuple(tensor.shape)
        if tensor.dim() != 5 or 0 in shape[1:]:
            raise ValueError(
                f"{name} must be (N, C, T, H, W) with channels, frames, rows and columns, got shape {shape}"
            )
        if tensor.dtype not in _DTYPES:
            raise ValueError(f"{name} must be float64, float32, bfloat16 or float16, got {tensor.dtype}")
        if tensor.dtype != first.dtype:
            raise ValueError(f"{name} must be {first.dtype}, like {leader}, got {tensor.dtype}")
        if tensor.device != first.device:
            raise ValueError(
                f"{name} is on {tensor.device}, but {leader} on {first.device}: move one to the other"
            )


def check_weight(weight: Tensor, channels: int, axis: int, of: Tensor) -> None:
    """ValueError unless ``weight`` has so many channels on an axis, and goes with the map ``of``."""
    if weight.dim() != 5 or weight.shape[axis] != channels or 0 in weight.shape:
        wanted = ["Cout", "Cin", "kt", "kh", "kw"]
        wanted[axis] = str(channels)
        raise ValueError(
            f"weight must be ({', '.join(wanted)}), none of them 0, got shape {tuple(weight.shape)}"
        )
    if weight.device != of.device:
        raise ValueError(f"weight is on {weight.device}, but the map on {of.device}: move one to the other")
    if weight.dtype not in (of.dtype, torch.float32):
        raise ValueError(f"weight must be {of.dtype}, like the map, or torch.float32, got {weight.dtype}")


def check_grad(grad: Tensor, size: Sequence[int], stride: Sequence[int]) -> None:
    """ValueError unless ``grad`` is of the result for a map of ``size`` (T, H, W)."""
    expected = same_shape(size, stride)
    if list(grad.shape[2:]) != expected:
        raise ValueError(
            f"grad must have (T, H, W) {tuple(expected)}, the result's for a map of {tuple(size)} at stride "
            f"{tuple(stride)}, got {tuple(grad.shape[2:])}"
        )
