"""Random graphs of every kind of node: as a plan in exactly its memory, and through each rewrite alone."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fasti3d import I3D
from fasti3d.engine import rewrite
from fasti3d.engine.describe.inception import graph_of
from fasti3d.engine.graph import (
    Add,
    Concat,
    Conv,
    ConvPool,
    Graph,
    Head,
    Node,
    Norm,
    Opaque,
    Pool,
    PoolConv,
    Relu,
    Shape,
    Siblings,
    Softmax,
    shapes,
)
from fasti3d.engine.layout import Layout
from fasti3d.engine.place import Interval, place
from fasti3d.engine.plan import Plan
from fasti3d.engine.replay import replay
from fasti3d.engine.sign import non_negative
from fasti3d.engine.steps import Maps, Step

_ONE = (1, 1, 1)
# (kernel, stride, padding) that no map is too small for.
_CONVS = (
    (_ONE, _ONE, (0, 0, 0)),
    (_ONE, (1, 2, 2), (0, 0, 0)),
    ((3, 3, 3), _ONE, _ONE),
    ((3, 3, 3), _ONE, None),
    ((3, 1, 1), _ONE, (1, 0, 0)),
    ((1, 3, 3), (1, 2, 2), (0, 1, 1)),
    ((2, 3, 1), (2, 1, 1), None),
)
_POOLS = (
    ((3, 3, 3), _ONE, None),
    ((3, 3, 3), _ONE, _ONE),
    ((1, 3, 3), (1, 2, 2), (0, 1, 1)),
    ((1, 2, 2), (1, 2, 2), None),
    ((3, 3, 3), (2, 2, 2), _ONE),
)
_KINDS = (
    *("unit", "unit", "block", "mixed", "stem", "branch"),
    *("conv", "norm", "relu", "add", "pool", "concat", "torch"),
)
_CHANNELS = (3, 8, 16, 20)


@dataclass
class Case:
    """A graph in float32 with the shapes of its values, the same in float64, and a clip."""

    graph: Graph
    wide: Graph
    shapes: dict[int, Shape]
    x: Tensor


def draw(seed: int, length: int) -> Case:
    """A random graph, of maps most of which are read by one node, as in networks."""
    dice = random.Random(seed)
    numbers = torch.Generator().manual_seed(seed)
    shape = (
        dice.randint(1, 2),
        dice.choice(_CHANNELS),
        dice.randint(1, 6),
        dice.randint(1, 9),
        dice.randint(1, 9),
    )
    of: dict[int, Shape] = {0: shape}
    nodes: list[Node] = []
    unread = [0]

    def noise(*size: int) -> Tensor:
        return torch.randn(size, generator=numbers)

    def pick(like: int | None = None) -> int:
        maps = [v for v in of if like is None or of[v][2:] == of[like][2:]]
        fresh = [v for v in unread if v in maps]
        return dice.choice(fresh if fresh and dice.random() < 0.7 else maps)

    def same(x: int) -> int | None:
        others = [v for v in of if of[v] == of[x] and v != x]
        return dice.choice(others) if others else None

    def add(node: Node) -> int:
        of.update(zip(node.writes, node.shapes(of), strict=True))
        nodes.append(node)
        for value in node.reads:
            if value in unread:
                unread.remove(value)
        unread.append(node.out)
        return node.out

    def conv(x: int, geometry: int | None = None, width: int | None = None, *, relu: bool = False) -> int:
        kernel, stride, padding = dice.choice(_CONVS) if geometry is None else _CONVS[geometry]
        channels, outputs = of[x][1], width or dice.choice(_CHANNELS)
        scale = (channels * kernel[0] * kernel[1] * kernel[2]) ** -0.5
        bias = noise(outputs) if dice.random() < 0.7 else None
        weight = noise(outputs, channels, *kernel) * scale
        return add(Conv(len(of), x, weight, bias, stride, padding, relu))

    def norm(x: int) -> int:
        """As trained ones are: folding those that enlarge small differences would show float32's rounding."""
        n = of[x][1]
        mean, var, scale = 0.1 * noise(n), noise(n).abs() + 0.5, noise(n).abs().clamp(0.5, 1)
        return add(Norm(len(of), x, mean, var, scale, noise(n) if n > 8 else None, 1e-3))

    def pool(x: int, geometry: int | None = None) -> int:
        return add(Pool(len(of), x, *(dice.choice(_POOLS) if geometry is None else _POOLS[geometry])))

    while len(nodes) < length:
        x = pick()
        kind = dice.choice(_KINDS)
        if kind == "conv":
            conv(x, relu=dice.random() < 0.3)
        elif kind == "unit":
            y = conv(x)
            y = norm(y) if dice.random() < 0.6 else y
            add(Relu(len(of), y))
        elif kind == "block":
            y = conv(conv(x, 2), 2, of[x][1])
            add(Add(len(of), *dice.choice(((x, y), (y, x))), relu=dice.random() < 0.5))
        elif kind == "mixed":
            branches = tuple(conv(x, 0, relu=True) for _ in range(2))
            pool(add(Concat(len(of), branches)))
        elif kind == "stem":
            pool(conv(x, relu=True), 2)
        elif kind == "branch":
            conv(pool(x, dice.choice((0, 1))), 0)
        elif kind == "norm":
            norm(x)
        elif kind == "relu":
            add(Relu(len(of), x))
        elif kind == "add":
            other = same(x)
            add(Add(len(of), x, x if other is None else other, relu=dice.random() < 0.3))
        elif kind == "pool":
            pool(x)
        elif kind == "concat":
            add(Concat(len(of), tuple(pick(x) for _ in range(dice.randint(2, 3)))))
        else:
            call: Callable[[Tensor], Tensor] = dice.choice((_view, _half))
            of[len(of)] = tuple(_view(torch.empty(of[x], device="meta")).shape) if call is _view else of[x]
            nodes.append(Opaque(len(of) - 1, (x,), call))
            unread.append(len(of) - 1)
    names = {str(v): v for v in {pick(), nodes[-1].out, *(v for v in unread if dice.random() < 0.3)} if v}
    x, value = pick(), len(of)
    weight = noise(4, of[x][1])
    nodes += [Head(value, x, None, weight, noise(4), value + 1), Softmax(value + 2, value + 1)]
    names |= {"features": value, "scores": value + 1, "classes": value + 2}
    graph = Graph(tuple(nodes), names)
    return Case(graph, graph.with_nodes(map(_widened, nodes)), of, noise(*shape))


def _view(x: Tensor) -> Tensor:
    return x[:, :, ::2].transpose(3, 4)


def _half(x: Tensor) -> Tensor:
    return x * 0.5


def _widened(node: Node) -> Node:
    tensors = {key: value.double() for key, value in vars(node).items() if isinstance(value, Tensor)}
    return replace(node, **tensors)


CASES = st.builds(draw, st.integers(0, 2**32), st.integers(1, 12))


def assert_near(found: dict[str, Tensor], expected: dict[str, Tensor], limit: float) -> None:
    assert list(found) == list(expected)
    for name, y in found.items():
        wide = expected[name].double()
        assert y.shape == wide.shape
        assert (y.double() - wide).abs().max() <= limit * wide.abs().max(), name


class Poisoned(Step):
    """A step before which all of the block that no value of later steps is in becomes NaN."""

    def __init__(self, step: Step, block: Tensor) -> None:
        self.node, self._step, self._block = step.node, step, block

    def __call__(self, maps: Maps, scratch: Sequence[Tensor]) -> None:
        kept = {value: x.clone() for value, x in maps.items() if value not in self.node.writes}
        self._block.fill_(torch.nan)
        for value, x in kept.items():
            maps[value].copy_(x)
        self._step(maps, scratch)


@settings(max_examples=50, deadline=None)
@given(CASES)
def test_plans_run_in_exactly_their_memory(case: Case) -> None:
    plan = Plan(case.graph, torch.float32, torch.device("cpu"))
    opaque = {node.out: case.shapes[node.out] for node in case.graph.nodes if isinstance(node, Opaque)}
    layout = plan.layout(case.x.shape, case.graph.names, opaque)
    block = torch.empty(layout.nbytes // 4)
    steps = [replace(placed, step=Poisoned(placed.step, block)) for placed in layout.steps]
    x = case.x.contiguous(memory_format=torch.channels_last_3d)
    found = Layout(steps, layout.nbytes, layout.shapes).run({0: x}, block, torch.clone)
    expected = replay(case.wide, case.x.double())
    assert_near({name: found[name] for name in expected}, expected, 1e-5)
    assert torch.equal(x, case.x)


def expanded(graph: Graph) -> Graph:
    """The graph without nodes that only plans have."""
    nodes: list[Node] = []
    for node in graph.nodes:
        if isinstance(node, ConvPool):
            nodes += [node.conv, node.pool]
        elif isinstance(node, PoolConv):
            nodes += [node.pool, node.conv]
        elif isinstance(node, Siblings):
            fresh = Graph(tuple(nodes), {}).fresh - 1000
            nodes.append(Conv(fresh, node.x, node.weight, node.bias, _ONE, (0, 0, 0), node.relu))
            begin = 0
            for out, width in zip((node.out, *node.rest), node.widths, strict=True):
                nodes.append(Opaque(out, (fresh,), _channels(begin, width)))
                begin += width
        else:
            nodes.append(node)
    return graph.with_nodes(nodes)


def _channels(begin: int, width: int) -> Callable[[Tensor], Tensor]:
    return lambda x: x[:, begin : begin + width]


REWRITES: dict[str, tuple[Callable[[Graph], Graph], float]] = {
    "fold_norms": (rewrite.fold_norms, 1e-6),
    "absorb_relus": (rewrite.absorb_relus, 0.0),
    "absorb_adds": (rewrite.absorb_adds, 0.0),
    "pool_branches": (rewrite.pool_branches, 0.0),
    "join_pools": (lambda graph: rewrite.join_pools(graph, lambda conv: True), 0.0),
    "join_siblings": (rewrite.join_siblings, 1e-6),
}


@pytest.mark.parametrize("name", REWRITES)
def test_each_rewrite_alone_keeps_the_results(name: str) -> None:
    """Those that change no arithmetic change no bit."""
    apply, limit = REWRITES[name]
    changed = 0

    @settings(max_examples=20, deadline=None, derandomize=True)  # so that each has something to do
    @given(CASES)
    def check(case: Case) -> None:
        nonlocal changed
        graph = apply(case.graph)
        changed += len(graph.nodes) != len(case.graph.nodes)
        opaque = {node.out: case.shapes[node.out] for node in graph.nodes if isinstance(node, Opaque)}
        of = shapes(graph, case.x.shape, opaque)
        assert {name: of[v] for name, v in graph.names.items() if v in case.shapes} == {
            name: case.shapes[v] for name, v in graph.names.items() if v in case.shapes
        }
        found = replay(expanded(graph), case.x)
        assert_near(found, replay(case.graph, case.x), limit)

    check()
    assert changed > 0


def test_what_is_never_below_zero_is_not() -> None:
    """And every kind of node was met that may say so, and that may not."""
    seen: set[tuple[type[Node], bool]] = set()

    @settings(max_examples=40, deadline=None, derandomize=True)
    @given(CASES)
    def check(case: Case) -> None:
        rewritten = {graph.nodes: graph for graph in (apply(case.graph) for apply, _ in REWRITES.values())}
        for graph in (rewritten | {case.graph.nodes: case.graph}).values():
            known = non_negative(graph)
            seen.update((type(node), node.out in known) for node in graph.nodes)
            simple = expanded(graph)
            names = {str(v): v for node in simple.nodes for v in node.writes}
            values = replay(replace(simple, names=names), case.x)
            assert all(values[str(value)].min() >= 0 for value in known.intersection(names.values()))

    check()
    kinds = (Conv, Add, Pool, Concat, Head)
    assert seen >= {(kind, known) for kind in kinds for known in (True, False)}
    assert seen >= {(Relu, True), (Softmax, True), (Siblings, True), (ConvPool, True), (PoolConv, False)}
    assert seen.isdisjoint({(Norm, True), (Opaque, True)})
    conv, pool = Conv(1, 0, torch.ones(1, 1, 1, 1, 1), None, _ONE, None), Pool(2, 1, *_POOLS[2])
    assert not non_negative(Graph((ConvPool(2, conv, pool),), {}))


def test_all_that_i3d_pools_is_never_below_zero(model: I3D) -> None:
    graph = graph_of(model).only({"Logits"})
    joined = rewrite.join_pools(rewrite.absorb_relus(rewrite.fold_norms(graph)), lambda conv: True)
    for its, count in ((graph, 13), (joined, 11)):  # two of which convolutions are joined to
        pools = [node.pool if isinstance(node, PoolConv) else node for node in its.nodes]
        read = [pool.x for pool in pools if isinstance(pool, Pool)]
        assert len(read) == count
        assert non_negative(its).issuperset(read)


@given(st.lists(st.tuples(st.integers(0, 40_000), st.integers(0, 12), st.integers(0, 6)), max_size=12))
@settings(max_examples=50, deadline=None)
def test_what_is_kept_at_one_time_shares_no_memory(drawn: list[tuple[int, int, int]]) -> None:
    intervals = [Interval(nbytes, begin, begin + length) for nbytes, begin, length in drawn]
    offsets, total = place(intervals)
    assert all(offset + kept.nbytes <= total for offset, kept in zip(offsets, intervals, strict=True))
    for i, a in enumerate(intervals):
        for j, b in enumerate(intervals[:i]):
            if a.begin <= b.end and b.begin <= a.end and a.nbytes and b.nbytes:
                assert offsets[i] + a.nbytes <= offsets[j] or offsets[j] + b.nbytes <= offsets[i]
