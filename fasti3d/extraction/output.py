"""The files of one video: claimed, written under other names, and put in place all at once."""

from __future__ import annotations

import contextlib
import errno
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event
from typing import IO, Any

from filelock import FileLock, Timeout

from fasti3d.extraction import formats
from fasti3d.extraction.formats import Contents
from fasti3d.extraction.identity import Json, differences
from fasti3d.extraction.settings import Settings
from fasti3d.utils.naming import quoted, shortened
from fasti3d.utils.parsing import parse_json
from fasti3d.weights.files import sync_folder

# How often, in seconds, whoever waits for another process looks whether it is to stop.
_LOOK = 0.5


class OutputError(Exception):
    """The output folder cannot be written to; nothing that is finished is lost."""

    def __init__(self, path: Path, error: OSError) -> None:
        super().__init__(path, error)  # so that it can be pickled
        self._path = path
        self._reason = error.strerror or str(error)

    def __str__(self) -> str:
        return (
            f"{quoted(self._path)} cannot be written: {self._reason}. What is finished stays: put that right "
            "and run the same command again"
        )


class ConflictError(Exception):
    """What is there was not made by this work."""


class Output:
    """The files of one video: its features, and a record beside them, NAME.json.

    The record is written last: with it, and with files of the sizes it names, the video is finished. Until
    then .NAME.lock is there, which a process holds while it works on the video.

    Where the name is too long for those of its files, they are called by its beginning and a digest of it.

    Args:
        folder: of all outputs.
        name: of this one, with folders.
        settings: what is written.
    """

    def __init__(self, folder: Path, name: str, settings: Settings) -> None:
        self._settings = settings
        path = folder / name
        longest = max(len(suffix) for suffix in (formats.RECORD, *formats.suffixes(settings)))
        added = longest + len(_temporary(Path("x")).name) - 1
        self._base = path.with_name(shortened(path.name, path.parent, added))
        self._lock = self._base.with_name(f".{self._base.name}.lock")

    @property
    def record_path(self) -> Path:
        return self._path(formats.RECORD)

    @property
    def released(self) -> bool:
        """Whether the lock file is gone: a process that was killed may have finished all but that."""
        return not self._lock.exists()

    @property
    def nameable(self) -> bool:
        """Whether the file system takes names as long as those of its files, also while they are written."""
        longest = max((self.record_path, *self._paths()), key=lambda path: len(os.fsencode(path.name)))
        try:
            _temporary(longest).lstat()
        except OSError as error:
            return error.errno != errno.ENAMETOOLONG
        return True

    def finished(self, made: Json, *, overwrite: bool) -> bool:
        """Whether all of it is there.

        Args:
            made: what it has to be made of.
            overwrite: whether what was made of anything else may be replaced.

        Raises:
            ConflictError: it may not.
        """
        record = self._record()
        if record is None:
            others = [path for path in self._paths() if path.exists()]
            # In this order: another process may be about to write the record and then remove the lock.
            unknown = not self._lock.exists() and not self.record_path.exists()
            if others and unknown and not overwrite:
                raise ConflictError(f"{quoted(others[0])} is there, and nothing says how it was made")
            return False
        if record.get("made") == made:
            return all(_size(path) == record["files"][path.name] for path in self._listed(record))
        if overwrite:
            return False
        if not isinstance(record.get("made"), dict):
            raise ConflictError(f"{quoted(self.record_path)} is there, and is no record of features")
        raise ConflictError(
            f"{quoted(self.record_path)} is of other features ({differences(record['made'], made)})"
        )

    @contextmanager
    def claimed(self, *, wait: bool, stop: Event) -> Iterator[bool]:
        """Keeps other processes from this video inside; False where one has it and is not waited for.

        However the block ends, the lock file is gone then, and a process that waits for it looks again at
        what is there; but it stays beside files that have no record yet, to say that they are of this work.

        Raises:
            OutputError: the lock cannot be made.
        """
        lock = FileLock(self._lock)
        try:
            self._base.parent.mkdir(parents=True, exist_ok=True)
            mine = _acquire(lock, 0)
            while wait and not mine and not stop.is_set():
                mine = _acquire(lock, _LOOK)
        except OSError as error:
            raise OutputError(self._lock, error) from error
        try:
            yield mine
        finally:
            if mine and (self.record_path.exists() or not any(path.exists() for path in self._paths())):
                remove_held(self._lock)
            lock.release()

    def clean(self) -> None:
        """Removes what a process that was killed has left, whatever its settings were."""
        self._remove([_temporary(self._path(suffix)) for suffix in (formats.RECORD, *formats.SUFFIXES)])

    def write(self, contents: Contents, made: Json) -> None:
        """Puts all files in place, the record last.

        Raises:
            OutputError: they cannot be written; then, none is left half done.
        """
        staged: list[Path] = []
        try:
            for suffix, write in formats.writers(self._settings, contents).items():
                staged.append(self._path(suffix))
                with _synced(_temporary(staged[-1])) as file:
                    write(file)
            record: Json = {"made": made} | contents.metadata
            record["files"] = {path.name: _size(_temporary(path)) for path in staged}
            record["rows"] = formats.columns_of(contents.where)
            staged.append(self.record_path)
            with _synced(_temporary(self.record_path)) as file:
                file.write(json.dumps(record, indent=1).encode() + b"\n")
            self._discard()
            for path in staged:
                os.replace(_temporary(path), path)
            sync_folder(self._base.parent)
        except OSError as error:
            with contextlib.suppress(OutputError):
                self.clean()
            raise OutputError(staged[-1] if staged else self._base, error) from error

    def _discard(self) -> None:
        """Removes what is there: the record first, so that it never speaks of files that are not."""
        old = self._listed(self._record() or {"files": {}})
        self._remove([self.record_path, *old, *self._paths()])

    def _listed(self, record: Json) -> list[Path]:
        """The files of a record, which lie beside it."""
        return [
            self._base.with_name(name) for name in record["files"] if name and os.path.basename(name) == name
        ]

    def _record(self) -> Any:
        try:
            record = parse_json(self.record_path.read_bytes())
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (OSError, ValueError):
            record = None
        if not isinstance(record, dict) or not isinstance(record.get("files"), dict):
            return {"files": {}}  # of unknown origin
        return record

    def _paths(self) -> list[Path]:
        return [self._path(suffix) for suffix in formats.suffixes(self._settings)]

    def _path(self, suffix: str) -> Path:
        return self._base.with_name(self._base.name + suffix)

    def _remove(self, paths: list[Path]) -> None:
        for path in paths:
            try:
                path.unlink(missing_ok=True)
            except OSError as error:
                if error.errno != errno.ENAMETOOLONG:  # a name of other settings, which no file can have
                    raise OutputError(path, error) from error


def remove_held(lock: Path) -> None:
    """Removes a lock's file while the lock is held, where the system lets it."""
    with contextlib.suppress(OSError):
        lock.unlink()


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}.tmp")


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except OSError:
        return None


def _acquire(lock: FileLock, seconds: float) -> bool:
    try:
        lock.acquire(timeout=seconds)
    except Timeout:
        return False
    return True


@contextmanager
def _synced(path: Path) -> Iterator[IO[bytes]]:
    """A file to write, which is on the disk when the block ends."""
    with path.open("wb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())
