"""Features of a long video on the CPU: in chunks, in one pass, and in windows as users run them."""

from __future__ import annotations

import functools

import pytest
from torch import Tensor

from benchmarks import dense_work, peers
from benchmarks.conftest import Race
from benchmarks.dense_work import CANDIDATES, ONE_PASS, OURS, Features

FRAMES = 256


@functools.lru_cache(maxsize=1)
def ours() -> Features:
    return CANDIDATES[OURS]()


@functools.lru_cache(maxsize=1)
def video() -> tuple[Tensor, Tensor]:
    """Frames, and the features of one pass over them."""
    frames = dense_work.made_frames(FRAMES)
    return frames, CANDIDATES[ONE_PASS]()(frames)


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", CANDIDATES)
def test_dense(race: Race, name: str) -> None:
    frames, expected = video()
    candidate = ours() if name == OURS else CANDIDATES[name]()
    found = candidate(frames)
    assert found.shape == expected.shape
    difference = peers.relative_error(found, expected)
    # Windows do not see the frames around them: theirs are other features.
    assert difference < 1e-5 or "windows" in name, "a wrong result has no speed"

    race.benchmark.group = "dense"
    race.benchmark.extra_info |= {
        "candidate": name,
        "case": f"{FRAMES}x{dense_work.SIZE}x{dense_work.SIZE} float32 cpu",
        "relative_error": difference,
        **dense_work.peaks(name, FRAMES),
    }
    race(lambda: candidate(frames), None if name == OURS else lambda: ours()(frames), rounds=3)
