"""Fewer, other and infinitely many clips."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import pytest
import torch

from fasti3d.metrics import resampling
from fasti3d.metrics.distance import frechet_distance
from fasti3d.metrics.side import Side
from fasti3d.metrics.statistics import Statistics

WIDTH = 20


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Many small decompositions: threads would only wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def side(count: int, shift: float, seed: int, *, keep: bool = True) -> Side:
    """Standard normal features about ``shift``: two sides are WIDTH * shift^2 apart."""
    generator = torch.Generator().manual_seed(seed)
    features = shift + torch.randn(count, WIDTH, generator=generator, dtype=torch.float64)
    return Side(Statistics.of(features), Counter(), features if keep else None)


def score(real: Side, generated: Side) -> float:
    return frechet_distance(real.statistics, generated.statistics, unbiased=True)


def test_curve_ends_with_all_clips_and_is_that_of_its_seed() -> None:
    real, generated = side(100, 0, 1), side(60, 0.5, 2)
    points = resampling.curve(real, generated, score, points=19, seed=3)
    assert (points[0].real, points[0].generated) == (10, 6)
    assert points[-1] == resampling.Point(100, 60, score(real, generated))
    assert points == resampling.curve(real, generated, score, points=19, seed=3)
    assert points[0] != resampling.curve(real, generated, score, points=19, seed=4)[0]
    few = resampling.curve(side(8, 0, 1), side(8, 1, 2), score, points=19, seed=0)
    counts = [point.real for point in few]
    assert counts == sorted(set(counts))
    with pytest.raises(ValueError, match="points must be at least 5"):
        resampling.curve(real, generated, score, points=4, seed=0)


@pytest.mark.parametrize("known", [True, False])
def test_extrapolation_comes_closer_to_the_truth(known: bool) -> None:
    truth = WIDTH * 0.5**2
    found, plain = [], []
    for seed in range(20):
        real = side(20_000, 0, 2 * seed, keep=False) if not known else side(200, 0, 2 * seed)
        generated = side(200, 0.5, 2 * seed + 1)
        plain.append(score(real, generated))
        points = resampling.curve(real, generated, score, points=19, seed=seed)
        found.append(resampling.extrapolated(points))
    means = [sum(values) / len(values) - truth for values in (found, plain)]
    assert abs(means[0]) < 0.3 * means[1]


def test_points_on_a_line_over_one_by_clips_end_where_it_does() -> None:
    points = [resampling.Point(n, 2 * n, 7 + 30 / n) for n in (10, 20, 30, 50, 75, 100)]
    assert resampling.extrapolated(points) == pytest.approx(7)
    alone = [resampling.Point(100, n, 7 + 30 / n) for n in (10, 50, 75, 100)]
    assert resampling.extrapolated(alone) == pytest.approx(7)


def test_interval_holds_what_other_clips_give() -> None:
    real, generated = side(100, 0, 1), side(100, 0.5, 2)
    low, high = resampling.bootstrap(real, generated, score, resamples=100, confidence=0.95, seed=0)
    assert low < score(real, generated) < high
    others = [score(side(100, 0, 100 + i), side(100, 0.5, 1000 + i)) for i in range(60)]
    spread = sorted(others)[58] - sorted(others)[1]
    assert 0.6 < (high - low) / spread < 1.6
    narrow = resampling.bootstrap(real, generated, score, resamples=100, confidence=0.5, seed=0)
    assert low < narrow[0] < narrow[1] < high


@pytest.mark.parametrize(
    ("options", "said"),
    [({"resamples": 1}, "resamples must be at least 2"), ({"confidence": 1.0}, "between 0 and 1, got 1.0")],
)
def test_wrong_arguments(options: dict[str, float], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        resampling.bootstrap(
            side(10, 0, 1), side(10, 1, 2), score, **{"resamples": 10, "confidence": 0.9, "seed": 0} | options
        )
