"""Draws flow as a picture, with the color wheel of the Middlebury benchmark."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fasti3d.flow.arrays import Array, as_flow, like

# A component beyond this means that the flow of the pixel is not known, in Middlebury's files.
UNKNOWN = 1e9

# Steps from red to yellow, green, cyan, blue, magenta and red: more where the eye sees more shades.
_STEPS = (15, 6, 4, 11, 13, 6)


def _wheel() -> Tensor:
    """The 55 colors from red over green and blue back to red: float32 (55, 3) in [0, 1]."""
    corners = torch.tensor([[1, 0, 0], [1, 1, 0], [0, 1, 0], [0, 1, 1], [0, 0, 1], [1, 0, 1], [1, 0, 0]])
    colors = []
    for i, steps in enumerate(_STEPS):
        up = torch.arange(steps)[:, None] * 255 // steps
        colors.append(corners[i] * 255 + (corners[i + 1] - corners[i]) * up)
    return torch.cat(colors).float() / 255


_WHEEL = _wheel()


def flow_to_rgb(flow: Array, *, max_magnitude: float | None = None) -> Array:
    """Draw flow in the colors of the Middlebury benchmark: hue is direction, saturation is magnitude.

    No motion is white, motion to the right red, downwards yellow, to the left light blue, upwards violet.
    Motion above ``max_magnitude`` is drawn darker, and unknown flow (a component that is NaN or above 1e9)
    black.

    Args:
        flow: (2, H, W) or (N, 2, H, W), in pixels, x first; NumPy or torch, on any device. Other
            leading axes are possible too.
        max_magnitude: the length in pixels of a fully saturated color. None takes the longest known vector
            of the array; give a number for the frames of a video, so that their colors agree.

    Returns:
        uint8 (H, W, 3) or (N, H, W, 3), RGB; of the same kind and on the same device as ``flow``.

    Raises:
        TypeError: neither NumPy nor torch.
        ValueError: another shape, or a ``max_magnitude`` that is not above 0.

    Source: Baker et al., "A Database and Evaluation Methodology for Optical Flow", IJCV 2011, and its
    program ``color_flow``.

    Example:
        >>> flow_to_rgb(torch.zeros(2, 1, 1)).tolist()  # no motion is white
        [[[255, 255, 255]]]
    """
    if max_magnitude is not None and not 0 < max_magnitude < math.inf:
        raise ValueError(f"max_magnitude must be above 0 pixels, or None, got {max_magnitude}")
    vectors = as_flow("flow", flow).detach()
    known = (vectors.abs() <= UNKNOWN).all(dim=-3)
    # Adding 0 makes 0 of -0, whose angle would be another one.
    x, y = torch.where(known.unsqueeze(-3), vectors, 0.0).add_(0.0).unbind(-3)
    return like(_colors(x, y, known, max_magnitude), flow)


def _colors(x: Tensor, y: Tensor, known: Tensor, max_magnitude: float | None) -> Tensor:
    magnitude = torch.hypot(x, y)
    if max_magnitude is None:
        max_magnitude = float(magnitude.max()) if magnitude.numel() else 0.0
    radius = (magnitude / (max_magnitude or 1.0)).unsqueeze(-1)
    place = (torch.atan2(-y, -x) / math.pi + 1) / 2 * (len(_WHEEL) - 1)
    first = place.to(torch.int32)
    wheel = _WHEEL.to(x.device)
    full = torch.lerp(wheel[first], wheel.roll(-1, 0)[first], (place - first).unsqueeze(-1))
    shown = torch.where(radius <= 1, 1 - radius * (1 - full), 0.75 * full)
    return torch.where(known.unsqueeze(-1), shown * 255, 0.0).to(torch.uint8)
