"""Reading pickles of arrays without running anything that they contain.

A pickle is a program, and Python's unpickler calls whatever that program names. Here every name a
pickle may use is on a short list, and stands for an inert record of ours instead of the real
thing: no function of numpy or torch, and none of the file's, is ever called by the pickle.
First the opcodes are scanned against those that such files need, then the records are assembled,
and only when the whole file has been accepted do arrays come of them. Memory stays in proportion
to the file's size.
"""

from __future__ import annotations

import io
import math
import pickle
import pickletools
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from fasti3d.weights.errors import WeightsError

# fmt: off
_OPCODES = frozenset((
    "PROTO", "FRAME", "STOP", "MARK", "NONE", "NEWTRUE", "NEWFALSE", "BININT", "BININT1",
    "BININT2", "LONG1", "BINFLOAT", "SHORT_BINUNICODE", "BINUNICODE", "SHORT_BINBYTES",
    "BINBYTES", "EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "EMPTY_LIST", "APPEND",
    "APPENDS", "EMPTY_DICT", "SETITEM", "SETITEMS", "MEMOIZE", "BINPUT", "LONG_BINPUT",
    "BINGET", "LONG_BINGET", "GLOBAL", "STACK_GLOBAL", "REDUCE", "BUILD",
))
# fmt: on
_FRAME_HEADER = 9
# Far more than an I3D checkpoint has. A few bytes of pickle can put one dict into another, or into
# itself, so often that walking them would never end.
_MAX_NODES = 100_000
_MAX_DEPTH = 32


class _RefusedError(Exception):
    """The pickle asks for what is not on the list."""


@contextmanager
def _untrusted(what: str) -> Iterator[None]:
    try:
        yield
    except _RefusedError as error:
        raise WeightsError(
            f"{what} is refused, and nothing in it was run: {error}, which no file of plain arrays needs"
        ) from error
    except Exception as error:  # malformed bytes can raise nearly anything
        raise WeightsError(f"{what} is damaged, or no pickle of arrays: {error}") from error


class _Unpickler(pickle.Unpickler):
    """An unpickler for which the names in ``names`` are all there is."""

    def __init__(self, data: bytes, names: Mapping[tuple[str, str], Any]) -> None:
        super().__init__(io.BytesIO(data))
        self._names = names

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self._names:
            raise _RefusedError(f"it names {module}.{name}")
        return self._names[module, name]


def _scan(data: bytes, opcodes: frozenset[str]) -> None:
    """Refuses other opcodes, and sizes that the file cannot back."""
    operations: Iterator[tuple[pickletools.OpcodeInfo, Any, Any]] = pickletools.genops(data)
    for count, (opcode, argument, position) in enumerate(operations):
        if opcode.name not in opcodes:
            raise _RefusedError(f"it uses the opcode {opcode.name}")
        # The unpickler reserves memory for the slot or frame named, however little follows.
        if opcode.name in ("BINPUT", "LONG_BINPUT") and argument > count:
            raise _RefusedError("it numbers its objects beyond their count")
        if opcode.name == "FRAME" and position + _FRAME_HEADER + argument > len(data):
            raise ValueError("it is cut short")


def walk(tree: Any) -> Iterator[tuple[tuple[str, ...], Any]]:
    """(path, leaf) for every leaf of nested mappings, in order.

    Raises:
        WeightsError: they nest without end.
    """
    stack: list[tuple[tuple[str, ...], Any]] = [((), tree)]
    nodes = 0
    while stack:
        path, node = stack.pop()
        if isinstance(node, _Module):
            node = node.attributes
        if not isinstance(node, Mapping):
            yield path, node
            continue
        nodes += len(node)
        if nodes > _MAX_NODES or len(path) > _MAX_DEPTH:
            raise WeightsError(
                f"it holds more than {_MAX_NODES:,} objects, or more than {_MAX_DEPTH} in one another:"
                " that is no I3D checkpoint"
            )
        stack.extend(((*path, str(key)), child) for key, child in reversed(list(node.items())))


def _is_sizes(value: Any) -> bool:
    return isinstance(value, tuple) and all(type(n) is int and n >= 0 for n in value)


# ---------------------------------------------------------------- pickles of numpy arrays


class _DType:
    """The record of ``numpy.dtype("f4", False, True)`` and, once built, of its byte order."""

    __slots__ = ("order", "spec")
    order: Literal["<", ">", "="]

    def __init__(self, spec: str, align: bool = False, copy: bool = True) -> None:
        if spec not in ("f2", "f4", "f8", "i4", "i8"):
            raise _RefusedError(f"it has an array of dtype {spec!r}")
        self.spec = spec
        self.order = "="

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _version, order, subarray, names, fields = state[:5]
        if order not in ("<", ">", "=") or (subarray, names, fields) != (None, None, None):
            raise _RefusedError("it has an array of a structured dtype")
        self.order = order


class _Array:
    """The record of a numpy array: shape, dtype and raw bytes, which must agree in size."""

    __slots__ = ("dtype", "fortran", "raw", "shape")

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _version, shape, dtype, fortran, raw = state
        if not (isinstance(dtype, _DType) and isinstance(raw, bytes) and _is_sizes(shape)):
            raise _RefusedError("it has an array of something other than numbers")
        if math.prod(shape) * int(dtype.spec[1]) != len(raw):
            raise _RefusedError(f"it gives {len(raw):,} bytes for an array of shape {shape}")
        self.shape, self.dtype, self.fortran, self.raw = shape, dtype, fortran, raw

    def resolve(self) -> Tensor:
        dtype = np.dtype(self.dtype.spec).newbyteorder(self.dtype.order)
        array = np.frombuffer(self.raw, dtype).reshape(self.shape, order="F" if self.fortran else "C")
        return torch.from_numpy(array.astype(self.dtype.spec, order="C"))


_NDARRAY = object()


class _Reconstruct:
    """Stands for numpy's ``_reconstruct(ndarray, (0,), b"b")``: the array that BUILD then fills."""

    __slots__ = ()

    def __call__(self, subtype: Any, shape: Any, typecode: Any) -> _Array:
        if subtype is not _NDARRAY:
            raise _RefusedError("it rebuilds something other than a numpy.ndarray")
        return _Array()


_NUMPY_NAMES: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): _NDARRAY,
    ("numpy", "dtype"): _DType,
    # numpy 2 moved numpy.core to numpy._core.
    ("numpy.core.multiarray", "_reconstruct"): _Reconstruct(),
    ("numpy._core.multiarray", "_reconstruct"): _Reconstruct(),
}


def load_numpy_pickle(data: bytes, what: str) -> dict[str, Tensor]:
    """Reads a pickle of nested dicts of numpy arrays, as ``{"outer/inner": tensor}``.

    Args:
        data: the pickle, of protocol 3 or 4.
        what: its name, for messages.

    Raises:
        WeightsError: it is damaged, or names anything beyond numpy's rebuilding of arrays of
            numbers. Nothing it names has been run.
    """
    with _untrusted(what):
        _scan(data, _OPCODES)
        tree = _Unpickler(data, _NUMPY_NAMES).load()
        leaves = {"/".join(path): leaf for path, leaf in walk(tree) if isinstance(leaf, _Array)}
        return {key: array.resolve() for key, array in leaves.items()}


# ---------------------------------------------------------------- TorchScript archives


class _Module:
    """The record of a TorchScript object of whatever class: its attributes."""

    __slots__ = ("attributes",)

    def __setstate__(self, state: dict[str, Any]) -> None:
        if not isinstance(state, dict):
            raise _RefusedError("it has an object whose state is no dict of attributes")
        self.attributes = state


class _ScriptTensor:
    """The record of a strided view on a storage, checked to lie inside it."""

    __slots__ = ("dtype", "key", "numel", "offset", "size", "stride")

    def __init__(self, storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> None:
        kind, dtype, key, _device, numel = storage
        whole = ((offset, numel), size, stride)
        if kind != "storage" or not isinstance(dtype, torch.dtype) or not all(map(_is_sizes, whole)):
            raise _RefusedError("it has a tensor that is no view of a storage")
        last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
        if math.prod(size) > numel or (math.prod(size) and last >= numel):
            raise _RefusedError(f"it gives {numel:,} numbers for a tensor of shape {size}")
        self.dtype, self.key, self.numel = dtype, key, numel
        self.offset, self.size, self.stride = offset, size, stride

    def resolve(self, archive: zipfile.ZipFile, root: str) -> Tensor:
        info = archive.getinfo(f"{root}data/{self.key}")
        if info.compress_type != zipfile.ZIP_STORED or info.file_size != self.numel * self.dtype.itemsize:
            raise _RefusedError(f"its {info.filename} is compressed or has another size than it says")
        if not math.prod(self.size):
            return torch.empty(self.size, dtype=self.dtype)
        flat = torch.frombuffer(bytearray(archive.read(info)), dtype=self.dtype)
        return flat.as_strided(self.size, self.stride, self.offset)


class _Ignored:
    """Stands for the helpers that TorchScript pickles around lists and hooks: keeps the arguments."""

    __slots__ = ()

    def __call__(self, *arguments: Any) -> tuple[Any, ...]:
        return arguments


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
_LISTS = ("build_intlist", "build_doublelist", "build_boollist", "build_tensorlist", "restore_type_tag")
_SCRIPT_NAMES: dict[tuple[str, str], Any] = {
    ("torch._utils", "_rebuild_tensor_v2"): _ScriptTensor,
    ("collections", "OrderedDict"): _Ignored(),
    **{("torch.jit._pickle", name): _Ignored() for name in _LISTS},
    **{("torch", name): dtype for name, dtype in _STORAGES.items()},
}


class _ScriptUnpickler(_Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        # Classes that the archive's own code defines: only their attributes matter.
        if module == "__torch__" or module.startswith("__torch__."):
            return _Module
        return super().find_class(module, name)

    def persistent_load(self, pid: Any) -> Any:
        return pid


def load_torchscript(archive: zipfile.ZipFile, root: str, what: str) -> dict[str, Tensor]:
    """Reads the parameters and buffers of a TorchScript archive, none of whose code is run.

    ``torch.jit.load`` would let the archive's classes restore themselves by code of their own, and
    TorchScript can write files; so the attributes are read directly, as ``{"outer.inner": tensor}``.

    Args:
        archive: the open zip file.
        root: its top folder, with the slash.
        what: its name, for messages.

    Raises:
        WeightsError: it is damaged, or holds more than modules, plain values and tensors.
    """
    with _untrusted(what):
        data = archive.read(f"{root}data.pkl")
        _scan(data, _OPCODES | {"NEWOBJ", "BINPERSID"})
        tree = _ScriptUnpickler(data, _SCRIPT_NAMES).load()
        leaves = {".".join(path): leaf for path, leaf in walk(tree) if isinstance(leaf, _ScriptTensor)}
        return {key: tensor.resolve(archive, root) for key, tensor in leaves.items()}
