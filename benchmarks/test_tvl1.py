"""TV-L1 on the CPU: pairs a second of a clip, against OpenCV and scikit-image on the very same pairs."""

from __future__ import annotations

import functools
import itertools

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor

from benchmarks import flow_memory, flow_peers, flow_work
from benchmarks.conftest import PairRace, Race, rounds_within
from benchmarks.flow_data import CLIPS, MADE, Clip, made_frames
from fasti3d.flow import TVL1Params, average_endpoint_error, tvl1_video

DEFAULTS = TVL1Params()
# OpenCV takes about a second a pair. scikit-image's time hardly depends on the pair: fewer will do.
PAIRS = {flow_peers.OPENCV: 20, flow_peers.SCIKIT_IMAGE: 8}
MOST = max(PAIRS.values())
# 1080p no longer fits in the L3 cache, and costs OpenCV tens of seconds per moving pair.
FULL_HD = (1080, 1920)
FULL_HD_ROUNDS = 2
# Memory is a matter of size alone: it is measured at 340x256.
WITH_MEMORY = (CLIPS[0], Clip(MADE))


@functools.lru_cache(maxsize=1)
def frames(clip: Clip) -> Tensor:
    """The frames of the most pairs. Made ones stand in where there are no real ones."""
    if clip.missing:
        pytest.skip(clip.missing)
    if clip.name == MADE and not any(clip.missing for clip in CLIPS):
        pytest.skip("the real clips are there")
    return clip.frames(MOST + 1)


def describe(benchmark: BenchmarkFixture, clip: Clip, images: Tensor, candidate: str, at_once: int) -> None:
    """``at_once``: the pairs that the candidate is given in one call."""
    _, height, width = images.shape
    case = f"{clip}, {width}x{height}"
    benchmark.group = f"TV-L1 clip {case}"
    benchmark.extra_info |= {"candidate": candidate, "case": case}
    if clip in WITH_MEMORY:
        benchmark.extra_info |= flow_memory.peaks(candidate, at_once, (height, width))


@pytest.mark.parametrize("clip", [*CLIPS, Clip(MADE)], ids=str)
def test_tvl1_batch(race: Race, clip: Clip) -> None:
    images = frames(clip)
    alone = flow_peers.fasti3d()(*images[-2:])  # which test_tvl1_single checks
    assert torch.equal(tvl1_video(images)[-1], alone), "a wrong result has no speed"

    describe(race.benchmark, clip, images, flow_memory.BATCH, MOST)
    race(lambda: tvl1_video(images), None, rounds=rounds_within(2, lambda: tvl1_video(images), least=3))
    if race.benchmark.stats is None:  # --benchmark-disable
        return
    seconds = race.benchmark.stats.stats.median
    race.benchmark.extra_info |= {
        "pairs": MOST,
        "pairs_per_s": MOST / seconds,
        "gpixel_iterations_per_s": flow_work.solved(images, DEFAULTS) / seconds / 1e9,
    }


@pytest.mark.parametrize("clip", [*CLIPS, Clip(MADE)], ids=str)
def test_tvl1_single(pair_race: PairRace, clip: Clip) -> None:
    images = frames(clip)
    solve = flow_peers.fasti3d()
    flow_peers.check(flow_memory.SINGLE, solve, *images[-2:])
    describe(pair_race.benchmark, clip, images, flow_memory.SINGLE, 1)
    pair_race(solve, list(itertools.pairwise(images)))
    if pair_race.benchmark.stats is None:  # --benchmark-disable
        return
    seconds = sum(pair_race.benchmark.stats.stats.data)
    pair_race.benchmark.extra_info["gpixel_iterations_per_s"] = (
        flow_work.solved(images, DEFAULTS) / seconds / 1e9
    )


@pytest.mark.parametrize("peer", PAIRS)
@pytest.mark.parametrize("clip", [*CLIPS, Clip(MADE)], ids=str)
def test_tvl1_peer(pair_race: PairRace, clip: Clip, peer: str) -> None:
    flow_peers.skip_without(peer)
    images = frames(clip)[: PAIRS[peer] + 1]
    solve = flow_peers.PEERS[peer]()
    flow_peers.check(peer, solve, *images[-2:])
    describe(pair_race.benchmark, clip, images, peer, 1)
    pair_race(
        solve,
        list(itertools.pairwise(images)),
        ours=flow_peers.fasti3d(),
        our_batch=lambda: tvl1_video(images),
    )


@pytest.mark.parametrize("candidate", [flow_memory.SINGLE, flow_peers.OPENCV])
@pytest.mark.parametrize("motion", ["moving", "still"])
def test_tvl1_1080p(pair_race: PairRace, motion: str, candidate: str) -> None:
    ours = flow_peers.fasti3d()
    solve = ours
    frame0, frame1 = made_frames(2, *FULL_HD)
    pair = (frame0, frame1 if motion == "moving" else frame0)
    if candidate == flow_peers.OPENCV:
        flow_peers.skip_without(candidate)
        solve = flow_peers.opencv()
        assert average_endpoint_error(ours(*pair), solve(*pair)) < flow_peers.OPENCV_TOLERANCE
    case = f"a {motion} pair, 1920x1080"
    pair_race.benchmark.group = f"TV-L1 clip {case}"
    pair_race.benchmark.extra_info |= {"candidate": candidate, "case": case}
    pair_race(solve, [pair] * FULL_HD_ROUNDS, ours=None if solve is ours else ours)
