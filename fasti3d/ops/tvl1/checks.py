"""Checks the tensors of the TV-L1 operator, as csrc/tvl1/operator.h does."""

from __future__ import annotations

import torch
from torch import Tensor

from fasti3d.tvl1_limits import MAX_SIDE, MIN_SIDE


def check_tensors(frame0: Tensor, frame1: Tensor | None, initial_flow: Tensor | None) -> None:
    """Raise a ValueError for frames and an initial flow that do not fit together; values are not checked."""
    for name, frames in (("frame0", frame0), ("frame1", frame1)):
        if frames is None:
            continue
        if frames.dim() != 3 or frames.dtype not in (torch.uint8, torch.float32):
            raise ValueError(f"{name} must be (N, H, W), uint8 or float32, got {_kind(frames)}")
        if not all(MIN_SIDE <= side <= MAX_SIDE for side in frames.shape[1:]):
            raise ValueError(
                f"{name} must have sides of {MIN_SIDE} to {MAX_SIDE} pixels, got {_kind(frames)}"
            )
        if (frames.shape, frames.dtype, frames.device) != (frame0.shape, frame0.dtype, frame0.device):
            raise ValueError(f"{name} must be as frame0, {_kind(frame0)}, got {_kind(frames)}")
    pairs = frame0.shape[0] if frame1 is not None else max(frame0.shape[0] - 1, 0)
    shape = (pairs, 2, *frame0.shape[1:])
    if initial_flow is not None and (
        tuple(initial_flow.shape) != shape
        or initial_flow.dtype != torch.float32
        or initial_flow.device != frame0.device
    ):
        raise ValueError(
            f"initial_flow must be {shape}, torch.float32 on {frame0.device}, got {_kind(initial_flow)}"
        )


def check_values(name: str, tensor: Tensor | None, low: float, high: float) -> None:
    """Raise a ValueError for a float32 tensor with a value, or NaN, outside of low to high."""
    if tensor is not None and tensor.is_floating_point() and not ((tensor >= low) & (tensor <= high)).all():
        raise ValueError(f"{name} must be finite and lie in {low:g} to {high:g}, being float32")


def _kind(tensor: Tensor) -> str:
    return f"{tensor.dtype} of {tuple(tensor.shape)} on {tensor.device}"
