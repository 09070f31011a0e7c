"""Rows of an array of any length, kept until their number is known."""

from __future__ import annotations

import math
import shutil
import tempfile
from pathlib import Path
from typing import IO

import numpy as np
from torch import Tensor

# Beyond this, rows are kept on the disk.
_MAX_MEMORY_BYTES = 1 << 26
_COPY_BYTES = 1 << 24


class Spool:
    """A float32 array that grows by rows: in memory, and from 64 MB on in a file without a name.

    The file is gone with the process, however that ends.

    Args:
        folder: Where the file is: on the disk to which the array will be written.
    """

    def __init__(self, folder: Path) -> None:
        self._file = tempfile.SpooledTemporaryFile(_MAX_MEMORY_BYTES, dir=str(folder))  # noqa: SIM115
        self._rows = 0
        self._row_shape: tuple[int, ...] = ()

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the array so far."""
        return (self._rows, *self._row_shape)

    @property
    def nbytes(self) -> int:
        """The bytes of the array so far."""
        return 4 * math.prod(self.shape)

    def add(self, rows: Tensor) -> None:
        """Append rows (n, ...), of the same shape each time."""
        self._rows += len(rows)
        self._row_shape = tuple(rows.shape[1:])
        self._file.write(rows.contiguous().numpy().astype("<f4", copy=False).data)

    def clear(self) -> None:
        """Remove all rows."""
        self._rows = 0
        self._file.seek(0)
        self._file.truncate()

    def copy_to(self, file: IO[bytes], dtype: str = "<f4") -> None:
        """Write all rows in order, little-endian, or as numbers of another dtype."""
        self._file.seek(0)
        if dtype == "<f4":
            shutil.copyfileobj(self._file, file, _COPY_BYTES)
            return
        while part := self._file.read(_COPY_BYTES):
            file.write(np.frombuffer(part, "<f4").astype(dtype).tobytes())

    def close(self) -> None:
        """Remove the file."""
        self._file.close()
