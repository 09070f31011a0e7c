"""Measures the error of a flow."""

from __future__ import annotations

from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from fasti3d.flow.arrays import as_flow, as_tensor
from fasti3d.flow.colour import UNKNOWN


def average_endpoint_error(
    flow: NDArray[Any] | Tensor, truth: NDArray[Any] | Tensor, *, valid: NDArray[Any] | Tensor | None = None
) -> float:
    """Return the mean length of the difference between two flows, in pixels, where the truth is known.

    Args:
        flow: (2, H, W) or (N, 2, H, W), in pixels, x first; NumPy or torch, on any device.
        truth: as ``flow``. Pixels with a component that is NaN or above 1e9 are not counted.
        valid: (H, W) or (N, H, W), bool or numbers: 0 where a pixel is not to be counted, as the second
            result of ``read_kitti_png``.

    Returns:
        The mean over all pixels that count, of all images together.

    Raises:
        TypeError: neither NumPy nor torch.
        ValueError: shapes that differ, no pixel that counts, or a ``flow`` that is not finite at one.

    Source: Baker et al., "A Database and Evaluation Methodology for Optical Flow", IJCV 2011.

    Example:
        >>> average_endpoint_error(torch.full((2, 4, 4), 3.0), torch.zeros(2, 4, 4)) == 18**0.5
        True
    """
    got, wanted = as_flow("flow", flow), as_flow("truth", truth)
    if got.shape != wanted.shape:
        raise ValueError(
            f"flow and truth must be of one shape, got {tuple(got.shape)} and {tuple(wanted.shape)}"
        )
    wanted = wanted.to(got.device)
    counts = (wanted.abs() <= UNKNOWN).all(dim=-3)
    if valid is not None:
        mask = as_tensor("valid", valid).to(got.device)
        if mask.shape != counts.shape:
            raise ValueError(
                f"valid must be of shape {tuple(counts.shape)} for this flow, got {tuple(mask.shape)}"
            )
        counts &= mask != 0
    pixels = int(counts.sum())
    if not pixels:
        raise ValueError("truth is known at no pixel that is valid: there is nothing to compare")
    differences = (got.double() - wanted.double()).movedim(-3, 0)[:, counts]
    if not differences.isfinite().all():
        raise ValueError("flow must be finite where the truth is known: leave such pixels out with valid")
    return float(torch.hypot(*differences).sum() / pixels)
