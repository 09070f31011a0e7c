"""A schedule for clips of one shape: which memory of one block each step reads and writes."""

from __future__ import annotations

import math
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from fasti3d.engine.graph import (
    Add,
    Attention,
    Concat,
    Conv,
    ConvPool,
    Graph,
    Node,
    Norm,
    Opaque,
    Pool,
    PoolConv,
    Relu,
    Shape,
    Shapes,
    Siblings,
)
from fasti3d.engine.lanes import Window
from fasti3d.engine.place import Interval, place
from fasti3d.engine.steps import Maps, Step

# Nodes whose results lie in the block.
_PLACED = (Conv, Norm, Relu, Add, Pool, Concat, Siblings, ConvPool, PoolConv, Attention)


@dataclass(frozen=True)
class View:
    """A map (N, C, T, H, W), channels-last, in a block of values of its dtype."""

    offset: int
    shape: Shape
    strides: Shape

    @staticmethod
    def dense(offset: int, shape: Shape) -> View:
        return View(offset, shape, _strides(shape))

    def of(self, block: Tensor) -> Tensor:
        return block.as_strided(self.shape, self.strides, self.offset)


@dataclass(frozen=True)
class Placed:
    """A step of a layout.

    Attributes:
        step: what runs.
        written: where its results lie, by value; those of torch's own operators lie elsewhere.
        scratch: what it needs meanwhile.
        foreign: what it reads that lies elsewhere, in whatever layout and dtype; torch's own operators read
            what lies inside a wider map.
        named: the results that are asked for, by name.
        last: values that nothing reads any more afterwards.
        lane: of the lanes of the layout that on which it runs.
        waits: the steps of other lanes that it waits for, -1 for what was before the first.
    """

    step: Step
    written: Mapping[int, View]
    scratch: Sequence[View]
    foreign: Sequence[int]
    named: Mapping[str, int]
    last: Sequence[int]
    lane: int = 0
    waits: Sequence[int] = ()


class Lanes(Protocol):
    """Streams that steps run on; 0 is that on which what comes before and after runs."""

    def on(self, lane: int) -> AbstractContextManager[object]:
        """Makes a lane the one that steps run on."""

    def mark(self) -> Any:
        """A mark in the lane that is on, of all that was launched there."""

    def wait(self, mark: Any) -> None:
        """Lets the lane that is on wait for a mark."""


class OneLane:
    """The lane of layouts in which no steps run beside each other."""

    def on(self, lane: int) -> AbstractContextManager[object]:
        return nullcontext()

    def mark(self) -> Any:
        return None

    def wait(self, mark: Any) -> None:
        pass


ONE_LANE = OneLane()


@dataclass(frozen=True)
class Layout:
    """Steps in order, the bytes of the block that they share, and the shape of every value."""

    steps: Sequence[Placed]
    nbytes: int
    shapes: Shapes

    def run(
        self,
        maps: Maps,
        block: Tensor,
        keep: Callable[[Tensor], Any],
        *,
        exact: bool = False,
        lanes: Lanes = ONE_LANE,
    ) -> dict[str, Any]:
        """The named values, each after ``keep``, which must copy what lies in the block; what torch computed
        as it is, of views of the block copies.

        ``maps`` holds the clip. ``block`` is at least ``nbytes`` of memory, viewed in the plan's dtype.
        ``lanes``: what a layout with windows runs on.

        Raises:
            SpreadError: with ``exact``, a value that is not finite may have reached more than it should.
        """
        found: dict[str, Any] = {}
        marked = {j for placed in self.steps for j in placed.waits}
        marks: dict[int, Any] = {}
        if -1 in marked:
            marks[-1] = lanes.mark()
        for i, placed in enumerate(self.steps):
            with lanes.on(placed.lane):
                for j in placed.waits:
                    lanes.wait(marks[j])
                found.update(self._run(placed, maps, block, keep, exact))
                if i in marked:
                    marks[i] = lanes.mark()
        return found

    def _run(
        self, placed: Placed, maps: Maps, block: Tensor, keep: Callable[[Tensor], Any], exact: bool
    ) -> Iterator[tuple[str, Any]]:
        """Runs a step, and gives what is asked for of its results."""
        for value, view in placed.written.items():
            maps[value] = view.of(block)
        for value in placed.foreign:
            maps[value] = as_map(maps[value], block.dtype)
        placed.step(maps, [view.of(block) for view in placed.scratch])
        if exact and placed.step.spread(maps):
            raise SpreadError
        for name, value in placed.named.items():
            its = maps[value]
            yield name, _owned(its, block) if isinstance(placed.step.node, Opaque) else keep(its)
        for value in placed.last:
            del maps[value]


class SpreadError(Exception):
    """A value that is not finite may have reached more of a map than its windows."""


def _owned(result: Any, block: Tensor) -> Any:
    """What torch computed, in memory of its own."""
    memory = block.untyped_storage().data_ptr()
    return tree_map_only(
        Tensor, lambda y: y.clone() if y.untyped_storage().data_ptr() == memory else y, result
    )


def as_map(x: Tensor, dtype: torch.dtype) -> Tensor:
    """A map as the steps read it."""
    return x.to(dtype).contiguous(memory_format=torch.channels_last_3d)


def lay_out(
    graph: Graph,
    steps: Sequence[Step],
    of: Shapes,
    dtype: torch.dtype,
    device: torch.device,
    windows: Sequence[Window] = (),
) -> Layout:
    """The layout of a schedule whose values have the shapes ``of``; nothing is computed.

    What steps of one of the windows keep, they keep as long as that lasts: nobody knows which is the last.
    """
    window_of = {i: window for window in windows for i in range(window.begin, window.end + 1)}

    def interval(shape: Shape, begin: int, end: int) -> Interval:
        begin = window_of[begin].begin if begin in window_of else begin
        end = window_of[end].end if end in window_of else end
        return Interval(math.prod(shape) * dtype.itemsize, begin, end)

    found = _Values(steps, of, window_of)
    intervals = [interval(of[whole], found.begin[whole], found.end[whole]) for whole in found.begin]
    wholes = list(found.begin)
    scratch: list[list[Shape]] = [list(step.scratch(of, dtype, device)) for step in steps]
    for i, shapes in enumerate(scratch):
        intervals += [interval(shape, i, i) for shape in shapes]
    offsets, nbytes = place(intervals)
    offset_of = dict(zip(wholes, offsets, strict=False))
    free = iter(offsets[len(wholes) :])

    def view(value: int) -> View:
        whole, channel = found.home(value)
        offset = offset_of[whole] // dtype.itemsize + channel
        return View(offset, of[value], _strides(of[whole]))

    waits: dict[int, Sequence[int]] = {}
    lane: dict[int, int] = {}
    nodes = [step.node for step in steps]
    for window in windows:
        inside = range(window.begin, window.end + 1)
        waits.update(zip(inside, window.waits(nodes), strict=True))
        lane.update(zip(inside, window.lanes, strict=True))
    placed = []
    for i, (step, shapes) in enumerate(zip(steps, scratch, strict=True)):
        written = {value: view(value) for value in step.node.writes if value in found.placed}
        views = [View.dense(next(free) // dtype.itemsize, shape) for shape in shapes]
        named = {name: value for name, value in graph.names.items() if value in step.node.writes}
        last = [value for value, end in found.value_end.items() if end == i]
        foreign = found.not_dense if isinstance(step.node, Opaque) else found.foreign
        foreign = foreign.intersection(step.node.reads)
        placed.append(
            Placed(step, written, views, tuple(foreign), named, last, lane.get(i, 0), waits.get(i, ()))
        )
    return Layout(placed, nbytes, of)


class _Values:
    """Where the values of a schedule lie, and from which step to which they are kept."""

    def __init__(self, steps: Sequence[Step], of: Shapes, in_windows: Container[int] = ()) -> None:
        self.placed = {v for step in steps if isinstance(step.node, _PLACED) for v in step.node.writes}
        self.foreign = {step.node.out for step in steps if isinstance(step.node, Opaque)}
        self._homes: dict[int, tuple[int, int]] = {}
        self._share(steps, of)
        # What a value may share memory with: results of torch's own operators may be views.
        self._roots: dict[int, frozenset[int]] = {}
        self.begin: dict[int, int] = {}
        self.end: dict[int, int] = {}
        self.value_end: dict[int, int] = {}
        reads = {value: i for i, step in enumerate(steps) for value in step.node.reads}
        for i, step in enumerate(steps):
            # Which a step beside this one may still read.
            if i not in in_windows:
                self._reuse_residual(step.node, i, reads, of)
            for value in step.node.writes:
                self._roots[value] = (
                    frozenset((self.home(value)[0],))
                    if value in self.placed
                    else frozenset().union(*(self._roots.get(x, frozenset()) for x in step.node.reads))
                )
                last = max(reads.get(value, i), i)
                self.value_end[value] = last
                for whole in self._roots[value]:
                    self.begin.setdefault(whole, i)
                    self.end[whole] = max(self.end.get(whole, i), last)

    @property
    def not_dense(self) -> set[int]:
        """Values that lie inside wider maps."""
        return set(self._homes)

    def home(self, value: int) -> tuple[int, int]:
        """The map that a value lies in, itself or another, and its first channel there."""
        channel = 0
        while value in self._homes:
            value, first = self._homes[value]
            channel += first
        return value, channel

    def _share(self, steps: Sequence[Step], of: Shapes) -> None:
        """Siblings lie side by side, branches in the concatenation that reads them."""
        for step in steps:
            if isinstance(step.node, Siblings):
                self._side_by_side(step.node.rest, step.node.second, of)
        # The last first: a concatenation of concatenations is one map.
        for step in reversed(steps):
            if isinstance(step.node, Concat):
                xs = step.node.xs
                free = [x in self.placed and x not in self._homes and xs.count(x) == 1 for x in xs]
                self._side_by_side(xs, step.node.out, of, free)

    def _side_by_side(
        self, values: Sequence[int], whole: int, of: Shapes, free: Sequence[bool] | None = None
    ) -> None:
        channel = 0
        for i, value in enumerate(values):
            if free is None or free[i]:
                self._homes[value] = whole, channel
            channel += of[value][1]

    def _reuse_residual(self, node: Node, i: int, reads: Mapping[int, int], of: Shapes) -> None:
        """Lets a sum replace the residual that nothing reads afterwards."""
        residual = getattr(node, "residual", None)
        if residual is None or not isinstance(node, Conv) or node.out in self._homes:
            return
        whole, _ = self.home(residual)
        if (
            residual in self.placed
            and of[residual] == of[whole] == of[node.out]
            and self.end[whole] == reads[residual] == i
            and whole not in self._roots.get(node.x, frozenset())
        ):
            self._homes[node.out] = whole, 0


def _strides(shape: Shape) -> Shape:
    """Of a dense channels-last map (N, C, T, H, W)."""
    _, c, t, h, w = shape
    return c * t * h * w, 1, c * h * w, c * w, c
