"""Numbers about scores: top-k and mean class accuracy, their interval, the confusion matrix."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

# The 97.5 % quantile of the normal distribution: 95 % lie between it and its negative.
_QUANTILE = 1.959963984540054
_TOP = 5

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Metrics:
    """How well scores agree with labels.

    Attributes:
        videos: the videos that count: those with a label, without failed ones if these are left out.
        failed: how many of these have no scores, and count as wrong.
        right, right_in_top: how many are right at first, and among the ``top`` best classes.
        top: 5, or the number of classes where that is smaller.
        per_class: int64 (classes, 2): of each class its videos, and how many of them are right.
        confusion: int64 (classes, classes): how many videos of a class (row) were taken for which (column);
            failed videos are in no column.
    """

    videos: int
    failed: int
    right: int
    right_in_top: int
    top: int
    per_class: Ints
    confusion: Ints

    @property
    def top1(self) -> float:
        """The share of videos whose best class is right, 0 to 1."""
        return self.right / self.videos

    @property
    def top5(self) -> float:
        """The share of videos whose class is among the ``top`` best, 0 to 1."""
        return self.right_in_top / self.videos

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % interval of ``top1``."""
        return wilson(self.right, self.videos)

    @property
    def mean_class(self) -> float:
        """The mean of the classes' own accuracies, over those that have videos."""
        counts, right = self.per_class[self.per_class[:, 0] > 0].T
        return float((right / counts).mean())

    @property
    def classes_with_videos(self) -> int:
        """The number of classes that have at least one video."""
        return int((self.per_class[:, 0] > 0).sum())

    def confusions(self, count: int) -> list[tuple[int, int, int]]:
        """Return the most frequent mistakes, at most so many: class, class it was taken for, videos.

        Of equally frequent ones that of the lower class comes first.
        """
        wrong = self.confusion.copy()
        np.fill_diagonal(wrong, 0)
        order = np.argsort(-wrong, axis=None, kind="stable")[:count]
        rows, columns = np.unravel_index(order, wrong.shape)
        found = [(int(i), int(j), int(wrong[i, j])) for i, j in zip(rows, columns, strict=True)]
        return [pair for pair in found if pair[2]]


def wilson(right: int, count: int) -> tuple[float, float]:
    """Return Wilson's 95 % interval of a share.

    Unlike the interval of the normal distribution it lies within 0 to 1, and is no point where all are right.

    Args:
        right: how many of ``count`` are.
        count: at least 1.

    Source: E. B. Wilson, "Probable inference, the law of succession, and statistical inference" (1927).

    Example:
        >>> [round(limit, 4) for limit in wilson(3594, 3783)]
        [0.9426, 0.9565]
    """
    share, z2 = right / count, _QUANTILE**2
    middle = (share + z2 / (2 * count)) / (1 + z2 / count)
    half = _QUANTILE / (1 + z2 / count) * math.sqrt(share * (1 - share) / count + z2 / (4 * count**2))
    low = 0.0 if right == 0 else middle - half
    high = 1.0 if right == count else middle + half
    return low, high


def ranking(scores: NDArray[Any]) -> Ints:
    """Return the classes of each row (N, classes) from the best on; of equal ones the lower index is first.

    Example:
        >>> ranking(np.array([[0.1, 0.7, 0.7]])).tolist()
        [[1, 2, 0]]
    """
    return np.argsort(-scores, axis=1, kind="stable").astype(np.int64)


def measure(scores: NDArray[Any], labels: NDArray[Any], *, ignore_errors: bool = False) -> Metrics | None:
    """Compare scores with labels.

    Args:
        scores: (N, classes) of floating point, higher is better; NaN in the rows of failed videos.
        labels: (N,), the index of each video's class; -1 where it is not known.
        ignore_errors: leave failed videos out, which otherwise count as wrong.

    Returns:
        The metrics; None where no video counts, as in a list without labels.

    Example:
        >>> measure(np.array([[2.0, 1.0], [0.5, 3.0]]), np.array([0, 0])).top1
        0.5
    """
    classes = scores.shape[1]
    counted = labels >= 0
    there = np.isfinite(scores).all(axis=1)
    if ignore_errors:
        counted &= there
    if not counted.any():
        return None
    scored = counted & there
    wanted = labels[scored].astype(np.int64)
    top = min(_TOP, classes)
    best = ranking(scores[scored])[:, :top]
    hits = best == wanted[:, None]
    confusion = np.zeros((classes, classes), np.int64)
    np.add.at(confusion, (wanted, best[:, 0]), 1)
    counts = np.bincount(labels[counted].astype(np.int64), minlength=classes)
    return Metrics(
        videos=int(counted.sum()),
        failed=int((counted & ~there).sum()),
        right=int(hits[:, 0].sum()),
        right_in_top=int(hits.any(axis=1).sum()),
        top=top,
        per_class=np.stack((counts, confusion.diagonal()), axis=1),
        confusion=confusion,
    )
