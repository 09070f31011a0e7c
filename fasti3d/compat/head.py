"""The head's first step, where both ports part from ``fasti3d.I3D``: they keep every pooled position."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from fasti3d.i3d import I3D
from fasti3d.inputs import check_clip


def pooled_features(model: I3D, pool: nn.Module, x: Tensor) -> Any:
    """``pool`` over the Mixed_5c map of (N, C, T, H, W) clips.

    Raises:
        ValueError: a clip too short or small for the head's own pool; a user's pool may take any.
    """
    if isinstance(pool, nn.AvgPool3d) and isinstance(x, Tensor):
        check_clip(x, model.in_channels, x.dtype, to_head=True)
    return pool(model.forward_features(x))
