"""Whether anything that a description depends on has changed since it was made, asked before every call."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Sized
from gc import get_referents
from itertools import chain
from operator import is_, itemgetter
from typing import Any, NamedTuple

from torch import nn

from fasti3d.runtime import extension

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
_HELD = ("_parameters", "_buffers", "_modules")
# What every module has of its own, of which only ``training`` and what it holds matter here.
_COMMON = frozenset(vars(nn.Module())) - {"training"}
# What Python itself writes to a class when an instance is copied, or its annotations are read.
_BY_PYTHON = frozenset(("__slotnames__", "__annotations__", "__annotations_cache__"))


class _Untouched(NamedTuple):
    """The very objects that there were when all was found to be as it was.

    Attributes:
        contents: of modules, dicts and classes, as the extension lists them.
        inner: attributes that may change inside, and their snapshots.
    """

    contents: Any
    inner: list[Any]
    snapshots: list[Any]


class Watch:
    """Modules as they were: their classes, attributes, hooks, submodules and tensors, not tensors' values.

    The comparison is of all that could be read from the modules, and takes a tenth of a millisecond for I3D.
    Where the extension is built, most calls find that no object was exchanged for another, not even an
    equal one, in a quarter of that (``benchmarks/test_unchanged.py``); all others compare.

    Args:
        root, names: the attributes of ``root`` under which it looks for its parts.
        modules: those to watch.
        unhooked: modules that are to have no hooks, in place of watching which there are.
        tensors: whether to watch which tensors there are.
    """

    def __init__(
        self,
        root: nn.Module,
        names: Iterable[str],
        modules: Iterable[nn.Module],
        *,
        unhooked: Iterable[nn.Module] | None = None,
        tensors: bool = True,
    ) -> None:
        self._modules = list(dict.fromkeys(modules))
        self._owns = [vars(module) for module in self._modules]
        self._names = tuple(names)
        self._root = weakref.ref(root)  # which holds the watch
        # Looked up where they are, as a module's own way to its parts is slow.
        self._parts = vars(root)["_modules"]
        self._shadowing = frozenset(name for name in self._names if name in self._parts)
        self._elsewhere = [name for name in self._names if name not in self._parts]
        # Whose attributes hide those of the instances, or stand in for them.
        self._classes = tuple(dict.fromkeys(map(type, (root, *self._modules))))
        bases = dict.fromkeys(chain.from_iterable(cls.__mro__ for cls in self._classes))
        self._namespaces = [vars(base) for base in bases]
        hooked = frozenset(self._modules if unhooked is None else unhooked)
        live = [(*_HELD, *(_HOOKS if module in hooked else ())) for module in self._modules]
        self._getters = [
            (itemgetter(*keys, *(key for key in own if key not in _COMMON)), own)
            for keys, own in zip(live, self._owns, strict=True)
        ]
        hooks = [vars(module)[key] for module in hooked for key in _HOOKS]
        self._hooks, self._no_hooks = (hooks, []) if unhooked is None else ([], hooks)
        # Of none it is enough, and faster, to know that there are none.
        self._look: Callable[[Any], Any] = _lengths if any(self._hooks) else any
        held = [own[key] for own in self._owns for key in (_HELD if tensors else _HELD[-1:])]
        self._empty = [one for one in held if not one]
        self._values = [one.values() for one in held if one]  # views, which follow
        # Of a class the dict behind its read-only view, which can be walked without a copy.
        self._dicts = [*self._owns, *held, *hooks, *chain.from_iterable(map(get_referents, self._namespaces))]
        self._untouched: _Untouched | None = None
        there, classes, sizes, attributes, *others, _ = self._now()
        kept = [
            (*values[: len(keys)], *map(_snapshot, values[len(keys) :]))
            for keys, values in zip(live, attributes, strict=True)
        ]
        self._then = (there, classes, sizes, kept, *others, False)

    def _now(self) -> tuple[Any, ...]:
        return (
            self._at_root(),
            [(type(module), id(vars(module))) for module in self._modules],
            list(map(len, self._owns)),
            [get(own) for get, own in self._getters],
            self._bases(),
            list(map(_attributes, self._namespaces)),
            any(self._empty),
            list(map(id, chain.from_iterable(self._values))),
            self._look(self._hooks),
            any(self._no_hooks),
        )

    def _at_root(self) -> tuple[Any, ...]:
        root = self._root()
        return (
            type(root),
            list(map(self._parts.get, self._names)),
            vars(root)["_modules"] is self._parts and self._shadowing.isdisjoint(vars(root)),
            [getattr(root, name, None) for name in self._elsewhere],
        )

    def _bases(self) -> list[tuple[type, ...]]:
        return [cls.__mro__ for cls in self._classes]

    def holds(self) -> bool:
        """Whether all is as it was."""
        try:
            if self._is_untouched():
                return True
            # Before it is compared: a change in another thread meanwhile is then seen by the next call.
            untouched = self._note()
            if self._now() != self._then:
                return False
        except Exception:  # an attribute is gone, or values of a new kind cannot be compared
            return False
        self._untouched = untouched
        return True

    def _is_untouched(self) -> bool:
        """Whether nothing was exchanged since the last comparison, which then needs no other."""
        last = self._untouched
        return (
            last is not None
            and extension.CORE is not None
            and extension.CORE.holds_contents(self._modules, self._dicts, last.contents)
            and self._bases() == self._then[4]
            and last.inner == last.snapshots
            and self._at_root() == self._then[0]
        )

    def _note(self) -> _Untouched | None:
        if extension.CORE is None or not all(isinstance(held, dict) for held in self._dicts):
            return None
        inner = [value for own in self._owns for key, value in own.items() if key not in _COMMON]
        inner = [value for value in inner if _snapshot(value) is not value]
        contents = extension.CORE.contents_of(self._modules, self._dicts)
        return _Untouched(contents, inner, list(map(_snapshot, inner)))


def _attributes(namespace: Any) -> dict[str, Any]:
    """Of a class, without what Python writes there by itself."""
    return {name: value for name, value in namespace.items() if name not in _BY_PYTHON}


def _lengths(held: Iterable[Sized]) -> list[int]:
    return list(map(len, held))


def _snapshot(value: Any) -> Any:
    """The same with lists and the like of its own, so that a change inside one is seen."""
    if type(value) is tuple:
        inner = tuple(map(_snapshot, value))
        return value if all(map(is_, inner, value)) else inner  # the same one compares fastest
    if type(value) is list:
        return list(map(_snapshot, value))
    if type(value) is dict:
        return {key: _snapshot(inner) for key, inner in value.items()}
    return value.copy() if type(value) in (set, bytearray) else value
