"""Mean and covariance of a stream of features, in float64, mergeable in any order."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Statistics:
    """Count, mean and scatter of some features.

    The scatter is about the mean, not about zero: sums of plain squares would lose, when the mean's square is
    taken off, as many digits as the mean is larger than the deviations.

    Attributes:
        count: how many features.
        mean: float64 (D,).
        scatter: float64 (D, D), the sum of the outer products of the deviations from the mean.
    """

    count: int
    mean: Tensor
    scatter: Tensor

    @classmethod
    def empty(cls, width: int) -> Statistics:
        """Of no features of that width."""
        zeros = torch.zeros(width + 1, width, dtype=torch.float64, device="cpu")
        return cls(0, zeros[0], zeros[1:])

    @classmethod
    def of(cls, features: Tensor) -> Statistics:
        """Of features (N, D)."""
        if not len(features):
            return cls.empty(features.shape[1])
        features = features.double()
        mean = features.mean(dim=0)
        deviations = features - mean
        return cls(len(features), mean, deviations.mT @ deviations)

    def merged(self, other: Statistics) -> Statistics:
        """Of both sets together (Chan, Golub & LeVeque 1979)."""
        if not (self.count and other.count):
            return self if self.count else other
        count = self.count + other.count
        shift = other.mean - self.mean
        between = torch.outer(shift, shift).mul_(self.count * other.count / count)
        return Statistics(
            count,
            self.mean + shift * (other.count / count),
            between.add_(self.scatter).add_(other.scatter),
        )

    def covariance(self, *, unbiased: bool) -> Tensor:
        """float64 (D, D): the scatter over count - 1 if ``unbiased``, else over count."""
        return self.scatter / (self.count - unbiased)
