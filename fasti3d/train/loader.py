"""Reads clips ahead in other processes, and replaces those that cannot be read."""

from __future__ import annotations

import os
import signal
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Protocol

from torch.utils.data import DataLoader, Dataset

from fasti3d.train.data.clips import ClipSample
from fasti3d.train.settings import TrainingError
from fasti3d.train.stream import ClipStream, Item
from fasti3d.utils.naming import quoted
from fasti3d.utils.parsing import first_line
from fasti3d.video import VideoError

# Batches that each reading process makes ahead.
_AHEAD = 2
_MAX_WORKERS = 16


class Clips(Protocol):
    """Clips by epoch and video, as ``TrainingClips`` has them."""

    def __len__(self) -> int: ...

    def __getitem__(self, item: Item, /) -> ClipSample: ...


@dataclass(frozen=True)
class Batch:
    """Clips of a forward pass, and what could not be read on the way to them: (key, reason)."""

    samples: list[ClipSample]
    failed: list[tuple[str, str]]


_Read = tuple[ClipSample | None, list[tuple[str, str]]]


class _Replacing(Dataset[_Read]):
    """A clip that cannot be read is replaced by the next video's of the same epoch, so each start of a run
    takes the same ones.
    """

    def __init__(self, clips: Clips) -> None:
        self._clips = clips

    def __getitem__(self, item: Item) -> _Read:
        epoch, first = item
        failed: list[tuple[str, str]] = []
        count = len(self._clips)
        for further in range(count):
            try:
                return self._clips[epoch, (first + further) % count], failed
            except VideoError as error:
                failed.append((str(error.path), error.reason))
        return None, failed


def _together(items: Sequence[_Read]) -> Batch:
    samples = [sample for sample, _ in items if sample is not None]
    return Batch(
        samples if len(samples) == len(items) else [], [one for _, failed in items for one in failed]
    )


def _serve(_: int) -> None:
    """A signal to all processes of a job is the trainer's to obey, which then ends those that read."""
    for name in ("SIGTERM", "SIGUSR1"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)


def read_batches(clips: Clips, stream: ClipStream, workers: int) -> Generator[Batch, None, None]:
    """Yield the batches of a stream, which ``workers`` processes read ahead (0: read when asked for)."""
    loader = DataLoader(
        _Replacing(clips),
        batch_sampler=stream,
        num_workers=workers,
        collate_fn=_together,
        prefetch_factor=_AHEAD if workers else None,
        worker_init_fn=_serve,
    )
    try:
        for batch in loader:
            if not batch.samples:
                path, reason = batch.failed[0]
                raise TrainingError(
                    f"none of the {len(clips):,} training videos can be read, such as {quoted(path)}, which"
                    f" {reason}"
                )
            yield batch
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise TrainingError(
            f"a process that reads clips has died: {first_line(error)}; if memory ran out, lower --workers"
        ) from error


def default_workers(processes: int) -> int:
    """Return how many processes read clips for each of the processes of this machine that train."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(_MAX_WORKERS, cores // processes))
