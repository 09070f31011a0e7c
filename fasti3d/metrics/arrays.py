"""Reads clips from a NumPy array in a file, or from an array or tensor in memory, one at a time."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fasti3d.flow.arrays import as_tensor
from fasti3d.metrics.choice import Clip, Skipped, clip_rng, shuffled
from fasti3d.metrics.clips import Values
from fasti3d.metrics.limits import LAYOUTS
from fasti3d.network import MIN_FRAMES
from fasti3d.utils.archives import Archive, ArchiveError, Header, read_header
from fasti3d.utils.parsing import brief
from fasti3d.utils.plain_files import open_regular

# Clips are read one at a time, so a high ratio costs time but not memory; synthetic clips compress well.
_RATIO = 200


class _Array(ABC):
    """The clips of an array.

    Args:
        name: of the array, for messages.
        shape: of the array.
        dtype: for messages.
        values: uint8 or float; None for any other dtype.
        layout: its axes, a name in ``LAYOUTS``.

    Raises:
        ValueError: an array of another shape or dtype.
    """

    kind = "array"

    def __init__(
        self, name: str, shape: tuple[int, ...], dtype: object, values: Values | None, layout: str
    ) -> None:
        if values is None:
            raise ValueError(f"{name} must hold uint8 or floating point, got {dtype}: convert it")
        if len(shape) != 5 or shape[layout.index("C")] != 3:
            fitting = [name for name in LAYOUTS if len(shape) == 5 and shape[name.index("C")] == 3]
            hint = f": say layout {' or '.join(fitting)}" if fitting else ""
            raise ValueError(f"{name} must hold RGB clips, {layout}, got an array of shape {shape}{hint}")
        if 0 in shape[1:]:
            raise ValueError(f"{name} must hold clips with pixels, got an array of shape {shape}")
        self.values: Values = values
        self._name = name
        self._count, self._length = shape[0], shape[layout.index("T")]
        # Axes of one clip, with the frames first and the color last.
        self._axes = [layout[1:].index(axis) for axis in "THWC"]

    @abstractmethod
    def _chosen(self, indices: Iterable[int]) -> Iterator[NDArray[Any] | Tensor]:
        """The clips at these indices, one at a time, in their own layout."""

    def expected(self, count: int | None) -> int:
        """The number of clips that will be yielded."""
        return self._count if count is None else min(count, self._count)

    def check(self, frames: int, count: int | None) -> None:
        """Check that there are such clips, before any is read.

        Raises:
            ValueError: clips that are too short, or a count above that of the clips.
        """
        if self._length < frames:
            remedy = f"ask for {self._length}" if self._length >= MIN_FRAMES else "use longer clips"
            raise ValueError(
                f"{self._name} holds clips of {self._length} frames, fewer than {frames}: {remedy}"
            )
        if count is not None and count > self._count:
            raise ValueError(f"clips must be at most the {self._count} that {self._name} holds, got {count}")

    def clips(self, frames: int, count: int | None, seed: int) -> Iterator[Clip | Skipped]:
        """Yield all clips in order, or ``count`` random ones; of longer clips, a random stretch.

        Raises:
            ValueError: as ``check``, or a damaged file.
        """
        self.check(frames, count)
        indices = range(self._count)
        chosen = indices if count is None else sorted(shuffled(indices, seed)[:count])
        for index, clip in zip(chosen, self._chosen(chosen), strict=True):
            start = clip_rng(seed, str(index)).randrange(self._length - frames + 1)
            stretch = slice(start, start + frames)
            if isinstance(clip, Tensor):
                own = clip.permute(self._axes)[stretch]
            else:
                part = clip.transpose(self._axes)[stretch]
                own = torch.from_numpy(part.astype(clip.dtype.newbyteorder("="), order="C"))
            yield Clip(own, str(index), start, self._length, None)


class TensorSource(_Array):
    """The clips of an array or tensor in memory.

    Args:
        name: of the argument that it is.
        clips: with 5 axes.
        layout: these, a name in ``LAYOUTS``.

    Raises:
        TypeError: neither NumPy nor torch.
        ValueError: another shape or dtype.
    """

    def __init__(self, name: str, clips: NDArray[Any] | Tensor, *, layout: str) -> None:
        self._clips = as_tensor(name, clips)
        dtype = self._clips.dtype
        values: Values | None = "float" if dtype.is_floating_point else None
        super().__init__(
            name, tuple(self._clips.shape), dtype, "uint8" if dtype == torch.uint8 else values, layout
        )

    @property
    def description(self) -> dict[str, Any]:
        """The shape and dtype of the array, in JSON's types."""
        return {
            "shape": list(self._clips.shape),
            "array_dtype": str(self._clips.dtype).removeprefix("torch."),
        }

    def _chosen(self, indices: Iterable[int]) -> Iterator[Tensor]:
        return (self._clips[index] for index in indices)


class ArraySource(_Array):
    """The clips of an .npy file, or of the only 5-dimensional array in an .npz file.

    Args:
        path: the file.
        layout: the array's axes, a name in ``LAYOUTS``.

    Raises:
        ValueError: not such a file, one that is cut off, or an array of another shape or dtype.
        OSError: a file that cannot be read.
    """

    def __init__(self, path: Path, *, layout: str) -> None:
        self._path = path
        try:
            with self._opened() as (_, header, size):
                self._header = header
        except ArchiveError as error:
            raise ArchiveError(f"{path}: {error}") from error
        dtype = header.dtype
        values: Values | None = "float" if dtype.str[1:] in ("f2", "f4", "f8") else None
        super().__init__(str(path), header.shape, dtype, "uint8" if dtype == np.uint8 else values, layout)
        if header.fortran:
            raise ValueError(f"{path} is in Fortran order: save np.ascontiguousarray(array)")
        whole = (size - header.offset) // self._clip_bytes
        if whole < self._count:
            raise ValueError(f"{path} is cut off in clip {whole} of {self._count}: save it again")

    @property
    def _clip_bytes(self) -> int:
        return math.prod(self._header.shape[1:]) * self._header.dtype.itemsize

    def _chosen(self, indices: Iterable[int]) -> Iterator[NDArray[Any]]:
        size = self._clip_bytes
        try:
            with self._opened() as (file, header, _):
                for index in indices:
                    file.seek(header.offset + index * size)
                    data = file.read(size)
                    if len(data) < size:  # it was whole when it was opened first
                        raise ArchiveError(f"it is cut off in clip {index} of {self._count}")
                    yield np.frombuffer(data, header.dtype).reshape(header.shape[1:])
        except ArchiveError as error:
            raise ArchiveError(f"{self._path}: {error}") from error

    @contextmanager
    def _opened(self) -> Iterator[tuple[IO[bytes], Header, int]]:
        """The file, what its array is, and how many bytes it has."""
        with open_regular(self._path) as file:
            if self._path.suffix.lower() != ".npz":
                size = file.seek(0, 2)
                file.seek(0)
                yield file, read_header(file), size
                return
            archive = Archive(file, ratio=_RATIO)
            name = _only_array(archive)
            with archive.member(name) as member:
                yield member, read_header(member), archive.size(name)


def _only_array(archive: Archive) -> str:
    """The name in the archive of its only array of clips."""
    found = []
    for name in archive.names:
        if name.endswith(".npy"):
            with archive.member(name) as member:
                if len(read_header(member).shape) == 5:
                    found.append(name)
    if len(found) != 1:
        raise ArchiveError(
            f"it must hold one array with 5 axes, got {brief(', '.join(found) or 'none')}: save it alone"
        )
    return found[0]
