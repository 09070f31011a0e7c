"""Clips of textures that move left or right, so that no single frame tells, and a network small enough."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fasti3d import I3D, network
from fasti3d.flow.params import PRESETS
from fasti3d.train.data.batches import to_device
from fasti3d.train.data.clips import ClipSample, Crop
from fasti3d.train.data.flow_source import solved_clip
from fasti3d.train.evaluation.ranks import ranks
from fasti3d.train.journal import Journal
from fasti3d.train.loop import Job, Trainer
from fasti3d.train.record import TrainingRecord
from fasti3d.train.run_folder import RunFolder
from fasti3d.train.settings import TrainingSettings, recipe
from fasti3d.train.start import start_from
from fasti3d.train.state import environment
from fasti3d.train.stopping import Stopping

CLASSES = ("left", "right")
CPU = torch.device("cpu")
DRAW = Journal.draw


def _eighth(part: network.Conv | network.Pool | network.Mixed) -> network.Conv | network.Pool | network.Mixed:
    if isinstance(part, network.Conv):
        return part._replace(out_channels=part.out_channels // 8)
    return network.Mixed(*(width // 8 for width in part)) if isinstance(part, network.Mixed) else part


@contextmanager
def eighth() -> Iterator[None]:
    """Inside, networks have an eighth of the width and take clips of 64x64 pixels, and no curve is drawn."""
    with pytest.MonkeyPatch.context() as patch:
        trunk = {name: _eighth(part) for name, part in network.TRUNK.items()}
        patch.setattr(network, "TRUNK", trunk)
        patch.setattr(network, "FEATURE_CHANNELS", trunk["Mixed_5c"].out_channels)
        patch.setattr(network, "HEAD_POOL", (2, 2, 2))
        patch.setattr(Journal, "draw", lambda self, title: None)
        yield


class MovingClips:
    """Clip ``i`` of an epoch is a texture of its own that moves left (even ``i``) or right.

    Args:
        count: of clips per epoch.
        frames, size: of a clip.
        first: epoch that item (0, i) is of, to hold clips out.
    """

    def __init__(self, count: int = 64, *, frames: int = 16, size: int = 64, first: int = 0) -> None:
        self._count = count
        self._frames = frames
        self._size = size
        self._first = first

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, item: tuple[int, int]) -> ClipSample:
        epoch, i = item
        rng = np.random.default_rng((self._first + epoch, i))
        coarse = rng.integers(0, 256, (self._size // 4, self._size // 4, 3), np.uint8)
        texture = coarse.repeat(4, 0).repeat(4, 1)
        step = -2 if i % 2 == 0 else 2
        frames = np.stack([np.roll(texture, step * t, axis=1) for t in range(self._frames)])
        return ClipSample(torch.from_numpy(frames), Crop(0, 0, self._size, False), i % 2, f"{epoch}/{i}.avi")


class MovingFlow(MovingClips):
    """The flow of such clips, of a frame less, as the solver finds it."""

    def __getitem__(self, item: tuple[int, int]) -> ClipSample:
        sample = super().__getitem__(item)
        return replace(sample, frames=solved_clip(sample.frames, PRESETS["i3d"]))


def accuracy(model: I3D, clips: Any, half: int = 16) -> float:
    """The share of the clips of an epoch whose class is the best."""
    was = model.training
    model.eval()
    right = 0
    with torch.no_grad():
        for start in range(0, len(clips), half):
            samples = [clips[0, i] for i in range(start, min(start + half, len(clips)))]
            dtype = next(model.parameters()).dtype
            found = model(to_device(samples, CPU, dtype)).argmax(1).tolist()
            right += sum(a == sample.label for a, sample in zip(found, samples, strict=True))
    model.train(was)
    return right / len(clips)


def job_of(
    settings: TrainingSettings,
    clips: Any,
    validate: Callable[[I3D], float] | None = None,
    processes: int = 1,
    **changes: Any,
) -> Job:
    """A run from random numbers on these clips."""
    made = recipe(settings, videos=len(clips), processes=processes, on_gpu=False, from_kinetics=False)
    record = TrainingRecord("moving", "train", None, settings.stream, CLASSES)
    return Job(
        settings,
        replace(made, **changes),
        clips,
        record,
        "random numbers",
        environment(processes, settings.batch, CPU),
        "these clips",
        validate,
        note=lambda text: None,
    )


def trainer_of(job: Job, folder: Path, dtype: torch.dtype = torch.float32) -> Trainer:
    """Its trainer, in a folder."""
    model = start_from("scratch", CLASSES, job.settings).model.to(dtype)
    where = RunFolder(folder)
    where.write_config({"settings": {}})
    return Trainer(model, job, where, ranks(), CPU)


def train(job: Job, folder: Path, dtype: torch.dtype = torch.float32) -> I3D:
    """Train, or go on, to the end."""
    trainer = trainer_of(job, folder, dtype)
    trainer.resume()
    assert trainer.run(Stopping())
    return trainer.model
