"""Fréchet Video Distance: fasti3d beside what holds all clips and features, and beside the JAX port."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch

from benchmarks import fvd_memory, fvd_peers
from benchmarks.conftest import Race
from fasti3d import weights
from fasti3d.layers import network_flop

SHAPE = (16, 128, 128)
CLIPS = 8
# Scores of the same clips: float32 networks differ by 1e-6 of a logit, and a score is a small difference of
# large sums.
AGREEMENT = 1e-3


@functools.cache
def candidate(name: str) -> Callable[..., float]:
    return fvd_peers.CANDIDATES[name]()


@pytest.fixture(scope="module")
def _weights() -> None:
    try:
        weights.get("kinetics400-rgb")
    except weights.WeightsError as error:
        pytest.skip(f"kinetics400-rgb cannot be had: {error}")


@pytest.mark.usefixtures("_weights")
@pytest.mark.filterwarnings("ignore:FVD of:UserWarning")
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", fvd_peers.CANDIDATES)
def test_fvd(race: Race, name: str) -> None:
    if why := fvd_peers.available(name):
        pytest.skip(why)
    sides = [fvd_peers.made_clips(CLIPS, SHAPE, seed=seed) for seed in range(2)]
    batches: Any = [side.split(4) for side in sides]
    ours = functools.partial(candidate(fvd_peers.OURS), *batches)
    theirs = ours if name == fvd_peers.OURS else functools.partial(candidate(name), *sides)
    expected = ours()
    assert theirs() == pytest.approx(expected, rel=AGREEMENT), "a wrong score has no speed"

    case = f"2 x {CLIPS} clips of {'x'.join(map(str, SHAPE))} float32 cpu"
    race.benchmark.group = f"FVD {case}"
    race.benchmark.extra_info |= {"candidate": name, "case": case, "score": expected}
    race.benchmark.extra_info |= fvd_memory.peaks(name, 32, SHAPE)
    race(
        theirs,
        None if name == fvd_peers.OURS else ours,
        rounds=3,
        flop=2 * CLIPS * network_flop((1, 3, SHAPE[0], 224, 224)),
    )


def test_statistics(race: Race) -> None:
    """The distance alone, of 2,048 features a side."""
    from fasti3d.metrics.distance import frechet_distance
    from fasti3d.metrics.statistics import Statistics

    generator = torch.Generator().manual_seed(0)
    mix = torch.randn(400, 400, generator=generator, dtype=torch.float64)
    features = [torch.randn(2048, 400, generator=generator, dtype=torch.float64) @ mix for _ in range(2)]
    race.benchmark.group = "FVD distance"
    race.benchmark.extra_info |= {"candidate": fvd_peers.OURS, "case": "2 x 2048 features of 400"}
    race(
        lambda: frechet_distance(*map(Statistics.of, features), unbiased=True),
        None,
        rounds=5,
    )
