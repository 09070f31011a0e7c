"""Steps beside each other: which, and that nothing they do in the block of maps is left to chance.

A machine that only notes what is launched where and what waits for what stands in for the GPU's streams. Two
launches are in order if one happens before the other by streams and marks; two that share memory, one of them
writing, must be.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from i3d_making import NARROW, randomise
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from fasti3d import I3D, network
from fasti3d.engine import layout as layouts
from fasti3d.engine import plan as plans
from fasti3d.engine.describe.inception import graph_of
from fasti3d.engine.graph import Add, Concat, Conv, Graph, Node, Pool, shapes
from fasti3d.engine.lanes import MAX_LANES, Window, tiles, windows
from fasti3d.engine.layout import Layout, Placed
from fasti3d.engine.plan import InGraph, Plan
from fasti3d.inspect import plan_report
from fasti3d.ops.conv3d_bn_relu.geometry import Geometry
from fasti3d.ops.conv3d_bn_relu.packed import PackedConv3d, TritonConv3d
from fasti3d.runtime import gpu

H200 = gpu.GpuTraits((9, 0), 132)
ONE, THREE, NONE = (1, 1, 1), (3, 3, 3), (0, 0, 0)
CLIP = (1, 3, 9, 33, 32)


@dataclass
class Launch:
    """What one read and wrote of the block, a bit for each value, and how far each lane was known to be."""

    name: str
    lane: int
    clock: dict[int, int]
    reads: int
    writes: int


class Streams:
    """Lanes with a clock each; a mark is what its lane knows of all clocks."""

    def __init__(self) -> None:
        self.current = 0
        self.clocks: dict[int, dict[int, int]] = {lane: {} for lane in range(MAX_LANES)}

    @contextlib.contextmanager
    def on(self, lane: int) -> Iterator[None]:
        before, self.current = self.current, lane
        yield
        self.current = before

    def mark(self) -> dict[int, int]:
        return dict(self.clocks[self.current])

    def wait(self, mark: dict[int, int]) -> None:
        mine = self.clocks[self.current]
        mine.update({lane: max(mine.get(lane, 0), time) for lane, time in mark.items()})

    def launch(self) -> tuple[int, dict[int, int]]:
        mine = self.clocks[self.current]
        mine[self.current] = mine.get(self.current, 0) + 1
        return self.current, dict(mine)


class Record(TorchDispatchMode):
    """Notes what operators do in a block, and does nothing of it."""

    def __init__(self, block: Tensor, streams: Streams) -> None:
        super().__init__()
        self.launches: list[Launch] = []
        self._block = block
        self._streams = streams

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        schema, touched = func._schema, {True: 0, False: 0}
        for argument, x in zip(schema.arguments, args, strict=False):
            if isinstance(x, Tensor):
                touched[argument.alias_info is not None and argument.alias_info.is_write] |= self._places(x)
        own = schema.name.startswith("fasti3d::")
        if any(touched.values()) and (own or schema.name in ("aten::clone", "aten::copy_")):
            lane, clock = self._streams.launch()
            self.launches.append(Launch(schema.name, lane, clock, touched[False], touched[True]))
        return None if own and not schema.returns else func(*args, **(kwargs or {}))

    def _places(self, x: Tensor) -> int:
        if x.untyped_storage().data_ptr() != self._block.untyped_storage().data_ptr():
            return 0
        held = np.zeros(self._block.numel(), dtype=bool)
        strides = [held.itemsize * stride for stride in x.stride()]
        np.lib.stride_tricks.as_strided(held[x.storage_offset() :], x.shape, strides)[:] = True
        return int.from_bytes(np.packbits(held).tobytes(), "big")


def unordered(launches: list[Launch]) -> list[str]:
    """Pairs that share memory, of which one writes, and neither of which happens before the other."""
    return [
        f"{a.name} on lane {a.lane} and {b.name} on lane {b.lane}"
        for a, b in itertools.combinations(launches, 2)
        if a.clock[a.lane] > b.clock.get(a.lane, 0)
        and b.clock[b.lane] > a.clock.get(b.lane, 0)
        and (a.writes & (b.reads | b.writes) or b.writes & a.reads)
    ]


@pytest.fixture
def h200(monkeypatch: pytest.MonkeyPatch) -> None:
    def pack(
        weight: Tensor, bias: Tensor, stride: Any, *, relu: bool, dtype: torch.dtype, padding: Any = None
    ) -> PackedConv3d:
        kernel = (weight.shape[2], weight.shape[3], weight.shape[4])
        return TritonConv3d.of(weight, bias, Geometry(kernel, stride, padding, relu), dtype)

    monkeypatch.setattr(PackedConv3d, "pack", pack)
    monkeypatch.setattr(gpu, "gpu_traits", lambda device: H200)
    monkeypatch.setattr(plans, "_sms", lambda device: H200.sms)
    monkeypatch.setattr(network, "TRUNK", NARROW)
    monkeypatch.setattr(network, "FEATURE_CHANNELS", 96)


def inception(wanted: str) -> tuple[Plan, Layout]:
    model = I3D(5).eval()
    randomise(model)
    plan = Plan(graph_of(model), torch.float16, torch.device("cpu"))
    return plan, plan.layout(CLIP, {wanted}, in_graph=True)


def run(plan: Plan, layout: Layout) -> list[Launch]:
    streams = Streams()
    block = torch.zeros(layout.nbytes // 2, dtype=torch.float16)
    inside = InGraph(plan)
    memory = inside.memory(torch.empty(CLIP, dtype=torch.float16))
    with torch.no_grad(), Record(block, streams) as record:
        cells = plan.folding.windows(memory) if plan.folding else memory
        layout.run({plan.graph.input: cells}, block, lambda y: y.clone(), lanes=streams)
    return record.launches


@pytest.mark.parametrize("wanted", ["Mixed_4b", "MaxPool3d_4a_3x3", "Mixed_5c"])
def test_everything_that_shares_memory_is_in_order(wanted: str, h200: None) -> None:
    plan, layout = inception(wanted)
    launches = run(plan, layout)
    assert {launch.lane for launch in launches} >= {0, 1, 2}
    assert unordered(launches) == []


def without(layout: Layout, change: Any) -> Layout:
    return replace(layout, steps=[change(i, placed) for i, placed in enumerate(layout.steps)])


def test_a_join_a_fork_or_a_lifetime_that_is_missing_is_seen(h200: None) -> None:
    plan, layout = inception("Mixed_5c")

    def no_join(i: int, placed: Placed) -> Placed:
        return replace(placed, waits=()) if isinstance(placed.step.node, Concat) else placed

    def no_fork(i: int, placed: Placed) -> Placed:
        return replace(placed, waits=()) if placed.lane else placed

    assert unordered(run(plan, without(layout, no_join)))
    assert unordered(run(plan, without(layout, no_fork)))
    # In the memory of a layout whose steps run one after the other.
    serial = plan.layout(CLIP, {"Mixed_5c"})

    def there(i: int, placed: Placed) -> Placed:
        its = serial.steps[i]
        return replace(placed, written=its.written, scratch=its.scratch)

    assert unordered(run(plan, without(layout, there)))


def test_without_lanes_a_layout_is_what_it_was(h200: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plans, "_sms", lambda device: 0)
    plan, _ = inception("Mixed_5c")
    found, serial = (plan.layout(CLIP, {"Mixed_5c"}, in_graph=its) for its in (True, False))
    assert found.nbytes == serial.nbytes
    assert [its.written for its in found.steps] == [its.written for its in serial.steps]
    assert all(its.lane == 0 and not its.waits for its in found.steps)


def test_the_report_tells_what_lanes_take(h200: None) -> None:
    shape = (1, 3, 64, 224, 224)
    report = plan_report.report_plan(shape, torch.float32, torch.device("cpu"), 5)
    plan = Plan(graph_of(I3D(5).eval()), torch.float32, torch.device("cpu"))
    found = plan.layout(shape, {"Logits"}, in_graph=True)
    assert report.graph_arena_bytes == found.nbytes
    assert any(its.lane for its in found.steps)


def conv(out: int, x: int, channels: int = 8) -> Conv:
    return Conv(out, x, torch.empty(channels, 8, 1, 1, 1, device="meta"), None, ONE, NONE)


# A concatenation 9 of what comes from value 1.
BRANCHES: dict[str, tuple[list[Node], list[Window]]] = {
    "a chain": ([conv(1, 0), conv(2, 1), Concat(9, (2, 2))], []),
    "two": ([conv(1, 0), conv(2, 1), conv(3, 1), Concat(9, (2, 3))], [Window(1, 3, (0, 1, 0))]),
    "chains": (
        [conv(1, 0), conv(2, 1), conv(3, 1), conv(4, 2), conv(5, 3), Concat(9, (4, 5))],
        [Window(1, 5, (0, 1, 0, 1, 0))],
    ),
    "one that forks again": (
        [conv(1, 0), conv(2, 1), conv(3, 2), conv(4, 2), conv(5, 1), Concat(9, (3, 4, 5))],
        [Window(1, 5, (0, 0, 1, 2, 0))],
    ),
    "one that is the fork's value": (
        [conv(1, 0), conv(2, 1), conv(3, 1), Concat(9, (1, 2, 3))],
        [Window(1, 3, (0, 1, 0))],
    ),
    "more than there are lanes": (
        [conv(1, 0), *(conv(i, 1) for i in range(2, 8)), Concat(9, tuple(range(2, 8)))],
        [Window(1, 7, (0, 1, 2, 3, 0, 1, 0))],
    ),
    "one whose branches meet before": (
        [conv(1, 0), conv(2, 1), conv(3, 1), Add(4, 2, 3), conv(5, 1), Concat(9, (4, 5))],
        [Window(1, 5, (0, 1, 1, 2, 0))],
    ),
    "two in a row": (
        [conv(1, 0), conv(2, 1), conv(3, 1), Concat(4, (2,)), conv(5, 4), conv(6, 4), Concat(9, (5, 6, 3))],
        [Window(1, 6, (0, 1, 0, 0, 2, 0))],
    ),
}


@pytest.mark.parametrize("name", BRANCHES)
def test_windows(name: str) -> None:
    nodes, expected = BRANCHES[name]
    of = shapes(Graph(tuple(nodes), {"y": 9}), (1, 8, 1, 4, 4))
    assert windows(nodes, of, 132) == expected


def test_lanes_pay_where_one_leaves_sms_idle() -> None:
    nodes = BRANCHES["two"][0]
    for rows, paying in ((64, True), (131, True), (132, False), (500, False)):
        of = shapes(Graph(tuple(nodes), {"y": 9}), (1, 8, 1, rows, 128))
        assert tiles(of[2]) == rows
        assert bool(windows(nodes, of, 132)) == paying


def test_a_sum_does_not_replace_a_residual_that_a_step_beside_it_reads() -> None:
    generator = torch.Generator().manual_seed(0)

    def full(out: int, x: int) -> Conv:
        return replace(conv(out, x), weight=torch.randn(8, 8, 1, 1, 1, generator=generator))

    nodes = [full(1, 0), full(2, 1), full(3, 1), Add(4, 3, 1), Pool(5, 2, THREE, ONE, ONE), Concat(9, (4, 5))]
    plan = Plan(Graph(tuple(nodes), {"y": 9}), torch.float32, torch.device("cpu"))
    graph, steps = plan.schedule(frozenset({"y"}))
    of = shapes(graph, (1, 8, 2, 4, 4))
    beside = windows(graph.nodes, of, 132)
    assert beside
    found = layouts.lay_out(graph, steps, of, torch.float32, torch.device("cpu"), beside)
    first = found.steps[0].written[1]
    assert all(first.offset != view.offset for its in found.steps[1:] for view in its.written.values())
