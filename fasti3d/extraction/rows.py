"""What a producer of features gives: rows, each of which knows where in the video it comes from."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event
from typing import NamedTuple, Protocol

from torch import Tensor

from fasti3d.flow.folder import FlowFolder


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


def finite(stream: str, values: Tensor) -> Tensor:
    """Features of a stream as float32 on the CPU.

    Raises:
        FloatingPointError: some are not finite.
    """
    rows = values.float().cpu()
    if not rows.isfinite().all():
        raise FloatingPointError(
            f"features of the {stream} stream are not finite in {values.dtype}: use dtype float32"
        )
    return rows


def shown_until(times: Sequence[float], fps: float | None) -> float:
    """The second at which the last of some frames, shown at ``times``, no longer is."""
    if fps is not None:
        return times[-1] + 1 / fps
    return times[-1] + (times[-1] - times[0]) / max(len(times) - 1, 1)


class StoppedError(Exception):
    """Work was ended before it was done, because it was asked to."""


class Producer(Protocol):
    """Makes the features of one video: ``WindowFeatures`` and ``DenseFeatures`` are two.

    It yields rows in order, in pieces that bound the memory it needs, and its generator's own value is the
    number of sampled frames. None between them says that the rows before are wrong: it begins again. Flow is
    computed, or read from ``folder``.

    Raises:
        VideoError: a video that cannot be read, or gives no row.
        FloatingPointError: features that are not finite.
        StoppedError: as its ``watch`` says.
    """

    def __call__(
        self, path: Path, watch: Watch, folder: FlowFolder | None = None
    ) -> Generator[Rows | None, None, int]: ...
