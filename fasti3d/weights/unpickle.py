"""Reading pickles of tensors and arrays without running anything that they name.

A pickle is a program, and Python's unpickler calls any function that it names. This module interprets only
the opcodes that honest files use. Names in a pickle are never looked up: tensors, arrays and ordered dicts
are rebuilt as records, and every other object, whether a harmless ``argparse.Namespace`` or ``os.system``,
becomes an ``Inert`` that only keeps the items and attributes given to it. Memory and time stay in
proportion to the file's size.
"""

from __future__ import annotations

import io
import pickletools
from collections.abc import Callable, Iterator, Mapping
from typing import IO, Any, NamedTuple

from fasti3d.weights.errors import WeightsError
from fasti3d.weights.records import Array, DType, Storage, View

# Opcodes and copied arguments: twenty times what a checkpoint with its optimizer's state has. One opcode
# can make an object of a hundred bytes.
_MAX_STEPS = 500_000
# No I3D checkpoint puts more dicts into one another.
_MAX_DEPTH = 32
_MAX_ARGUMENTS = 16
# Names of skipped objects that are kept for messages.
_SHOWN, _SHOWN_CHARACTERS = 3, 60


class Global(NamedTuple):
    """The record of a name, which is not looked up."""

    module: str
    name: str


class Inert:
    """A stand-in for an object of any class, or the result of any function.

    Attributes:
        items: what was put into it, as into a dict.
        state: what would have become its attributes.
    """

    __slots__ = ("items", "state")

    def __init__(self) -> None:
        self.items: dict[Any, Any] = {}
        self.state: Any = None


class Unpickled(NamedTuple):
    """What a pickle holds, the storages of its tensors, and the first names that were not followed."""

    tree: Any
    storages: dict[str, Storage]
    skipped: tuple[str, ...]


def unpickle(data: bytes | IO[bytes]) -> Unpickled:
    """Read one pickle; of a file, which must be in memory, from its position to just after the pickle.

    Raises:
        WeightsError: it uses an opcode that no file of tensors needs, or more than any would.
        Exception: anything else, for malformed bytes; the caller says that the file is damaged.
    """
    machine = _Machine()
    tree = machine.run(io.BytesIO(data) if isinstance(data, bytes) else data)
    return Unpickled(tree, machine.storages, tuple(machine.skipped))


def walk(tree: Any) -> Iterator[tuple[tuple[str, ...], Any]]:
    """(path, leaf) for every leaf of nested mappings and objects, in order, each container once."""
    stack: list[tuple[tuple[str, ...], Any]] = [((), tree)]
    seen: set[int] = set()
    while stack:
        path, node = stack.pop()
        if not isinstance(node, Mapping | Inert):
            yield path, node
        elif id(node) not in seen and len(path) <= _MAX_DEPTH:
            seen.add(id(node))
            stack.extend(((*path, str(key)), child) for key, child in reversed(list(_children(node))))


def _children(node: Any) -> Iterator[tuple[Any, Any]]:
    if isinstance(node, Mapping):
        yield from node.items()
        return
    yield from node.items.items()
    # The state of an object with slots is a pair, whose second part is that of the slots.
    for part in node.state if isinstance(node.state, tuple) and len(node.state) == 2 else (node.state,):
        if isinstance(part, Mapping):
            yield from part.items()


# fmt: off
_PUSHED = frozenset((
    "NONE", "NEWTRUE", "NEWFALSE", "BININT", "BININT1", "BININT2", "LONG1", "LONG4", "BINFLOAT",
    "BINSTRING", "SHORT_BINSTRING", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8",
    "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8",
))
# fmt: on
_CONSTANTS = {"NEWTRUE": True, "NEWFALSE": False}


class _Machine:
    """The stacks, the memo, and a method for each opcode, called by its name."""

    def __init__(self) -> None:
        self.storages: dict[str, Storage] = {}
        self.skipped: dict[str, None] = {}
        self._stack: list[Any] = []
        self._waiting: list[list[Any]] = []
        self._memo: dict[int, Any] = {}
        self._steps = 0

    def run(self, file: IO[bytes]) -> Any:
        for opcode, argument, _ in pickletools.genops(file):
            self._spend(1)
            if opcode.name == "STOP":
                break
            if opcode.name in _PUSHED:
                self._stack.append(_CONSTANTS.get(opcode.name, argument))
                continue
            operation = getattr(self, f"_op_{opcode.name.lower()}", None)
            if operation is None:
                raise WeightsError(f"it uses the opcode {opcode.name}, which no file of tensors needs")
            if opcode.arg is None:
                operation()
            else:
                operation(argument)
        return self._stack.pop()

    def _spend(self, steps: int) -> None:
        self._steps += steps
        if self._steps > _MAX_STEPS:
            raise WeightsError(f"it holds more than {_MAX_STEPS:,} objects: this is not an I3D checkpoint")

    def _op_proto(self, version: int) -> None: ...

    def _op_frame(self, size: int) -> None: ...

    # ------------------------------------------------------------ the stack and the memo

    def _op_mark(self) -> None:
        self._waiting.append(self._stack)
        self._stack = []

    def _unmarked(self) -> list[Any]:
        items, self._stack = self._stack, self._waiting.pop()
        return items

    def _op_pop(self) -> None:
        if self._stack:
            self._stack.pop()
        else:
            self._unmarked()

    def _op_pop_mark(self) -> None:
        self._unmarked()

    def _op_dup(self) -> None:
        self._stack.append(self._stack[-1])

    def _op_memoize(self) -> None:
        self._memo[len(self._memo)] = self._stack[-1]

    def _op_binput(self, slot: int) -> None:
        self._memo[slot] = self._stack[-1]

    _op_long_binput = _op_binput

    def _op_binget(self, slot: int) -> None:
        self._stack.append(self._memo[slot])

    _op_long_binget = _op_binget

    # ------------------------------------------------------------ containers

    def _op_empty_tuple(self) -> None:
        self._stack.append(())

    def _op_tuple(self) -> None:
        items = tuple(self._unmarked())
        self._stack.append(items)

    def _op_tuple1(self) -> None:
        self._stack[-1:] = [(self._stack[-1],)]

    def _op_tuple2(self) -> None:
        self._stack[-2:] = [(self._stack[-2], self._stack[-1])]

    def _op_tuple3(self) -> None:
        self._stack[-3:] = [(self._stack[-3], self._stack[-2], self._stack[-1])]

    def _op_empty_list(self) -> None:
        self._stack.append([])

    def _op_list(self) -> None:
        items = self._unmarked()
        self._stack.append(items)

    def _op_appends(self) -> None:
        items = self._unmarked()
        if type(self._stack[-1]) is list:
            self._stack[-1] += items

    def _op_append(self) -> None:
        item = self._stack.pop()
        if type(self._stack[-1]) is list:
            self._stack[-1].append(item)

    def _op_empty_set(self) -> None:
        self._stack.append(Inert())

    def _op_additems(self) -> None:
        self._unmarked()

    def _op_frozenset(self) -> None:
        self._unmarked()
        self._stack.append(Inert())

    def _op_empty_dict(self) -> None:
        self._stack.append({})

    def _op_dict(self) -> None:
        items = self._unmarked()
        self._stack.append({})
        self._fill(items)

    def _op_setitems(self) -> None:
        items = self._unmarked()
        self._fill(items)

    def _op_setitem(self) -> None:
        value, key = self._stack.pop(), self._stack.pop()
        self._fill([key, value])

    def _fill(self, items: list[Any]) -> None:
        target = self._stack[-1]
        into = target.items if type(target) is Inert else target
        if type(into) is not dict:
            raise ValueError("it puts items into something other than a dict")
        for key, value in zip(items[::2], items[1::2], strict=True):
            # Numbers as text: a file could choose many of one hash. Other keys name no tensor.
            into[str(key) if isinstance(key, str | int | float) else object()] = value

    # ------------------------------------------------------------ names and objects

    def _op_global(self, names: str) -> None:
        self._stack.append(Global(*names.split(" ", 1)))

    def _op_stack_global(self) -> None:
        name, module = self._stack.pop(), self._stack.pop()
        if not (isinstance(name, str) and isinstance(module, str)):
            raise ValueError("it has a name that is not text")
        self._stack.append(Global(module, name))

    def _op_reduce(self) -> None:
        arguments, function = self._stack.pop(), self._stack.pop()
        self._stack.append(self._called(function, arguments))

    _op_newobj = _op_reduce

    def _op_newobj_ex(self) -> None:
        self._stack.pop()
        self._op_reduce()

    def _op_build(self) -> None:
        state, target = self._stack.pop(), self._stack[-1]
        if type(target) is Inert:
            target.state = state
        elif isinstance(target, DType | Array):
            target.build(state)

    def _op_binpersid(self) -> None:
        pid = self._stack.pop()
        found = Storage.of(pid) if isinstance(pid, tuple) else None
        if isinstance(found, Storage):
            self.storages[found.key] = found
        self._stack.append(found)

    def _called(self, function: Any, arguments: Any) -> Any:
        """What a call makes: a record of a tensor or array, a dict, or an inert object."""
        if type(function) is Global:
            rebuild = _REBUILT.get(function)
            if rebuild is not None and isinstance(arguments, tuple) and len(arguments) <= _MAX_ARGUMENTS:
                return rebuild(self, *arguments)
            if len(self.skipped) < _SHOWN:
                self.skipped[f"{function.module}.{function.name}"[:_SHOWN_CHARACTERS]] = None
        return Inert()

    def _ordered_dict(self, pairs: Any = ()) -> Any:
        self._stack.append({})
        for pair in pairs:  # as Python 2 wrote it
            self._spend(2)
            self._fill(list(pair[:2]))
        return self._stack.pop()

    def _of_a_type(self, function: Any, _type: Any, arguments: Any, _state: Any) -> Any:
        return Inert() if function == _OF_A_TYPE else self._called(function, arguments)


def _as_bytes(_: _Machine, text: str, encoding: str = "latin1") -> bytes:
    """Bytes as Python 3 writes them in protocol 2."""
    return text.encode("latin-1")


_OF_A_TYPE = Global("torch._tensor", "_rebuild_from_type_v2")
_NUMPY = ("numpy.core", "numpy._core")  # numpy 2 moved it
_REBUILT: dict[Global, Callable[..., Any]] = {
    Global("collections", "OrderedDict"): _Machine._ordered_dict,
    Global("torch._utils", "_rebuild_tensor"): lambda _, *parts: View(*parts),
    Global("torch._utils", "_rebuild_tensor_v2"): lambda _, *parts: View(*parts[:4]),
    Global("torch._utils", "_rebuild_tensor_v3"): lambda _, *parts: View(*parts[:4])._replace(dtype=parts[6]),
    Global("torch._utils", "_rebuild_parameter"): lambda _, data, *__: data,
    Global("torch._utils", "_rebuild_parameter_with_state"): lambda _, data, *__: data,
    _OF_A_TYPE: _Machine._of_a_type,
    Global("_codecs", "encode"): _as_bytes,
    Global("numpy", "dtype"): lambda _, spec, *__: DType(spec),
    **{Global(f"{n}.multiarray", "_reconstruct"): lambda _, *__: Array() for n in _NUMPY},
    **{
        Global(f"{n}.numeric", "_frombuffer"): lambda _, raw, dtype, shape, order: Array(
            raw, dtype, shape, order == "F"
        )
        for n in _NUMPY
    },
}
