"""What a producer of features gives: rows, each of which knows where in the video it comes from."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event
from typing import NamedTuple, Protocol

from torch import Tensor


class Row(NamedTuple):
    """Where a row of features comes from.

    Attributes:
        start_frame, end_frame: the sampled frames from start up to, not including, end; without those that
            a tail was filled up with.
        start_seconds, end_seconds: from when the first is shown until the last no longer is, since the
            video's first frame.
    """

    start_frame: int
    end_frame: int
    start_seconds: float
    end_seconds: float


@dataclass(frozen=True, eq=False)
class Rows:
    """Consecutive rows: for each stream its features, float32 (rows, ...) on the CPU."""

    where: tuple[Row, ...]
    features: dict[str, Tensor]


@dataclass(frozen=True)
class Watch:
    """What a producer heeds while it works.

    Attributes:
        turn: entered for each pass of a network: where several videos are in work, one has the device.
        stop: once it is set, work ends soon, with ``StoppedError``.
    """

    turn: AbstractContextManager[object] = field(default_factory=nullcontext)
    stop: Event = field(default_factory=Event)

    def check(self) -> None:
        """Raises StoppedError once it is time to stop."""
        if self.stop.is_set():
            raise StoppedError


class StoppedError(Exception):
    """Work was ended before it was done, because it was asked to."""


class Producer(Protocol):
    """Makes the features of one video: ``fasti3d.extraction.windows.WindowFeatures`` is one.

    It yields rows in order, in pieces that bound the memory it needs, and its generator's own value is the
    number of sampled frames.

    Raises:
        VideoError: a video that cannot be read, or gives no row.
        FloatingPointError: features that are not finite.
        StoppedError: as its ``watch`` says.
    """

    def __call__(self, path: Path, watch: Watch) -> Generator[Rows, None, int]: ...
