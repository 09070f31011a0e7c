"""The work on many videos: what is to be done, what is done, and what failed."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fasti3d.extraction.error_report import ErrorReport
from fasti3d.extraction.extracting import Extractor, Outcome
from fasti3d.extraction.feature_files import ConflictError, OutputError
from fasti3d.extraction.sources import Source
from fasti3d.utils.naming import quoted

_log = logging.getLogger(__name__)
_log.addHandler(
    logging.NullHandler()
)  # shown where a program asks for it: the tally and the report say it too

# Conflicts that are shown before a message says how many more there are.
_SHOWN = 3


@dataclass
class Tally:
    """How a job stands.

    Attributes:
        videos: Videos in all.
        done: Videos whose features this run made.
        already_done: Videos that were finished before, or meanwhile by another process.
        failed: Videos that failed, now or before.
        rows: Rows of features that this run made.
    """

    videos: int
    done: int = 0
    already_done: int = 0
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

    ``pending`` returns the videos to work on; each goes to the extractor, and its outcome to ``note``, in any
    order. ``close`` puts the report in order, also after a job that was cut short.

    Args:
        sources: The videos.
        extractor: Makes the output of each.
        folder: The output folder.
        retry_errors: Whether videos that failed before, and have not changed, are tried again.
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
        """Return the videos to work on; the others are in the tally.

        Raises:
            ConflictError: Outputs are there that were made otherwise; nothing has been changed.
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
            if known is not None and known.state == "already_done":
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
        """Take the outcome of a video: ``done``, ``already_done`` or ``failed``, which goes to the report.

        Raises:
            OutputError: The report cannot be written.
        """
        source = outcome.source
        if outcome.state == "failed":
            self._fail(Failure(source.name, source.path, outcome.reason))
            self._report.add(outcome)
            _log.error("%s: %s", quoted(source.path), outcome.reason)
            return
        self._finished.add(source.name)
        if outcome.state == "already_done":
            self.tally.already_done += 1
            return
        self.tally.done += 1
        self.tally.rows += outcome.rows
        for text in outcome.warnings:
            _log.warning("%s: %s", quoted(source.path), text)
        _log.info("%s: %d rows, %.2f s", quoted(source.path), outcome.rows, outcome.seconds)

    def close(self) -> None:
        """Put the report of errors in order, without the videos that are done."""
        self._report.put_in_order(self._finished)

    def _fail(self, failure: Failure) -> None:
        self.tally.failed += 1
        self.failures.append(failure)


def create_output_folder(folder: Path) -> None:
    """Create the output folder, unless it is there.

    Raises:
        OutputError: It cannot be created, or this user cannot write to it.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK | os.X_OK):
            raise PermissionError(None, "this user has no permission to write to it")
    except OSError as error:
        raise OutputError(folder, error) from error


def take_shard(sources: Sequence[Source], index: int, count: int) -> list[Source]:
    """Return every ``count``-th video, starting with number ``index``, which counts from 1.

    Example:
        >>> take_shard(list("abcde"), 2, 3)
        ['b', 'e']
    """
    return list(sources[index - 1 :: count])
