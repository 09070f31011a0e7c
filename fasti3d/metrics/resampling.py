"""Estimates the score of fewer, other or infinitely many clips, from the features of the present ones."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fasti3d.metrics.side import Side
from fasti3d.metrics.statistics import Statistics

POINTS = 19

# The min subset of a curve, and the min subset that a line is fitted to, as fractions of the clips: below it
# the score is not linear in 1 / clips.
_MIN_SHARE = 0.1
_MIN_FITTED_SHARE = 0.5
_MIN_CLIPS = 8

Score = Callable[[Side, Side], float]


@dataclass(frozen=True)
class Point:
    """The score of a number of clips."""

    real: int
    generated: int
    score: float


def curve(real: Side, generated: Side, score: Score, *, points: int, seed: int) -> list[Point]:
    """Return the scores of random subsets, of both sides in proportion, from a tenth of the clips to all.

    Sides without features are used whole.

    Raises:
        ValueError: no features on either side, too few clips, or fewer than 5 points.
    """
    if points < 5:
        raise ValueError(f"points must be at least 5, to have a line through the latter half, got {points}")
    _check(real, generated)
    random = np.random.default_rng(seed)
    found: list[Point] = []
    for share in np.linspace(_MIN_SHARE, 1, points):
        parts = []
        for side in (real, generated):
            if side.features is None or share == 1:
                parts.append(side)
            else:
                chosen = random.permutation(side.count)[: max(2, round(share * side.count))]
                parts.append(_part(side.features, chosen))
        counts = (parts[0].count, parts[1].count)
        if not found or counts != (found[-1].real, found[-1].generated):
            found.append(Point(*counts, score(*parts)))
    return found


def extrapolated(points: Sequence[Point]) -> float:
    """Fit a line to the scores over 1 / clips by least squares, and return its value for infinitely many."""
    times = [_shortfall(point, points) for point in points]
    fitted = [i for i, share in enumerate(times) if share <= 1 / _MIN_FITTED_SHARE]
    line = np.polyfit([times[i] for i in fitted], [points[i].score for i in fitted], 1)
    return float(line[1])


def _shortfall(point: Point, points: Sequence[Point]) -> float:
    """The ratio of all clips to those of a point, on the sides that vary."""
    first, last = points[0], points[-1]
    pairs = [(last.real, point.real, first.real), (last.generated, point.generated, first.generated)]
    return float(np.mean([total / some for total, some, minimum in pairs if minimum < total]))


def bootstrap(
    real: Side, generated: Side, score: Score, *, resamples: int, confidence: float, seed: int
) -> tuple[float, float]:
    """Return the min and max score that other clips would give: see ``FrechetVideoDistance.bootstrap``.

    Raises:
        ValueError: no features on either side, too few clips, or an argument out of range.
    """
    if resamples < 2:
        raise ValueError(f"resamples must be at least 2, got {resamples}")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must be between 0 and 1, got {confidence}")
    _check(real, generated)
    random = np.random.default_rng(seed)
    scores = np.empty(resamples)
    for i in range(resamples):
        parts = [
            side
            if side.features is None
            else _part(side.features, random.integers(side.count, size=side.count))
            for side in (real, generated)
        ]
        scores[i] = score(*parts)
    tails = np.quantile(scores - scores.mean(), [(1 - confidence) / 2, (1 + confidence) / 2])
    low, high = score(real, generated) + tails
    return max(float(low), 0.0), float(high)


def _part(features: Tensor, chosen: np.ndarray) -> Side:
    part = features[torch.from_numpy(chosen)]
    return Side(Statistics.of(part), Counter(), part)


def _check(real: Side, generated: Side) -> None:
    known = [side for side in (real, generated) if side.features is not None]
    if not known:
        raise ValueError("the features of single clips were not kept: pass keep_features=True")
    if (minimum := min(side.count for side in known)) < _MIN_CLIPS:
        raise ValueError(f"there must be at least {_MIN_CLIPS} clips per side to draw subsets, got {minimum}")
