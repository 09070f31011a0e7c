"""Tests networks on data sets: scores, accuracy, and the fusion of streams.

Source: Carreira & Zisserman, "Quo Vadis, Action Recognition?" (CVPR 2017), sections 3 to 5.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fasti3d.lazy import lazily

if TYPE_CHECKING:
    from fasti3d.train.evaluation.validation import Accuracy, quick
    from fasti3d.train.evaluation.scoring import FlowSource

__all__ = ["Accuracy", "FlowSource", "quick"]

__getattr__, __dir__ = lazily(
    __name__,
    {
        "Accuracy": "fasti3d.train.evaluation.validation",
        "FlowSource": "fasti3d.train.evaluation.scoring",
        "quick": "fasti3d.train.evaluation.validation",
    },
)
