"""Whether anything that a description depends on has changed since it was made, asked before every call."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Sized
from itertools import chain
from operator import is_, itemgetter
from typing import Any

from torch import nn

from fasti3d.engine.describe.parts import methods

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
_HELD = ("_parameters", "_buffers", "_modules")
# What every module has of its own, of which only ``training`` and what it holds matter here.
_COMMON = frozenset(vars(nn.Module())) - {"training"}


class Watch:
    """Modules as they were: their classes, attributes, hooks, submodules and tensors, not tensors' values.

    Made in about a millisecond for I3D, asked in less than a tenth of one (``benchmarks/test_unchanged.py``).

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
        self._getters = [
            (itemgetter(*_HELD, *(key for key in own if key not in _COMMON)), own) for own in self._owns
        ]
        watched = self._modules if unhooked is None else ()
        self._hooks = [vars(module)[key] for module in watched for key in _HOOKS]
        # Of none it is enough, and faster, to know that there are none.
        self._look: Callable[[Any], Any] = _lengths if any(self._hooks) else any
        self._no_hooks = [vars(module)[key] for module in unhooked or () for key in _HOOKS]
        held = [own[key] for own in self._owns for key in (_HELD if tensors else _HELD[-1:])]
        self._empty = [one for one in held if not one]
        self._values = [one.values() for one in held if one]  # views, which follow
        self._classes = {cls: methods(cls) for cls in map(type, self._modules)}
        classes, sizes, attributes, *others, _ = self._now()
        first = len(_HELD)
        kept = [(*values[:first], *map(_snapshot, values[first:])) for values in attributes]
        self._then = (classes, sizes, kept, *others, False)

    def _now(self) -> tuple[Any, ...]:
        root = self._root()
        return (
            list(map(type, self._modules)),
            list(map(len, self._owns)),
            [get(own) for get, own in self._getters],
            any(self._empty),
            list(map(id, chain.from_iterable(self._values))),
            list(map(self._parts.get, self._names)),
            vars(root)["_modules"] is self._parts and self._shadowing.isdisjoint(vars(root)),
            [getattr(root, name, None) for name in self._elsewhere],
            self._look(self._hooks),
            any(self._no_hooks),
        )

    def holds(self) -> bool:
        """Whether all is as it was."""
        try:
            return self._now() == self._then and all(
                methods(cls) == then for cls, then in self._classes.items()
            )
        except Exception:  # an attribute is gone, or values of a new kind cannot be compared
            return False


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
