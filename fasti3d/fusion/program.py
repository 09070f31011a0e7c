"""What a network's ``forward`` calls, in order: a torch.fx graph as data that can be copied and pickled."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from torch import fx


@dataclass(frozen=True)
class Ref:
    """The result of a call, by the number of the call; number 0 is the clip."""

    at: int


@dataclass(frozen=True)
class Call:
    """``kind`` and ``target`` are a torch.fx node's; ``path`` says where in the network it is."""

    kind: str
    target: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    path: str

    def __getstate__(self) -> dict[str, Any]:
        """With a function as its module and name, as not every function of torch pickles by itself."""
        return vars(self) | ({"target": _name(self.target)} if self.kind == "call_function" else {})

    def __setstate__(self, state: dict[str, Any]) -> None:
        if state["kind"] == "call_function":
            module, name = state["target"]
            state = state | {"target": getattr(importlib.import_module(module), name)}
        vars(self).update(state)


@dataclass(frozen=True)
class Program:
    """The calls of a ``forward`` that takes one clip.

    Attributes:
        clip: the name of its argument.
        calls: of which the first has number 1.
        output: what is returned, with a ``Ref`` for each tensor.
    """

    clip: str
    calls: tuple[Call, ...]
    output: Any

    @property
    def has_names(self) -> bool:
        """Whether all functions that it calls can be pickled."""
        try:
            return all(_name(call.target) for call in self.calls if call.kind == "call_function")
        except TypeError:
            return False

    def last_reads(self) -> list[int]:
        """The last call that reads each result; for what is returned the number after the last call."""
        last = [0] * (len(self.calls) + 1)
        for at, call in enumerate(self.calls, start=1):
            for ref in refs((call.args, call.kwargs)):
                last[ref.at] = at
        for ref in refs(self.output):
            last[ref.at] = len(self.calls) + 1
        return last


class NotOneClipError(Exception):
    """Why a ``forward`` is not a program of one clip."""


def program_of(graph: fx.Graph) -> Program:
    """The program of a trace.

    Raises:
        NotOneClipError: it reads another number of arguments than one.
    """
    inputs = [node for node in graph.nodes if node.op == "placeholder"]
    used = [node for node in inputs if node.users]
    if len(used) != 1 or used[0] is not inputs[0] or used[0].target.startswith("*") or used[0].args:
        raise NotOneClipError(
            f"its forward reads {len(used)} arguments, or not the first, instead of one clip"
        )
    numbers = {used[0]: 0}
    calls: list[Call] = []
    output = None

    def plain(argument: Any) -> Any:
        return mapped(argument, fx.Node, lambda node: Ref(numbers[node]))

    for node in graph.nodes:
        if node.op == "output":
            output = plain(node.args[0])
        elif node.op != "placeholder":
            args, kwargs = (
                tuple(plain(arg) for arg in node.args),
                {k: plain(v) for k, v in node.kwargs.items()},
            )
            calls.append(Call(node.op, node.target, args, kwargs, _path(node)))
            numbers[node] = len(calls)
    return Program(used[0].target, tuple(calls), output)


def mapped(argument: Any, kind: type[Any], change: Callable[[Any], Any]) -> Any:
    """An argument with everything of a kind in it changed; torch.fx's own containers become Python's."""
    if isinstance(argument, kind):
        return change(argument)
    if isinstance(argument, tuple):
        inner = [mapped(value, kind, change) for value in argument]
        return type(argument)(*inner) if hasattr(argument, "_fields") else tuple(inner)
    if isinstance(argument, list):
        return [mapped(value, kind, change) for value in argument]
    if isinstance(argument, dict):
        return {key: mapped(value, kind, change) for key, value in argument.items()}
    if isinstance(argument, slice):
        return slice(*(mapped(v, kind, change) for v in (argument.start, argument.stop, argument.step)))
    return argument


def refs(argument: Any) -> Iterator[Ref]:
    """All in an argument, in order."""
    found: list[Ref] = []
    mapped(argument, Ref, found.append)
    yield from found


def _path(node: fx.Node) -> str:
    """Of the module that makes a call, or is called."""
    if node.op == "call_module":
        return str(node.target)
    stack = list(node.meta.get("nn_module_stack") or ())
    path = stack[-1].partition("@")[0] if stack else ""
    name = str(getattr(node.target, "__name__", node.target))
    return f"{path}.{name}" if path else name


def _name(function: Callable[..., Any]) -> tuple[str, str]:
    """The module and name that a function is found by.

    Raises:
        TypeError: by none.
    """
    module, name = getattr(function, "__module__", None), getattr(function, "__name__", None)
    for place in (module, "torch", "torch.nn.functional", "builtins"):
        if place and name and getattr(importlib.import_module(place), name, None) is function:
            return place, name
    raise TypeError(f"{function} has no name that it could be pickled by")
