"""A network learns the direction of motion, which no single frame tells, in a short run."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from moving_clips import MovingClips, MovingFlow, accuracy, eighth, job_of, train

from fasti3d.train.journal import read_log
from fasti3d.train.settings import TrainingSettings

# A fit of 40 steps; its rate is that of the paper for 190 clips per step.
SETTINGS = {"steps": 40, "evaluate_every": 40, "batch": 8, "lr": 0.05, "dropout": 0.0, "workers": 0}


@pytest.fixture(autouse=True)
def _small() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with eighth():
        yield
    torch.set_num_threads(threads)


def trained(folder: Path, kind: type[MovingClips] = MovingClips, **settings: object) -> float:
    """The accuracy on held-out clips at the end, as the run finds it."""
    held_out = kind(64, frames=17, first=10_000)
    clips = kind(64, frames=17)
    job = job_of(TrainingSettings(**SETTINGS, **settings), clips, lambda m: accuracy(m, held_out))
    train(job, folder)
    log = read_log(folder / "log.csv")
    assert log[39]["loss"] < 0.1  # it has learned in any case
    return log[-1]["validation_accuracy"]


def test_direction_of_motion_is_learned(tmp_path: Path) -> None:
    assert trained(tmp_path / "run") > 0.95


@pytest.mark.slow
def test_direction_of_motion_is_learned_from_flow(tmp_path: Path) -> None:
    assert trained(tmp_path / "run", MovingFlow, stream="flow") > 0.95


def test_statistics_of_nothing_are_chance(tmp_path: Path) -> None:
    """Why the defaults are what they are: the same weights, with the statistics that the start had."""
    assert trained(tmp_path / "run", bn_momentum=0.001, precise_bn=0) < 0.65
