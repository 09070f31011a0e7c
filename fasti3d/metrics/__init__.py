"""Measures of generated video."""

from fasti3d.metrics.comparison import FVDResult, fvd
from fasti3d.metrics.metric import FrechetVideoDistance

__all__ = ["FVDResult", "FrechetVideoDistance", "fvd"]
