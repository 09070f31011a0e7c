"""The atomic writer: a file appears whole or not at all, also after a kill or a power cut."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import IO

from fasti3d.utils.plain_files import create


def write_atomically(path: Path, data: bytes) -> None:
    """Write ``data`` to ``path``: no other process ever sees part of it, even after a power cut.

    Raises:
        OSError: The file cannot be written; it names ``path``, and what was there is unchanged.

    Example:
        >>> write_atomically(Path("record.json"), b"{}")  # doctest: +SKIP
    """
    with atomic_file(path) as file:
        file.write(data)


@contextmanager
def atomic_file(path: Path, *, durable: bool = True) -> Iterator[IO[bytes]]:
    """Open a new file for writing that takes the place of ``path`` when the block ends without an error.

    It has the permissions of a new file. Several threads and processes may write to one path: the last one
    to finish wins.

    Args:
        path: The file; its folder must exist. A symbolic link is replaced, not followed.
        durable: Whether to wait until the file is on the disk. Otherwise a power cut may lose it, though a
            kill leaves no part of it either.

    Raises:
        OSError: The file cannot be written; it names ``path``, and what was there is unchanged.

    Example:
        >>> with atomic_file(Path("flow.npy")) as file:  # doctest: +SKIP
        ...     np.save(file, flow)
    """
    # Unlike its process, a thread shares its number with no other writer of this machine.
    with StagedFiles(f".{threading.get_native_id()}", durable=durable) as files:
        with files.open(path) as file:
            yield file
        files.publish()


class StagedFiles:
    """Files that are written under temporary names and then take their places, one after the other.

    As a context manager it removes the temporary files that were not published.

    Args:
        writer: A part of the temporary names, which differs between concurrent writers of one path; empty
            where only one writes at a time, so that a later one finds what a killed one left.
        durable: Whether to wait until the files are on the disk.
    """

    def __init__(self, writer: str = "", *, durable: bool = True) -> None:
        self._writer = writer
        self._durable = durable
        self._temporary: dict[Path, Path] = {}

    @contextmanager
    def open(self, path: Path) -> Iterator[IO[bytes]]:
        """Open the file that will take the place of ``path``; a link at its temporary name is removed.

        Raises:
            OSError: It cannot be written; names ``path``.
        """
        temporary = self._temporary[path] = temporary_path(path, self._writer)
        with _naming(path, temporary), create(temporary) as file:
            yield file
            if self._durable:
                file.flush()
                os.fsync(file.fileno())

    def publish(self) -> None:
        """Put the files in their places, in the order in which they were opened.

        Raises:
            OSError: One cannot be put there; names its path. Those before it are in place.
        """
        folders = {path.parent for path in self._temporary}
        for path, temporary in list(self._temporary.items()):
            with _naming(path, temporary):
                os.replace(temporary, path)
            del self._temporary[path]
        if self._durable:
            for folder in folders:
                _sync_folder(folder)

    def __enter__(self) -> StagedFiles:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for temporary in self._temporary.values():
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)


def temporary_path(path: Path, writer: str = "") -> Path:
    """Return the name, beside ``path``, under which it is written before it is complete."""
    return path.with_name(f".{path.name}{writer}.tmp")


@contextmanager
def _naming(path: Path, temporary: Path) -> Iterator[None]:
    """Errors inside name the file that was asked for, not its temporary name."""
    try:
        yield
    except OSError as error:
        if error.errno is not None and error.filename in (None, str(temporary)):
            error.filename = str(path)
            del error.filename2  # of a rename; None would be shown
        raise


def _sync_folder(folder: Path) -> None:
    """Wait until the names in a folder are on the disk."""
    if os.name == "posix":  # elsewhere folders cannot be synced
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
