"""How far a job is while it runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

from fasti3d.extraction.extracting import Outcome
from fasti3d.extraction.job import Tally
from fasti3d.extraction.sources import Source
from fasti3d.video import VideoError, probe
from fasti3d.video.state import video_state


@dataclass(frozen=True)
class Progress:
    """How far a job is.

    Attributes:
        videos: Videos in all.
        finished: Videos that are done, by this run or before.
        failed: Videos that failed, now or before.
        rows: Rows of features that this run made so far, also of videos in work.
        share: 0 to 1, the share that was read of the bytes of the videos that this run has to read.
    """

    videos: int
    finished: int
    failed: int
    rows: int
    share: float


class Tracker:
    """Adds up what the workers report, in their threads.

    Args:
        tally: The job's tally.
        report: Called with each progress, by one thread at a time.
    """

    def __init__(self, tally: Tally, report: Callable[[Progress], None]) -> None:
        self._tally = tally
        self._report = report
        self._lock = Lock()
        self._rows = 0
        self._bytes: dict[Source, int] = {}
        self._total = 0
        self._read = 0
        self._durations: dict[Source, float | None] = {}
        self._shares: dict[Source, float] = {}

    def begin(self, pending: Sequence[Source]) -> None:
        """Take the videos that are to be done."""
        self._bytes = {source: _bytes(source.path) for source in pending}
        self._total = sum(self._bytes.values())
        self._report_now()

    def advance(self, source: Source, rows: int, second: float) -> None:
        """Take more rows of a video, up to this second of it."""
        if source not in self._durations:
            self._durations[source] = _duration(source.path)
        duration = self._durations[source]
        with self._lock:
            self._rows += rows
            self._shares[source] = min(second / duration, 1.0) if duration else 0.0
            self._report_now()

    def finished(self, outcome: Outcome) -> None:
        """Take the outcome of a video, after the job."""
        source = outcome.source
        with self._lock:
            self._shares.pop(source, None)
            self._durations.pop(source, None)
            self._read += self._bytes[source]
            self._report_now()

    def _report_now(self) -> None:
        tally = self._tally
        read = self._read + sum(self._bytes[source] * share for source, share in self._shares.items())
        share = read / self._total if self._total else 1.0
        self._report(Progress(tally.videos, tally.done + tally.already_done, tally.failed, self._rows, share))


def _bytes(path: Path) -> int:
    try:
        return int(video_state(path)["bytes"])
    except VideoError:
        return 0


def _duration(path: Path) -> float | None:
    try:
        return probe(path).duration
    except VideoError:
        return None
