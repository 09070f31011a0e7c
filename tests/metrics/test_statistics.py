"""Streaming means and covariances."""

from __future__ import annotations

from functools import reduce

import numpy as np
import pytest
import torch
from torch import Tensor

from fasti3d.metrics.statistics import Statistics


def features(count: int = 300, width: int = 40, *, seed: int = 0) -> Tensor:
    """Correlated, and far from zero, where plain sums of squares lose digits."""
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(width, width, generator=generator, dtype=torch.float64)
    return 50 + torch.randn(count, width, generator=generator, dtype=torch.float64) @ mix


def merged(parts: list[Tensor]) -> Statistics:
    return reduce(Statistics.merged, map(Statistics.of, parts), Statistics.empty(parts[0].shape[1]))


def assert_same(actual: Statistics, expected: Statistics, limit: float) -> None:
    assert actual.count == expected.count
    for a, b in ((actual.mean, expected.mean), (actual.scatter, expected.scatter)):
        assert (a - b).abs().max() <= limit * b.abs().max()


@pytest.mark.parametrize("unbiased", [True, False])
def test_covariance_is_numpy_s(unbiased: bool) -> None:
    x = features()
    ours = Statistics.of(x).covariance(unbiased=unbiased)
    theirs = np.cov(x.numpy(), rowvar=False, ddof=int(unbiased))
    assert np.abs(ours.numpy() - theirs).max() < 1e-12 * np.abs(theirs).max()


def test_four_parts_merge_to_the_whole() -> None:
    x = features()
    whole = Statistics.of(x)
    parts = list(x.split([7, 100, 1, 192]))
    assert_same(merged(parts), whole, 1e-12)
    assert_same(merged(parts[::-1]), whole, 1e-12)
    first, second = merged(parts[:2]), merged(parts[2:])
    assert_same(second.merged(first), whole, 1e-12)


def test_order_and_batches_do_not_matter() -> None:
    x = features()
    whole = Statistics.of(x)
    shuffled = x[torch.randperm(len(x), generator=torch.Generator().manual_seed(1))]
    for size in (1, 7, 64):
        assert_same(merged(list(shuffled.split(size))), whole, 1e-12)


def test_empty_parts_change_nothing() -> None:
    x = Statistics.of(features(5))
    empty = Statistics.empty(40)
    assert empty.merged(x) is x
    assert x.merged(empty) is x
    assert Statistics.of(torch.empty(0, 40)).count == 0
