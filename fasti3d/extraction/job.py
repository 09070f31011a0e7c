"""The work on many videos: what is to do, what is done, what failed; whoever does it asks here."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fasti3d.extraction.errors import ErrorReport
from fasti3d.extraction.extracting import Extractor, Outcome
from fasti3d.extraction.output import ConflictError, OutputError
from fasti3d.extraction.sources import Source
from fasti3d.utils.naming import quoted

_log = logging.getLogger(__name__)
_log.addHandler(logging.NullHandler())  # heard where a program wants to: the tally and the report say it too

# Conflicts that are shown before a message says how many more there are.
_SHOWN = 3


@dataclass
class Tally:
    """How a job stands.

    Attributes:
        videos: all of the job's.
        done: made by this run.
        there: finished before, or meanwhile by another process.
        failed: those that failed, now or before.
        rows: of features that this run made.
    """

    videos: int
    done: int = 0
    there: int = 0
    failed: int = 0
    rows: int = 0


@dataclass(frozen=True)
class Failure:
    """A video that failed: its name, its path and why."""

    video: str
    path: Path
    reason: str


class Job:
    """The videos of one output folder.

    ``pending`` says what to do; each of it goes to the extractor, and what comes of it to ``note``, in any
    order; ``close`` puts the report in order, also after a job that was cut short.

    Args:
        sources: the videos.
        extractor: makes the output of each.
        folder: where outputs go.
        retry_errors: whether videos that failed before, as they are now, are tried again.
    """

    def __init__(
        self, sources: Sequence[Source], extractor: Extractor, folder: Path, *, retry_errors: bool = False
    ) -> None:
        self.tally = Tally(len(sources))
        self.failures: list[Failure] = []
        self._sources = sources
        self._extractor = extractor
        self._report = ErrorReport(folder)
        self._retry_errors = retry_errors
        self._finished: set[str] = set()

    def pending(self) -> list[Source]:
        """The videos to work on; the others are in the tally.

        Raises:
            ConflictError: outputs are there that were made otherwise; nothing has been changed.
        """
        before = {} if self._retry_errors else self._report.read()
        conflicts: list[str] = []
        pending: list[Source] = []
        for source in self._sources:
            try:
                known = self._extractor.look(source)
            except ConflictError as error:
                conflicts.append(str(error))
                continue
            entry = before.get(source.name)
            if known is not None and known.state == "there":
                self.note(known)
            elif entry is not None and entry.get("digest") == self._extractor.digest(source):
                self._fail(Failure(source.name, source.path, str(entry.get("reason"))))
            else:
                pending.append(source)
        if conflicts:
            more = len(conflicts) - _SHOWN
            raise ConflictError("; ".join(conflicts[:_SHOWN]) + (f"; and {more} more" if more > 0 else ""))
        return pending

    def note(self, outcome: Outcome) -> None:
        """Takes what came of a video: ``done``, ``there`` or ``failed``, whose reason goes to the report.

        Raises:
            OutputError: the report cannot be written.
        """
        source = outcome.source
        if outcome.state == "failed":
            self._fail(Failure(source.name, source.path, outcome.reason))
            self._report.add(outcome)
            _log.error("%s: %s", quoted(source.path), outcome.reason)
            return
        self._finished.add(source.name)
        if outcome.state == "there":
            self.tally.there += 1
            return
        self.tally.done += 1
        self.tally.rows += outcome.rows
        for text in outcome.warnings:
            _log.warning("%s: %s", quoted(source.path), text)
        _log.info("%s: %d rows, %.2f s", quoted(source.path), outcome.rows, outcome.seconds)

    def close(self) -> None:
        """Leaves what is done out of the report of errors, and puts it in order."""
        self._report.settle(self._finished)

    def _fail(self, failure: Failure) -> None:
        self.tally.failed += 1
        self.failures.append(failure)


def ready(folder: Path) -> None:
    """Makes the output folder.

    Raises:
        OutputError: it cannot be made, or takes no files.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK | os.X_OK):
            raise PermissionError(None, "it takes no files from this user")
    except OSError as error:
        raise OutputError(folder, error) from error


def every(sources: Sequence[Source], index: int, count: int) -> list[Source]:
    """Every ``count``-th video, from number ``index`` on, which counts from 1.

    Raises:
        ValueError: an index that is not 1 to ``count``.
    """
    if not 1 <= index <= count:
        raise ValueError(
            f"shard must be I/N with I from 1 to N, got {index}/{count}: the first of four is 1/4"
        )
    return list(sources[index - 1 :: count])
