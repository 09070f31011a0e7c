"""Features of a video, from its file to theirs: fasti3d against reading all of it into the plain network."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import extract_work, peers
from benchmarks.conftest import Race
from fasti3d import video

FRAMES, STACK = 48, extract_work.STACK


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return extract_work.write_video(tmp_path_factory.mktemp("clip") / "clip.mkv", FRAMES)


def _processor_seconds_of_reading(clip: Path) -> float:
    start = time.process_time()
    for _ in video.read_frames(clip):
        pass
    return time.process_time() - start


@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", extract_work.CANDIDATES)
def test_extract(race: Race, clip: Path, tmp_path: Path, name: str) -> None:
    runs = {key: make(STACK, STACK) for key, make in extract_work.CANDIDATES.items()}
    fresh = iter(range(1000))

    def run(candidate: str) -> Path:
        out = tmp_path / str(next(fresh))
        out.mkdir()
        return runs[candidate](clip, out)

    features, expected = (torch.from_numpy(np.load(run(key))) for key in (name, extract_work.STRAIGHTFORWARD))
    assert features.shape == (FRAMES // STACK, 1024)
    error = peers.relative_error(features, expected)
    assert error < peers.LOGITS_TOLERANCE[torch.float32], "a wrong result has no speed"

    case = f"{FRAMES} frames of 340x256, windows of {STACK}, float32 cpu"
    race.benchmark.group = f"extract {case}"
    race.benchmark.extra_info |= {"candidate": name, "case": case, "relative_error": error}
    race.benchmark.extra_info |= extract_work.peaks(name)
    if name == extract_work.OURS:
        start = time.process_time()
        run(name)
        share = _processor_seconds_of_reading(clip) / (time.process_time() - start)
        race.benchmark.extra_info["reading_percent"] = 100 * share
    race(lambda: run(name), None if name == extract_work.OURS else lambda: run(extract_work.OURS), rounds=3)
