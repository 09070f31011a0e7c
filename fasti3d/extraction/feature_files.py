"""The files of one video's features: claimed, written under temporary names, and published together."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from threading import Event
from typing import Any

from fasti3d.extraction import formats
from fasti3d.extraction.formats import Contents
from fasti3d.extraction.settings import ExtractionSettings
from fasti3d.utils.files import StagedFiles, temporary_path
from fasti3d.utils.naming import quoted, shortened
from fasti3d.utils.parsing import Json
from fasti3d.utils.resumable_output import ResumableOutput, differences


class OutputError(Exception):
    """The output folder cannot be written to; what is finished stays.

    Args:
        path: The file or folder.
        error: Why it cannot be written.
    """

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
    """The output folder holds features that were made otherwise."""


class FeatureFiles(ResumableOutput):
    """The features of one video, and a record beside them, NAME.json.

    The record is written last: with it, and with files of the sizes it names, the video is finished. Until
    then .NAME.lock is there, which a process holds while it works on the video. If the name is too long for
    those of its files, they are called by its beginning and a digest of it.

    Args:
        folder: The output folder.
        name: The video's output, with folders.
        settings: What is written.
    """

    def __init__(self, folder: Path, name: str, settings: ExtractionSettings) -> None:
        self._settings = settings
        path = folder / name
        longest = max(len(suffix) for suffix in (formats.RECORD, *formats.suffixes(settings)))
        added = longest + len(temporary_path(Path("x")).name) - 1
        self._base = path.with_name(shortened(path.name, path.parent, added))
        super().__init__(self._path(formats.RECORD), self._base.with_name(f".{self._base.name}.lock"))

    @property
    def nameable(self) -> bool:
        """Whether the file system takes names as long as those of its files, also while they are written."""
        longest = max((self.record_path, *self._paths()), key=lambda path: len(os.fsencode(path.name)))
        try:
            temporary_path(longest).lstat()
        except OSError as error:
            return error.errno != errno.ENAMETOOLONG
        return True

    def finished(self, made: Json, *, overwrite: bool) -> bool:
        """Return whether all files are there.

        Args:
            made: What they have to be made of.
            overwrite: Whether files made of anything else may be replaced.

        Raises:
            ConflictError: They may not.
        """
        record = self.read_record()
        if record is None:
            others = [path for path in self._paths() if path.exists()]
            # In this order: another process may be about to write the record and then remove the lock.
            unknown = self.released and not self.record_path.exists()
            if others and unknown and not overwrite:
                raise ConflictError(f"{quoted(others[0])} is there, and no record says how it was made")
            return False
        if record.get("made") == made:
            sizes = self._listed(record)
            return all(path in sizes and _size(path) == sizes[path] for path in self._paths())
        if overwrite:
            return False
        if not isinstance(record.get("made"), dict):
            raise ConflictError(f"{quoted(self.record_path)} is there, and is not a record of features")
        raise ConflictError(
            f"{quoted(self.record_path)} is of other features ({differences(record['made'], made)})"
        )

    @contextmanager
    def claimed(self, *, wait: bool = False, stop: Event | None = None) -> Iterator[bool]:
        """Hold the lock; yield False if another process works on the video.

        However the block ends, the lock file is gone then, and a process that waits for it looks again at
        what is there; but it stays beside files that have no record yet, to say that they are of this work.

        Raises:
            OutputError: The lock file cannot be created.
        """
        with ExitStack() as claim:
            try:
                held = claim.enter_context(super().claimed(wait=wait, stop=stop))
            except OSError as error:
                raise OutputError(self._lock, error) from error
            yield held

    def remove_temporary(self) -> None:
        """Remove what a killed process has left, whatever its settings were.

        Raises:
            OutputError: A file cannot be removed.
        """
        with _output_errors(self._base):
            super().remove_temporary()

    def write(self, contents: Contents, made: Json) -> None:
        """Put all files in place, the record last.

        Raises:
            OutputError: They cannot be written; no file is left half written then.
        """
        with _output_errors(self._base), StagedFiles() as files:
            sizes: dict[str, int] = {}
            for suffix, write in formats.writers(self._settings, contents).items():
                path = self._path(suffix)
                with files.open(path) as file:
                    write(file)
                    sizes[path.name] = file.tell()
            record = {"made": made} | contents.metadata
            record |= {"files": sizes, "rows": formats.columns_of(contents.where)}
            self._write(record, 1, files)
            # The old record goes first, so that it never speaks of files that are gone.
            old = self._listed(self.read_record() or {})
            self._remove([self.record_path, *old, *self._paths()])
            files.publish()

    def _keeps_lock(self) -> bool:
        return not self.record_path.exists() and any(path.exists() for path in self._paths())

    def _temporary_files(self) -> Iterable[Path]:
        return [temporary_path(self._path(suffix)) for suffix in (formats.RECORD, *formats.SUFFIXES)]

    def _listed(self, record: Json) -> dict[Path, Any]:
        """The files of a record, which lie beside it, and their sizes."""
        files = record.get("files")
        return {
            self._base.with_name(name): size
            for name, size in (files.items() if isinstance(files, dict) else ())
            if name and os.path.basename(name) == name
        }

    def _paths(self) -> list[Path]:
        return [self._path(suffix) for suffix in formats.suffixes(self._settings)]

    def _path(self, suffix: str) -> Path:
        return self._base.with_name(self._base.name + suffix)


@contextmanager
def _output_errors(path: Path) -> Iterator[None]:
    """An OSError inside is an OutputError, of the file that it names or else of ``path``."""
    try:
        yield
    except OSError as error:
        named = error.filename
        raise OutputError(Path(named) if isinstance(named, str) else path, error) from error


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except OSError:
        return None
