"""Tests networks on data sets: scores, accuracy, and the fusion of streams.

Source: Carreira & Zisserman, "Quo Vadis, Action Recognition?" (CVPR 2017), sections 3 to 5.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fasti3d.lazy import lazily

if TYPE_CHECKING:
    from fasti3d.train.evaluation.errors import EvaluationError, ScoresError
    from fasti3d.train.evaluation.fusing import SplitTable, fuse, grouped, table
    from fasti3d.train.evaluation.metrics import Metrics, measure, wilson
    from fasti3d.train.evaluation.report import write_report
    from fasti3d.train.evaluation.run import evaluate
    from fasti3d.train.evaluation.scores import Scores, read_scores
    from fasti3d.train.evaluation.scoring import FlowSource, Scorer
    from fasti3d.train.evaluation.validation import Accuracy, quick
    from fasti3d.train.evaluation.views import VIEWS, Views

__all__ = [
    "VIEWS",
    "Accuracy",
    "EvaluationError",
    "FlowSource",
    "Metrics",
    "Scorer",
    "Scores",
    "ScoresError",
    "SplitTable",
    "Views",
    "evaluate",
    "fuse",
    "grouped",
    "measure",
    "quick",
    "read_scores",
    "table",
    "wilson",
    "write_report",
]

__getattr__, __dir__ = lazily(
    __name__,
    {
        "Accuracy": "fasti3d.train.evaluation.validation",
        "EvaluationError": "fasti3d.train.evaluation.errors",
        "FlowSource": "fasti3d.train.evaluation.scoring",
        "Metrics": "fasti3d.train.evaluation.metrics",
        "Scorer": "fasti3d.train.evaluation.scoring",
        "Scores": "fasti3d.train.evaluation.scores",
        "ScoresError": "fasti3d.train.evaluation.errors",
        "SplitTable": "fasti3d.train.evaluation.fusing",
        "VIEWS": "fasti3d.train.evaluation.views",
        "Views": "fasti3d.train.evaluation.views",
        "evaluate": "fasti3d.train.evaluation.run",
        "fuse": "fasti3d.train.evaluation.fusing",
        "grouped": "fasti3d.train.evaluation.fusing",
        "measure": "fasti3d.train.evaluation.metrics",
        "quick": "fasti3d.train.evaluation.validation",
        "read_scores": "fasti3d.train.evaluation.scores",
        "table": "fasti3d.train.evaluation.fusing",
        "wilson": "fasti3d.train.evaluation.metrics",
        "write_report": "fasti3d.train.evaluation.report",
    },
)
