"""What an unfinished evaluation has done: a folder in which each process appends to a file of its own.

A killed process leaves at most half of a record at the end of its file. The next one goes on after the last
whole record, and files of processes that are no more are read all the same.
"""

from __future__ import annotations

import json
import os
import shutil
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO

import numpy as np
from numpy.typing import NDArray

from fasti3d.utils.files import write_atomically
from fasti3d.utils.parsing import Json, parse_json
from fasti3d.utils.plain_files import open_partial, open_regular

_MARK = b"f3ev"
# Of each record: the mark, the bytes of its JSON and of its logits, and the CRC-32 of both.
_FRAME = struct.Struct("<4sIQI")
_MAX_JSON = 1 << 20
_RECIPE = "recipe.json"


@dataclass(frozen=True)
class Part:
    """What became of a video.

    Attributes:
        key: of the video.
        state: of its file when it was read, in JSON's types.
        reason: why it failed; empty where it did not.
        file, offset, nbytes: where its logits are; no bytes where it failed.
    """

    key: str
    state: Json
    reason: str
    file: Path
    offset: int
    nbytes: int


class PartsFolder:
    """The folder of an unfinished evaluation.

    Args:
        path: The folder, which need not exist.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def lock(self) -> Path:
        """The file that the process holds that leads the work."""
        return self.path / "lock"

    def recipe(self) -> Json | None:
        """Return what the parts were made by; None if there are none, and an empty one if that is damaged."""
        try:
            found = parse_json((self.path / _RECIPE).read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    def begin(self, recipe: Json) -> None:
        """Create the folder for parts made by a recipe, without those of another one."""
        if self.recipe() != recipe:
            for path in self._files():
                path.unlink()
            write_atomically(self.path / _RECIPE, json.dumps(recipe, sort_keys=True).encode())

    def remove(self) -> None:
        """Remove the folder and what is in it."""
        shutil.rmtree(self.path, ignore_errors=True)

    def parts(self) -> Iterator[Part]:
        """Yield all whole records, file by file in the order in which they were written."""
        for path in self._files():
            with open_regular(path) as file:
                yield from _parts(path, file)

    def writer(self, rank: int) -> PartWriter:
        """Open the file of a process, to go on after its last whole record."""
        return PartWriter(self.path / f"rank{rank:05}.part")

    def _files(self) -> list[Path]:
        return sorted(self.path.glob("rank*.part"))


class PartWriter:
    """Appends records to a file, each of which is complete as soon as the next thing happens."""

    def __init__(self, path: Path) -> None:
        self._file = open_partial(path, keep=True)
        try:
            with open_regular(path) as file:
                end = max((part.offset + part.nbytes for part in _parts(path, file)), default=0)
            os.truncate(path, end)
        except BaseException:
            self._file.close()
            raise

    def add(self, key: str, state: Json, logits: NDArray[np.float32] | None, reason: str) -> None:
        """Append what became of a video."""
        text = json.dumps({"key": key, "state": state, "reason": reason}).encode()
        data = b"" if logits is None else np.ascontiguousarray(logits, "<f4").tobytes()
        frame = _FRAME.pack(_MARK, len(text), len(data), zlib.crc32(data, zlib.crc32(text)))
        self._file.write(frame + text + data)
        self._file.flush()

    def __enter__(self) -> PartWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()


def read_logits(part: Part, shape: tuple[int, int]) -> NDArray[np.float32]:
    """Return the logits of a video that did not fail, (views, classes)."""
    with open_regular(part.file) as file:
        file.seek(part.offset)
        return np.frombuffer(file.read(part.nbytes), "<f4").reshape(shape)


def _parts(path: Path, file: IO[bytes]) -> Iterator[Part]:
    """The records up to the first that is not whole."""
    size = os.fstat(file.fileno()).st_size
    while len(frame := file.read(_FRAME.size)) == _FRAME.size:
        mark, text_size, data_size, check = _FRAME.unpack(frame)
        if mark != _MARK or text_size > _MAX_JSON or file.tell() + text_size + data_size > size:
            return
        text, offset = file.read(text_size), file.tell()
        data = file.read(data_size)
        if zlib.crc32(data, zlib.crc32(text)) != check:
            return
        found = json.loads(text)
        yield Part(found["key"], found["state"], found["reason"], path, offset, data_size)
