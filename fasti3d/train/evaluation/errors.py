"""What keeps an evaluation from being done."""

from __future__ import annotations


class EvaluationError(Exception):
    """Weights, a data set and options that do not go together; one line, with the remedy."""


class ScoresError(Exception):
    """A file that holds no scores, or damaged ones; one line, which names the file."""
