"""What a producer of features yields: rows, each with its place in the video."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event
from typing import NamedTuple, Protocol

from torch import Tensor

from fasti3d.flow.stored import StoredFlow


class Row(NamedTuple):
    """Where a row of features comes from.

    Attributes:
        start_frame, end_frame: The sampled frames from start up to, not including, end; without those that
            filled up a tail.
        start_seconds, end_seconds: When the first is shown and until when the last is, in seconds since the
            video's first frame.
    """

    start_frame: int
    end_frame: int
    start_seconds: float
    end_seconds: float


@dataclass(frozen=True, eq=False)
class Rows:
    """Consecutive rows: the features of each stream, float32 (rows, ...) on the CPU."""

    where: tuple[Row, ...]
    features: dict[str, Tensor]


@dataclass(frozen=True)
class Watch:
    """What a producer observes while it works.

    Attributes:
        turn: Entered for each pass of a network: of several videos in work, one has the device.
        stop: Once it is set, work ends soon, with ``StoppedError``.
    """

    turn: AbstractContextManager[object] = field(default_factory=nullcontext)
    stop: Event = field(default_factory=Event)

    def check(self) -> None:
        """Raise StoppedError once ``stop`` is set."""
        if self.stop.is_set():
            raise StoppedError


def finite(stream: str, values: Tensor) -> Tensor:
    """Return the features of a stream as float32 on the CPU.

    Raises:
        FloatingPointError: Some are not finite.
    """
    rows = values.float().cpu()
    if not rows.isfinite().all():
        raise FloatingPointError(
            f"features of the {stream} stream are not finite in {values.dtype}: use dtype float32"
        )
    return rows


def shown_until(times: Sequence[float], fps: float | None) -> float:
    """Return the second until which the last of some frames, shown at ``times``, is shown."""
    if fps is not None:
        return times[-1] + 1 / fps
    return times[-1] + (times[-1] - times[0]) / max(len(times) - 1, 1)


class StoppedError(Exception):
    """Work was asked to stop before it was done."""


class Producer(Protocol):
    """Makes the features of one video, as ``WindowFeatures`` and ``DenseFeatures`` do.

    It yields rows in order, in pieces that bound the memory it needs, and its generator's own value is the
    number of sampled frames. None between them means that the rows so far are wrong: it begins again. Flow is
    computed, or read from ``folder``.

    Raises:
        VideoError: The video cannot be read, or gives no row.
        FloatingPointError: Features are not finite.
        StoppedError: Its ``watch`` says to stop.
    """

    def __call__(
        self, path: Path, watch: Watch, folder: StoredFlow | None = None
    ) -> Generator[Rows | None, None, int]: ...
