"""The Fréchet distance between Gaussians fitted to two sets of features."""

from __future__ import annotations

import torch
from torch import Tensor

from fasti3d.metrics.statistics import Statistics


def frechet_distance(first: Statistics, second: Statistics, *, unbiased: bool) -> float:
    """Return |m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2)) in float64, which is never negative.

    ``unbiased``: covariances divide by N - 1, else by N.

    With factors S = L L^T, the trace of the root is the sum of the singular values of L1^T L2. No rounded
    value is rooted there, as the eigenvalues of S1^(1/2) S2 S1^(1/2) would be: with few clips hundreds of
    those should be zero, and the root turns a rounding of 1e-16 into 1e-8.

    Source: Dowson & Landau 1982; Heusel et al. 2017 for features of a network.
    """
    left, right = (_factor(part, unbiased) for part in (first, second))
    means = (first.mean - second.mean).square().sum()
    traces = left.square().sum() + right.square().sum()
    root = torch.linalg.svdvals(left.mT @ right).sum()
    return max((means + traces - 2 * root).item(), 0.0)


def _factor(part: Statistics, unbiased: bool) -> Tensor:
    """L (D, rank) with the covariance L L^T, from its symmetric eigendecomposition."""
    values, vectors = torch.linalg.eigh(part.covariance(unbiased=unbiased))
    # N points about their mean span N - 1 directions; what is found in others is rounding.
    rank = min(len(values), part.count - 1)
    values, vectors = values[len(values) - rank :], vectors[:, len(vectors) - rank :]
    rounding = torch.finfo(values.dtype).eps * len(vectors) * values.amax().clamp(min=0) if rank else 0.0
    kept = values > rounding
    return vectors[:, kept] * values[kept].sqrt()
