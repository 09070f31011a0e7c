"""The report of videos that failed: one line of JSON each, in errors.jsonl."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from fasti3d.extraction.extracting import Outcome
from fasti3d.extraction.feature_files import OutputError
from fasti3d.extraction.sources import REPORT, REPORT_LOCK
from fasti3d.utils.files import write_atomically
from fasti3d.utils.parsing import Json, parse_json
from fasti3d.utils.resumable_output import locked, remove_lock


class ErrorReport:
    """Which videos failed and why; several processes may share it.

    A line is added as soon as a video fails, so that a kill loses none; the last one of a video counts. When
    a job ends, videos that are done by then are left out and the rest is sorted, so that the report does not
    depend on how often the job was cut short.

    Args:
        folder: The output folder.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / REPORT
        self._lock = folder / REPORT_LOCK

    def read(self) -> dict[str, Json]:
        """Return the entries by the videos' names: ``video``, ``path``, ``reason`` and ``digest``.

        Raises:
            OutputError: The report cannot be read.
        """
        try:
            lines = self.path.read_text(encoding="utf-8", errors="replace").splitlines()
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise OutputError(self.path, error) from error
        entries = {}
        for line in lines:
            try:
                entry = parse_json(line)
                entries[str(entry["video"])] = entry
            except (ValueError, TypeError, KeyError):
                continue  # a kill cut it off
        return entries

    def add(self, outcome: Outcome) -> None:
        """Add a failure.

        Raises:
            OutputError: The report cannot be written.
        """
        line = json.dumps(_entry(outcome))
        try:
            with locked(self._lock), self.path.open("a+b") as file:
                if file.tell():
                    file.seek(-1, 2)
                    if file.read(1) != b"\n":
                        file.write(b"\n")  # after what a kill cut off
                file.write(line.encode() + b"\n")
        except OSError as error:
            raise OutputError(self.path, error) from error

    def put_in_order(self, done: Iterable[str]) -> None:
        """Leave out the videos that are done, and sort the rest by name.

        Raises:
            OutputError: The report cannot be written.
        """
        if not self.path.exists():
            return
        try:
            with locked(self._lock):
                for left in self.path.parent.glob(f".{REPORT}.*.tmp"):
                    left.unlink()  # by a process that was killed
                entries = self.read()
                for name in done:
                    entries.pop(name, None)
                if entries:
                    lines = [json.dumps(entries[name]) for name in sorted(entries)]
                    write_atomically(self.path, ("\n".join(lines) + "\n").encode())
                else:
                    self.path.unlink(missing_ok=True)
                remove_lock(self._lock)
        except OSError as error:
            raise OutputError(self.path, error) from error


def _entry(outcome: Outcome) -> Json:
    source = outcome.source
    return {
        "video": source.name,
        "path": str(source.path),
        "reason": outcome.reason,
        "digest": outcome.digest,
    }
