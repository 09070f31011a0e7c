"""Tests networks on data sets: scores, accuracy, and the fusion of streams.

Source: Carreira & Zisserman, "Quo Vadis, Action Recognition?" (CVPR 2017), sections 3 to 5.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fasti3d.lazy import lazily

if TYPE_CHECKING:
    from fasti3d.train.evaluation.errors import EvaluationError, ScoresError
    from fasti3d.train.evaluation.metrics import Metrics, measure
    from fasti3d.train.evaluation.run import evaluate
    from fasti3d.train.evaluation.scores import Scores, read_scores
    from fasti3d.train.evaluation.scoring import FlowSource
    from fasti3d.train.evaluation.validation import Accuracy, quick

__all__ = [
    "Accuracy",
    "EvaluationError",
    "FlowSource",
    "Metrics",
    "Scores",
    "ScoresError",
    "evaluate",
    "measure",
    "quick",
    "read_scores",
]

__getattr__, __dir__ = lazily(
    __name__,
    {
        "Accuracy": "fasti3d.train.evaluation.validation",
        "EvaluationError": "fasti3d.train.evaluation.errors",
        "FlowSource": "fasti3d.train.evaluation.scoring",
        "Metrics": "fasti3d.train.evaluation.metrics",
        "Scores": "fasti3d.train.evaluation.scores",
        "ScoresError": "fasti3d.train.evaluation.errors",
        "evaluate": "fasti3d.train.evaluation.run",
        "measure": "fasti3d.train.evaluation.metrics",
        "quick": "fasti3d.train.evaluation.validation",
        "read_scores": "fasti3d.train.evaluation.scores",
    },
)
