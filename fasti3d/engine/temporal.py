"""How values of a graph depend on the frames of its input: a rule for each kind of node."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from fasti3d.engine.graph import (
    Add,
    Concat,
    Conv,
    ConvPool,
    Graph,
    Node,
    Norm,
    Pool,
    PoolConv,
    Relu,
    Shapes,
    Triple,
)
from fasti3d.same_padding import same_padding


class Field(NamedTuple):
    """The frames that step i depends on: ``size`` of them, from frame ``stride * i - before`` on.

    Those before the first frame or after the last are padding.
    """

    stride: int
    before: int
    size: int

    def then(self, frames: int, stride: int, before: int) -> Field:
        """After a window of ``frames`` at a stride, which begins ``before`` steps before its own step."""
        return Field(
            self.stride * stride, self.before + before * self.stride, self.size + (frames - 1) * self.stride
        )


class TimeError(ValueError):
    """A network that cannot be computed piece by piece along time, and why: one sentence."""


# Whose results each depend on a few frames.
_LOCAL = (Conv, ConvPool, PoolConv, Pool, Norm, Relu, Add, Concat)


def check_local(graph: Graph) -> None:
    """TimeError for a node that reads all frames at once, or does something that is not known."""
    for node in graph.nodes:
        if not isinstance(node, _LOCAL):
            raise TimeError(
                f"{node.name or type(node).__name__} reads all frames at once, or may: give whole clips, or "
                "a network that ends before it"
            )


def field(graph: Graph, value: int, of: Shapes) -> Field:
    """The field of a value, in frames of the graph's input, for maps of the shapes ``of``.

    Raises:
        TimeError: maps of different strides in time are added or concatenated.
    """
    found = {graph.input: Field(1, 0, 1)}
    for node in graph.nodes:
        made = _after(node, found, of)
        found |= dict.fromkeys(node.writes, made)
    return found[value]


def _after(node: Node, found: dict[int, Field], of: Shapes) -> Field:
    if isinstance(node, ConvPool | PoolConv):
        first, second = (node.conv, node.pool) if isinstance(node, ConvPool) else (node.pool, node.conv)
        (between,) = first.shapes(of)
        inner = {first.out: _after(first, found, of)}
        return _after(second, found | inner, of | {first.out: between})
    if isinstance(node, Conv):
        through = _through(found[node.x], node.window, node.stride, node.padding, of[node.x][2])
        return through if node.residual is None else _of_both(node, [through, found[node.residual]])
    if isinstance(node, Pool):
        return _through(found[node.x], node.kernel, node.stride, node.padding, of[node.x][2])
    if isinstance(node, Norm | Relu):
        return found[node.x]
    if isinstance(node, Add | Concat):
        return _of_both(node, [found[value] for value in node.reads])
    raise TypeError(f"there is no rule for {type(node).__name__}")


def _through(field: Field, kernel: Triple, stride: Triple, padding: Triple | None, length: int) -> Field:
    before = same_padding(length, kernel[0], stride[0])[0] if padding is None else padding[0]
    return field.then(kernel[0], stride[0], before)


def _of_both(node: Node, fields: Iterable[Field]) -> Field:
    """The frames that several values depend on together."""
    given = list(fields)
    if len({one.stride for one in given}) != 1:
        raise TimeError(f"{node.name or type(node).__name__} reads maps of different strides in time")
    before = max(one.before for one in given)
    return Field(given[0].stride, before, before + max(one.size - one.before for one in given))
