"""Fréchet Video Distance: fasti3d beside what holds all clips and features, and beside the JAX port; and how
many clips a second one side of it takes, on a GPU from the GPU's memory.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import fvd_memory, fvd_peers, fvd_rates, peers
from benchmarks.conftest import Race, rounds_within
from benchmarks.fvd_rates import Case
from fasti3d import weights
from fasti3d.inspect.layers import network_flop

SHAPE = (16, 128, 128)
CLIPS = 8
# Scores of the same clips: float32 networks differ by 1e-6 of a logit, and a score is a small difference of
# large sums.
AGREEMENT = 1e-3

# Sides of which the rate is measured.
SIZES = [(16, 128, 128), (16, 224, 224)]
GPU = [Case(128, shape, dtype, "cuda") for shape in SIZES for dtype in (torch.float32, torch.float16)]
SIDES = [Case(2, SIZES[0], torch.float32), *(pytest.param(case, marks=pytest.mark.gpu) for case in GPU)]


@functools.cache
def candidate(name: str) -> Callable[..., float]:
    return fvd_peers.CANDIDATES[name]()


@pytest.fixture(scope="module")
def _weights() -> None:
    try:
        weights.get("kinetics400-rgb")
    except weights.WeightsError as error:
        pytest.skip(f"kinetics400-rgb cannot be downloaded: {error}")


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


@pytest.fixture(scope="module")
def made_weights(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Random ones, as machines without a network have no others; neither rates nor memory depend on them."""
    path = tmp_path_factory.mktemp("weights") / "random.pt"
    torch.save(peers.random_reference().state_dict(), path)
    yield path
    rate.cache_clear()


@functools.lru_cache(maxsize=2)
def rate(name: str, case: Case, path: Path) -> fvd_rates.Embed:
    return fvd_rates.CANDIDATES[name](case, path)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", fvd_rates.CANDIDATES)
@pytest.mark.parametrize("case", SIDES, ids=str)
def test_rate(race: Race, case: Case, name: str, made_weights: Path) -> None:
    if why := fvd_rates.not_for(name, case):
        pytest.skip(why)
    clips = fvd_peers.made_clips(case.clips, case.shape, seed=0).to(case.device)
    ours = functools.partial(rate(fvd_rates.OURS, case, made_weights), clips)
    embed = rate(name, case, made_weights)
    error = peers.relative_error(embed(clips[:2]), fvd_rates.expected(clips[:2].cpu()))
    assert error < fvd_rates.tolerance(name, case), "a wrong mean has no speed"

    candidate = functools.partial(embed, clips)
    info = race.benchmark.extra_info
    race.benchmark.group = f"embedding {case}"
    info |= {"candidate": name, "case": str(case), "relative_error": error}
    if case.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        candidate()
        info["device_mb"] = (torch.cuda.max_memory_allocated() - before) / 1e6
    race(
        candidate,
        None if name == fvd_rates.OURS else ours,
        rounds=rounds_within(1, ours, least=3),
        flop=case.clips * network_flop((1, 3, case.shape[0], 224, 224)),
    )
    if race.benchmark.stats is not None:
        info["clips_per_s"] = case.clips / race.benchmark.stats.stats.median


def test_statistics(race: Race) -> None:
    """The distance alone, of 2,048 features per side."""
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
