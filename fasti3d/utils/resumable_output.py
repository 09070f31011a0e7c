"""Output that a later process recognizes, or continues where one that was killed stopped."""

from __future__ import annotations

import contextlib
import errno
import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event

from filelock import FileLock, Timeout

from fasti3d.utils.files import StagedFiles, temporary_path
from fasti3d.utils.parsing import Json, parse_json

# How often, in seconds, a process that waits for another one checks whether it should stop.
_STOP_INTERVAL = 0.5
# Longer values, such as hashes, are cut in messages.
_MAX_SHOWN = 40


class ResumableOutput:
    """Files made by one process at a time, with a record in JSON of what they were made from.

    The process that makes them holds a lock file. What it writes has temporary names until it is complete;
    the next process removes those that a killed one has left.

    Args:
        record: The path of the record.
        lock: The path of the lock file.
    """

    def __init__(self, record: Path, lock: Path) -> None:
        self.record_path = record
        self._lock = lock

    @property
    def released(self) -> bool:
        """Whether there is no lock file: a killed process may have finished all but its removal."""
        return not self._lock.exists()

    def read_record(self) -> Json | None:
        """Return the record; None if there is none, and an empty one if it cannot be understood."""
        try:
            record = parse_json(self.record_path.read_bytes())
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (OSError, ValueError):
            return {}
        return record if isinstance(record, dict) else {}

    @contextmanager
    def claimed(self, *, wait: bool = False, stop: Event | None = None) -> Iterator[bool]:
        """Hold the lock, whose file is removed afterwards; yield False if another process holds it.

        Args:
            wait: Whether to wait for the other process.
            stop: Ends the wait once it is set.

        Raises:
            OSError: The lock file, or its folder, cannot be created.
        """
        self._lock.parent.mkdir(parents=True, exist_ok=True)
        with locked(self._lock, wait=wait, stop=stop) as held:
            try:
                yield held
            finally:
                if held and not self._keeps_lock():
                    remove_lock(self._lock)

    def remove_temporary(self) -> None:
        """Remove what a killed process has left; only the process that holds the lock may do so.

        Raises:
            OSError: A file cannot be removed.
        """
        self._remove(self._temporary_files())

    def _keeps_lock(self) -> bool:
        """Whether the lock file stays, as a mark that the files beside it are this program's."""
        return False

    def _temporary_files(self) -> Iterable[Path]:
        """The names that a killed process may have left."""
        return [temporary_path(self.record_path)]

    def _write(self, record: Json, indent: int, files: StagedFiles) -> None:
        """Stage the record."""
        with files.open(self.record_path) as file:
            file.write(json.dumps(record, indent=indent).encode() + b"\n")

    def _remove(self, paths: Iterable[Path]) -> None:
        for path in paths:
            try:
                path.unlink(missing_ok=True)
            except OSError as error:
                if error.errno != errno.ENAMETOOLONG:  # a name of other settings, which no file can have
                    raise


@contextmanager
def locked(lock: Path, *, wait: bool = True, stop: Event | None = None) -> Iterator[bool]:
    """Hold a lock file; yield False if another process holds it and ``wait`` is off or ``stop`` is set."""
    file_lock = FileLock(lock)
    held = _acquire(file_lock, 0)
    while wait and not held and not (stop is not None and stop.is_set()):
        held = _acquire(file_lock, _STOP_INTERVAL)
    try:
        yield held
    finally:
        file_lock.release()


def remove_lock(lock: Path) -> None:
    """Remove the file of a lock that is held, if the system allows it."""
    with contextlib.suppress(OSError):
        lock.unlink()


def differences(old: Json, new: Json) -> str:
    """Describe where two records differ, by name.

    Example:
        >>> differences({"settings": {"fps": None, "step": 8}}, {"settings": {"fps": 25.0, "step": 8}})
        'settings.fps native there and 25.0 now'
    """
    before, now = _flat(old), _flat(new)
    return ", ".join(
        f"{name} {_shown(name, before)} there and {_shown(name, now)} now"
        for name in sorted(before.keys() | now.keys())
        if before.get(name) != now.get(name)
    )


def _flat(record: Json, prefix: str = "") -> Json:
    flat: Json = {}
    for name, value in record.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return flat


def _shown(name: str, record: Json) -> str:
    value = record.get(name)
    if value is None:
        return "native" if name.rpartition(".")[2] == "fps" else "none"
    text = str(value)
    return text if len(text) <= _MAX_SHOWN else f"{text[:8]}…"


def _acquire(lock: FileLock, seconds: float) -> bool:
    try:
        lock.acquire(timeout=seconds)
    except Timeout:
        return False
    return True
