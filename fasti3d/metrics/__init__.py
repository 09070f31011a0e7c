"""Metrics of generated video."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fasti3d.lazy import lazily

if TYPE_CHECKING:
    from fasti3d.metrics.comparison import FVDResult, fvd
    from fasti3d.metrics.metric import FrechetVideoDistance

__all__ = ["FVDResult", "FrechetVideoDistance", "fvd"]

# Loaded when first used, so that a metric in a training loop needs no decoders.
__getattr__, __dir__ = lazily(
    __name__,
    {
        "FVDResult": "fasti3d.metrics.comparison",
        "FrechetVideoDistance": "fasti3d.metrics.metric",
        "fvd": "fasti3d.metrics.comparison",
    },
)
