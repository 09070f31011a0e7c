"""Logits of a whole video, from its file: views ``full`` against all of it in the plain network at once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from benchmarks import extract_work, peers
from benchmarks.conftest import Race
from fasti3d.train.data import Video
from fasti3d.train.evaluation import VIEWS, Scorer
from fasti3d.video import read_frames, to_clip

FRAMES = 128
OURS, PLAIN = "fasti3d, views full", "torch, all frames at once"


def _ours() -> Callable[[Path], Tensor]:
    scorer = Scorer(peers.our_network(), "rgb", VIEWS["full"])
    return lambda path: scorer(Video(path, None, "clip"))


def _plain() -> Callable[[Path], Tensor]:
    model = peers.random_reference()

    @torch.no_grad()
    def logits(path: Path) -> Tensor:
        frames = torch.stack([frame.image for frame in read_frames(path)])
        return model(to_clip(frames)[None])

    return logits


CANDIDATES = {OURS: _ours, PLAIN: _plain}


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return extract_work.write_video(tmp_path_factory.mktemp("clip") / "clip.mkv", FRAMES)


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", CANDIDATES)
def test_evaluate(race: Race, clip: Path, name: str) -> None:
    ours, candidate = _ours(), CANDIDATES[name]()
    error = peers.relative_error(candidate(clip), _plain()(clip))
    assert error < peers.LOGITS_TOLERANCE[torch.float32], "a wrong result has no speed"

    case = f"{FRAMES} frames of 340x256, float32 cpu"
    race.benchmark.group = f"evaluate {case}"
    race.benchmark.extra_info |= {"candidate": name, "case": case, "relative_error": error}
    race(lambda: candidate(clip), None if name == OURS else lambda: ours(clip), rounds=3)
