"""The distance of two Gaussians."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from fasti3d.metrics.distance import frechet_distance
from fasti3d.metrics.statistics import Statistics


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Small decompositions: threads would only wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def draw(count: int, width: int, seed: int, *, scale: float = 1.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(width, width, generator=generator, dtype=torch.float64)
    return scale * (torch.randn(count, width, generator=generator, dtype=torch.float64) @ mix + seed)


def distance(first: Tensor, second: Tensor, *, unbiased: bool = True) -> float:
    return frechet_distance(Statistics.of(first), Statistics.of(second), unbiased=unbiased)


def naive(first: Tensor, second: Tensor, *, unbiased: bool) -> float:
    """As the formula is written: the root of an asymmetric product, by its eigenvalues."""
    covariances = [np.cov(x.numpy(), rowvar=False, ddof=int(unbiased)) for x in (first, second)]
    means = (first.mean(dim=0) - second.mean(dim=0)).square().sum().item()
    root = np.sqrt(np.linalg.eigvals(covariances[0] @ covariances[1]).astype(complex)).real.sum()
    return means + sum(map(np.trace, covariances)) - 2 * root


@pytest.mark.parametrize("unbiased", [True, False])
def test_the_formula(unbiased: bool) -> None:
    first, second = draw(200, 30, 1), draw(150, 30, 2)
    assert distance(first, second, unbiased=unbiased) == pytest.approx(
        naive(first, second, unbiased=unbiased), rel=1e-9
    )


def test_one_dimension_by_hand() -> None:
    # Means 1 and 5; variances 2 and 18: 16 + 2 + 18 - 2 * 6.
    assert distance(torch.tensor([[0.0], [2.0]]), torch.tensor([[2.0], [8.0]])) == pytest.approx(24)
    assert distance(torch.tensor([[0.0], [2.0]]), torch.tensor([[2.0], [8.0]]), unbiased=False) == (
        pytest.approx(16 + 1 + 9 - 2 * 3)
    )


@pytest.mark.parametrize(("count", "width"), [(2, 100), (30, 100), (99, 100), (300, 100), (399, 400)])
@pytest.mark.parametrize("scale", [1e-3, 10.0])
def test_a_set_is_at_no_distance_from_itself(count: int, width: int, scale: float) -> None:
    x = draw(count, width, 3, scale=scale)
    shuffled = x[torch.randperm(count, generator=torch.Generator().manual_seed(0))]
    assert 0 <= distance(x, x) < 1e-6
    assert 0 <= distance(x, shuffled) < 1e-6


def test_both_ways_are_equal() -> None:
    first, second = draw(100, 40, 1), draw(30, 40, 2)
    assert distance(first, second) == pytest.approx(distance(second, first), rel=1e-12)


def test_order_does_not_matter_where_clips_are_fewer_than_features() -> None:
    first, second = draw(100, 400, 1), draw(60, 400, 2)
    expected = distance(first, second)
    parts = Statistics.empty(400)
    for part in first.flip(0).split(7):
        parts = parts.merged(Statistics.of(part))
    assert frechet_distance(parts, Statistics.of(second), unbiased=True) == pytest.approx(expected, rel=1e-9)


@given(st.integers(2, 6), st.integers(2, 6), st.integers(0, 99), st.sampled_from([0.0, 1e-12, 1.0, 1e6]))
def test_it_is_a_number_and_not_negative(first: int, second: int, seed: int, scale: float) -> None:
    found = distance(draw(first, 4, seed, scale=scale), draw(second, 4, seed + 1))
    assert 0 <= found < float("inf")
    assert 0 <= distance(torch.full((first, 4), 0.1), torch.full((second, 4), 0.1)) < 1e-12
