"""Frames to two-stream logits, from end to end: clips a second, and the share of each part of the pass."""

from __future__ import annotations

import functools
import statistics

import pytest
import torch
from torch import Tensor

from benchmarks import flow_peers, peers
from benchmarks import two_stream_work as work
from benchmarks.conftest import Race, rounds_within
from benchmarks.two_stream_work import OPENCV, OURS, Case, Pass
from fasti3d import TwoStreamI3D

GPU = [Case(clips, 64, torch.float16, "cuda") for clips in (1, 8)]
CASES = [Case(1, 16, torch.float32), *(pytest.param(case, marks=pytest.mark.gpu) for case in GPU)]

# What flow of another rounding may add to the error of the logits: OpenCV's adds 6e-5, none at all 4e-2.
FLOW_TOLERANCE = 1e-3
PARTS_ROUNDS = 5


@functools.lru_cache(maxsize=1)
def ours(case: Case) -> tuple[TwoStreamI3D, Tensor, Pass]:
    two, frames = work.ours(case)
    return two, frames, work.whole(two, frames)


@functools.lru_cache(maxsize=1)
def expected(frames: int) -> Tensor:
    """Of the first clip, with its flow and without."""
    return work.expected_logits(Case(1, frames, torch.float32))


def check(case: Case, logits: Tensor) -> float:
    """The error of the first clip's logits; fails for what has no speed because it is wrong."""
    right, without_flow = expected(case.frames).split(1)
    limit = peers.LOGITS_TOLERANCE[case.dtype] + FLOW_TOLERANCE
    assert peers.relative_error(without_flow, right) > 2 * limit, "the flow does not show in the logits"
    error = peers.relative_error(logits[:1], right)
    assert error < limit, "a wrong result has no speed"
    return error


def shares(case: Case) -> dict[str, float]:
    """Of each part, in percent of their sum: medians of some passes."""
    two, frames, run = ours(case)
    logits, _ = work.part_by_part(two, frames)
    assert peers.relative_error(logits, run()) <= peers.LOGITS_TOLERANCE[case.dtype], (
        "these are no parts of it"
    )
    rounds = [work.part_by_part(two, frames)[1] for _ in range(PARTS_ROUNDS)]
    seconds = {name: statistics.median(parts[name] for parts in rounds) for name in rounds[0]}
    return {name: 100 * part / sum(seconds.values()) for name, part in seconds.items()}


@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", [OURS, OPENCV])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_two_stream(race: Race, case: Case, name: str) -> None:
    if name == OPENCV:
        flow_peers.skip_without(flow_peers.OPENCV)
    if case.device == "cuda":
        torch.backends.cudnn.benchmark = True
    _, _, our_pass = ours(case)
    candidate = our_pass if name == OURS else work.with_opencv(case)
    error = check(case, candidate())

    info = race.benchmark.extra_info
    race.benchmark.group = f"two-stream {case}"
    info |= {"candidate": name, "case": str(case), "relative_error": error}
    if name == OURS:
        info |= {f"percent_{part}": percent for part, percent in shares(case).items()}
    if case.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        candidate()
        info["device_mb"] = (torch.cuda.max_memory_allocated() - before) / 1e6
    race(candidate, None if name == OURS else our_pass, rounds=rounds_within(1, our_pass, least=3))
    if race.benchmark.stats is not None:
        info["clips_per_s"] = case.clips / race.benchmark.stats.stats.median
