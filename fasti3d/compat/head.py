"""The head's first step, where both ports differ from ``fasti3d.I3D``: they keep every pooled position."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn.modules.utils import _triple

from fasti3d.engine.describe.inception import keeps_grid, known_stem
from fasti3d.i3d import I3D
from fasti3d.inputs import check_clip


def pooled_features(model: I3D, pool: nn.Module, x: Tensor) -> Any:
    """Apply ``pool`` to the Mixed_5c feature map of (N, C, T, H, W) clips.

    Raises:
        ValueError: a clip too short or small for the window of the pool.
    """
    if isinstance(x, Tensor) and type(pool) is nn.AvgPool3d and _triple(pool.padding) == (0, 0, 0):
        stem = known_stem(model)
        window = _triple(pool.kernel_size) if keeps_grid(model) else None
        check_clip(x, None if stem is None else stem.weight.shape[1] * stem.groups, None, window=window)
    return pool(model.forward_features(x))
