"""The report of videos that failed: a line of JSON each, in errors.jsonl."""

from __future__ import annotations

import json
from collections.abc import Iterable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from filelock import FileLock

from fasti3d.extraction.extracting import Outcome
from fasti3d.extraction.output import OutputError, remove_held
from fasti3d.extraction.sources import REPORT, REPORT_LOCK
from fasti3d.utils.parsing import parse_json
from fasti3d.weights.files import write_atomically

Entry = dict[str, Any]


class ErrorReport:
    """Which videos failed and why; several processes may share it.

    A line is added as soon as a video fails, so that a kill loses none; the last one of a video counts.
    Once a job ends, the videos that meanwhile are done are left out and the rest is put in order, so that
    the report does not depend on how often the job was cut short.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / REPORT
        self._lock = folder / REPORT_LOCK

    def read(self) -> dict[str, Entry]:
        """The entries by the videos' names: ``video``, ``path``, ``reason`` and ``digest``.

        Raises:
            OutputError: the record that is there cannot be read.
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
                continue  # the process was killed over it
        return entries

    def add(self, outcome: Outcome) -> None:
        """Notes a failure.

        Raises:
            OutputError: it cannot be written.
        """
        line = json.dumps(_entry(outcome))
        try:
            with self._locked(), self.path.open("a+b") as file:
                if file.tell():
                    file.seek(-1, 2)
                    if file.read(1) != b"\n":
                        file.write(b"\n")  # behind what a kill cut off
                file.write(line.encode() + b"\n")
        except OSError as error:
            raise OutputError(self.path, error) from error

    def settle(self, done: Iterable[str]) -> None:
        """Leaves out the videos that are done, and sorts the rest by name.

        Raises:
            OutputError: it cannot be written.
        """
        if not self.path.exists():
            return
        try:
            with self._locked():
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
                remove_held(self._lock)
        except OSError as error:
            raise OutputError(self.path, error) from error

    def _locked(self) -> AbstractContextManager[object]:
        return FileLock(self._lock)


def _entry(outcome: Outcome) -> Entry:
    source = outcome.source
    return {
        "video": source.name,
        "path": str(source.path),
        "reason": outcome.reason,
        "digest": outcome.digest,
    }
