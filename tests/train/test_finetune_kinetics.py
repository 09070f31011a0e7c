"""The published weights with their trunk frozen learn four kinds of videos in a few steps."""

from __future__ import annotations

from fractions import Fraction
from functools import partial
from pathlib import Path

import av
import numpy as np
import pytest
from av.video.frame import VideoFrame
from dataset_making import CLASSES, make_ucf101
from typer.testing import CliRunner

from fasti3d.cli import app
from fasti3d.train import api, read_record
from fasti3d.train.data import clips
from fasti3d.train.evaluation import scoring

WIDTH, HEIGHT = 96, 72


def pattern(kind: int, t: int, rng: np.random.Generator) -> np.ndarray:
    """A frame: stripes that move, across or along; squares that blink; or a disk that grows."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    phase, wide = rng.integers(0, 16), rng.integers(8, 14)
    low, high = rng.integers(0, 90, 3), rng.integers(150, 256, 3)
    bright = (
        (x + 2 * t + phase) // wide % 2,
        (y + 2 * t + phase) // wide % 2,
        (x // wide + y // wide + (t + phase) // 4) % 2,
        np.hypot(x - WIDTH / 2, y - HEIGHT / 2) < 8 + (2 * t + phase) % 30,
    )[kind]
    return np.where(np.asarray(bright, bool)[..., None], high, low).astype(np.uint8)


def write_video(path: Path, kind: int, seed: int, frames: int = 20) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt, stream.bit_rate = WIDTH, HEIGHT, "yuv420p", 2_000_000
        for t in range(frames):
            image = pattern(kind, t, np.random.default_rng(seed))
            frame = VideoFrame.from_ndarray(image, format="rgb24").reformat(format="yuv420p")
            frame.pts, frame.time_base = t, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """UCF-101 with 40 videos of four classes, of which 12 are tested on."""
    folder = make_ucf101(tmp_path_factory.mktemp("kinds"), groups=10)
    for kind, name in enumerate(CLASSES):
        for seed, path in enumerate(sorted((folder / name).iterdir())):
            write_video(path, kind, 100 * kind + seed)
    return folder


def accuracy(root: Path, out: Path, *options: object) -> float | None:
    given = ["--dataset", "ucf101", "--root", root, "--split", 1, "--freeze", "trunk", "-o", out]
    weights = ["--weights", "kinetics400-rgb"]
    done = CliRunner().invoke(app, ["finetune", *map(str, [*given, *weights, *options])])
    assert done.exit_code == 0, done.stderr
    record = read_record(out / "last.safetensors")
    assert record is not None
    assert record.classes == CLASSES
    return record.accuracy


@pytest.mark.slow
@pytest.mark.usefixtures("kinetics_weights")
def test_four_classes_on_clips_of_16_frames(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A quarter of the frames takes a quarter of the time."""
    monkeypatch.setattr(api, "TrainingClips", partial(clips.TrainingClips, frames=16))
    monkeypatch.setattr(scoring, "CLIP_FRAMES", 16)
    options = ("--steps", 20, "--batch", 4, "--lr", 0.05, "--evaluate-every", 20, "--workers", 0)
    found = accuracy(root, tmp_path / "run", *options)
    assert found is not None
    assert found > 0.9


@pytest.mark.slow
@pytest.mark.usefixtures("kinetics_weights")
def test_four_classes_in_a_trial_run(root: Path, tmp_path: Path) -> None:
    found = accuracy(root, tmp_path / "run", "--limit", 40)
    assert found is not None
    assert found > 0.9
