"""Measures of generated video."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from fasti3d.metrics.metric import FrechetVideoDistance

if TYPE_CHECKING:
    from fasti3d.metrics.comparison import FVDResult, fvd

__all__ = ["FVDResult", "FrechetVideoDistance", "fvd"]

# Loaded when first used, so that a metric in a training loop does not wait for decoders.
_FILES = ("FVDResult", "fvd")


def __getattr__(name: str) -> Any:
    if name not in _FILES:
        raise AttributeError(f"module 'fasti3d.metrics' has no attribute {name!r}")
    value = getattr(importlib.import_module("fasti3d.metrics.comparison"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_FILES})
