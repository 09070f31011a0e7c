"""What a pickle says of a tensor or array, and the tensor once its bytes are asked for.

Nothing is checked before: whatever a file holds besides the network's own tensors may be of any kind.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from fasti3d.utils.parsing import brief
from fasti3d.weights.errors import WeightsError

_STORAGES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}
# By the names that new files give them beside an untyped storage.
_DTYPES = {name: value for name, value in vars(torch).items() if isinstance(value, torch.dtype)}


class Storage(NamedTuple):
    """A run of numbers in a file.

    Attributes:
        kind: the name of its class, which says of what dtype.
        key: its name in the file.
        numel: how many there are, or bytes in an UntypedStorage.
        offset: of the part that is meant, in numbers: old files have storages in storages.
    """

    kind: str
    key: str
    numel: int
    offset: int = 0

    @classmethod
    def of(cls, pid: tuple[Any, ...]) -> Any:
        """The storage of torch's persistent id; for one of old torch's modules, its class."""
        if len(pid) < 5 or pid[0] != "storage":
            return pid[1] if len(pid) > 1 and pid[0] == "module" else None
        view = pid[5] if len(pid) > 5 else None
        return cls(pid[1][1], str(pid[2]), pid[4], 0 if view is None else view[1])

    @property
    def dtype(self) -> torch.dtype | None:
        """Of its numbers; None where the tensor says it."""
        return _STORAGES.get(self.kind)

    @property
    def nbytes(self) -> int:
        return self.numel * (self.dtype.itemsize if self.dtype else 1)


class View(NamedTuple):
    """A strided tensor on a storage."""

    storage: Any
    offset: Any
    size: Any
    stride: Any
    dtype: Any = None

    def tensor(self, read: Callable[[Storage], bytearray]) -> Tensor:
        """The tensor, on memory that others may share.

        Raises:
            WeightsError: it does not lie in its storage, or is of no dtype of numbers.
        """
        storage = self.storage
        if not isinstance(storage, Storage):
            raise WeightsError("it has no storage")
        dtype = storage.dtype or _DTYPES.get(str(getattr(self.dtype, "name", None)))
        numbers = (storage.numel, storage.offset, self.offset, *self.size, *self.stride)
        if dtype is None or not all(type(n) is int and n >= 0 for n in numbers):
            raise WeightsError(f"it is not a strided tensor of numbers, but of {brief(storage.kind)}")
        numel, offset = storage.nbytes // dtype.itemsize, storage.offset + self.offset
        count = math.prod(self.size)
        end = offset + sum((n - 1) * step for n, step in zip(self.size, self.stride, strict=True)) + 1
        if count > numel or (count and end > numel):
            raise WeightsError(f"a tensor of shape {brief(self.size)} does not lie in its {numel:,} numbers")
        if not count:
            return torch.empty(self.size, dtype=dtype)
        flat = torch.frombuffer(read(storage), dtype=dtype, count=numel)
        return flat.as_strided(self.size, self.stride, offset)


class DType:
    """``numpy.dtype("f4", False, True)`` and, once built, its byte order."""

    __slots__ = ("order", "plain", "spec")

    def __init__(self, spec: Any) -> None:
        self.spec = spec
        self.order: Any = "="
        self.plain = True

    def build(self, state: Any) -> None:
        _version, self.order, subarray, names, fields = state[:5]
        self.plain = (subarray, names, fields) == (None, None, None)


class Array:
    """A numpy array: shape, dtype and raw bytes, which must agree in size."""

    __slots__ = ("dtype", "fortran", "raw", "shape")

    def __init__(self, raw: Any = None, dtype: Any = None, shape: Any = None, fortran: Any = False) -> None:
        self.raw, self.dtype, self.shape, self.fortran = raw, dtype, shape, fortran

    def build(self, state: Any) -> None:
        _version, self.shape, self.dtype, self.fortran, self.raw = state

    def tensor(self) -> Tensor:
        """The array's numbers in memory of their own.

        Raises:
            WeightsError: it is not of plain numbers, or does not bring the bytes that its shape needs.
        """
        kind, shape, raw = self.dtype, self.shape, self.raw
        if not (isinstance(kind, DType) and kind.plain and kind.spec in ("f2", "f4", "f8", "i4", "i8")):
            raise WeightsError("it is not an array of plain numbers")
        if kind.order not in ("<", ">", "=") or not isinstance(raw, bytes | bytearray):
            raise WeightsError("it is not an array of plain numbers")
        if not isinstance(shape, tuple) or not all(type(n) is int and n >= 0 for n in shape):
            raise WeightsError("it is an array without a shape")
        if math.prod(shape) * int(kind.spec[1]) != len(raw):
            raise WeightsError(f"an array of shape {brief(shape)} in {kind.spec} has {len(raw):,} bytes")
        dtype = np.dtype(kind.spec).newbyteorder(kind.order)
        array = np.frombuffer(raw, dtype).reshape(shape, order="F" if self.fortran else "C")
        return torch.from_numpy(array.astype(kind.spec, order="C"))
