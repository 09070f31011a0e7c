"""Clips from a NumPy array in a file, read one at a time."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
import torch

from fasti3d.metrics.choice import Clip, Skipped, dice, shuffled
from fasti3d.metrics.clips import Values
from fasti3d.metrics.limits import LAYOUTS
from fasti3d.network import MIN_FRAMES


class _Header(NamedTuple):
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    offset: int


class ArraySource:
    """The clips of an .npy file, or of the only 5-dimensional array in an .npz file.

    Args:
        path: the file.
        layout: the array's axes, a name in ``LAYOUTS``.

    Raises:
        ValueError: not such a file, or an array of another shape.
        OSError: a file that cannot be read.
    """

    kind = "array"

    def __init__(self, path: Path, *, layout: str) -> None:
        self._path = path
        self._layout = layout
        self._member = _only_member(path) if path.suffix.lower() == ".npz" else None
        with self._opened() as (_, header):
            self._header = header
        shape = header.shape
        if header.dtype != np.uint8 and header.dtype.str[1:] not in ("f2", "f4", "f8"):
            raise ValueError(f"{path} must hold uint8 or floating point, got {header.dtype}: convert it")
        if len(shape) != 5 or shape[layout.index("C")] != 3:
            fitting = [name for name in LAYOUTS if len(shape) == 5 and shape[name.index("C")] == 3]
            hint = f": say layout {' or '.join(fitting)}" if fitting else ""
            raise ValueError(f"{path} must hold RGB clips, {layout}, got an array of shape {shape}{hint}")

    def expected(self, count: int | None) -> int:
        """How many clips there will be."""
        return self._header.shape[0] if count is None else min(count, self._header.shape[0])

    @property
    def values(self) -> Values:
        """Of what kind they are."""
        return "uint8" if self._header.dtype == np.uint8 else "float"

    def check(self, frames: int, count: int | None) -> None:
        """Looks whether there are such clips, before any is read.

        Raises:
            ValueError: clips that are too short, or a count above that of the clips.
        """
        total, length = self._header.shape[0], self._header.shape[self._layout.index("T")]
        if length < frames:
            remedy = f"ask for {length}" if length >= MIN_FRAMES else "use longer clips"
            raise ValueError(f"{self._path} holds clips of {length} frames, fewer than {frames}: {remedy}")
        if count is not None and count > total:
            raise ValueError(f"clips must be at most the {total} that {self._path} holds, got {count}")

    def clips(self, frames: int, count: int | None, seed: int) -> Iterator[Clip | Skipped]:
        """All clips in order, or ``count`` chosen at random; of longer ones, a stretch at a random place.

        Raises:
            ValueError: as ``check``, or a file that is cut off.
        """
        self.check(frames, count)
        total, *shape = self._header.shape
        length = self._header.shape[self._layout.index("T")]
        chosen = range(total) if count is None else sorted(shuffled(range(total), seed)[:count])
        # Axes of one clip, with the frames first and the colour last.
        axes = [self._layout[1:].index(axis) for axis in "THWC"]
        size = math.prod(shape) * self._header.dtype.itemsize
        with self._opened() as (file, header):
            for index in chosen:
                file.seek(header.offset + index * size)
                data = file.read(size)
                if len(data) < size:
                    raise ValueError(f"{self._path} is cut off in clip {index} of {total}")
                array = np.frombuffer(data, header.dtype).reshape(shape).transpose(axes)
                start = dice(seed, str(index)).randrange(length - frames + 1)
                own = array[start : start + frames].astype(header.dtype.newbyteorder("="), order="C")
                yield Clip(torch.from_numpy(own), str(index), start, length, None)

    @contextmanager
    def _opened(self) -> Iterator[tuple[IO[bytes], _Header]]:
        """The file, and where in it the array is."""
        try:
            if self._member is None:
                with self._path.open("rb") as file:
                    yield file, _header(file)
            else:
                with zipfile.ZipFile(self._path) as archive, archive.open(self._member) as member:
                    yield member, _header(member)
        except zipfile.BadZipFile as error:
            raise ValueError(f"{self._path} is damaged: {error}") from error


def _header(file: IO[bytes]) -> _Header:
    version = np.lib.format.read_magic(file)
    read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    if version not in read:
        raise ValueError(f"it is of version {version} of NumPy's format, which has no plain numbers")
    shape, fortran, dtype = read[version](file)
    if fortran and len(shape) > 1:
        raise ValueError("it is in Fortran order: save np.ascontiguousarray(array)")
    return _Header(shape, dtype, file.tell())


def _only_member(path: Path) -> str:
    """The name in the archive of its only array of clips."""
    with zipfile.ZipFile(path) as archive:
        found = []
        for name in archive.namelist():
            with archive.open(name) as member:
                if name.endswith(".npy") and len(_header(member).shape) == 5:
                    found.append(name)
    if len(found) != 1:
        raise ValueError(
            f"{path} must hold one array with 5 axes, got {', '.join(found) or 'none'}: save the clips alone"
        )
    return found[0]
