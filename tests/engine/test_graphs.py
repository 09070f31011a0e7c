"""What is captured, replayed and given up, and in which order, on a machine that stands in for a GPU."""

from __future__ import annotations

import contextlib
import copy
import gc
import itertools
import pickle
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from allowing_tf32 import tf32_allowed
from i3d_making import SMALL, make_i3d, random_clip
from torch import Tensor
from waiting import PATIENCE

from fasti3d.engine import plan
from fasti3d.engine.cuda_graphs import Captured, Cuda, Graphs, Maps
from fasti3d.engine.describe.inception import graph_of
from fasti3d.engine.lanes import MAX_LANES
from fasti3d.engine.layout import ONE_LANE, Lanes

HALF = torch.float16


class Event:
    def __init__(self, log: list[str]) -> None:
        self.log = log

    def wait(self) -> None:
        self.log.append("wait")

    def record(self) -> None:
        self.log.append("record")


class Machine(Cuda):
    """Captures by running, and replays by running again on the same memory."""

    def __init__(self) -> None:
        super().__init__()
        self.log: list[str] = []
        self.pools: list[int] = []
        self.served = True
        self.short = False
        self.error: Exception | None = None
        self.inside = 0

    def device_of(self, x: Tensor) -> contextlib.AbstractContextManager[object]:
        return contextlib.nullcontext()

    def serves(self, x: Tensor) -> bool:
        return self.served

    def is_short_of_memory(self, device: torch.device) -> bool:
        return self.short

    def new_event(self) -> Any:
        return Event(self.log)

    def new_stream(self, device: torch.device) -> Any:
        return f"stream of {device}"

    def new_pool(self) -> int:
        self.pools.append(len(self.pools))
        return self.pools[-1]

    def pool_bytes(self, name: Any) -> int:
        return 1000 + name

    def record(
        self, memory: Callable[[], Tensor], work: Callable[[Tensor, Lanes], Maps], streams: Any, pool: Any
    ) -> Captured:
        assert self.lock.locked()
        own = memory()
        assert streams == [f"stream of {own.device}"] * (1 if own.device in self.alone else MAX_LANES)
        assert pool == self.pools[-1]
        self.log.append("capture")
        if self.error:
            raise self.error
        own.fill_(torch.nan)
        maps = work(own, ONE_LANE)

        def replay() -> None:
            assert self.lock.locked()
            self.log.append("replay")
            for name, y in work(own, ONE_LANE).items():
                maps[name].copy_(y)

        return Captured(own, maps, replay)


@pytest.fixture
def machine() -> Machine:
    return Machine()


def double(x: Tensor, wanted: set[str], dtype: torch.dtype) -> Maps:
    return {name: (2 * x).to(dtype) for name in sorted(wanted)}


def clip(frames: int, seed: int = 0) -> Tensor:
    return random_clip(1, 3, frames, 2, 2, seed=seed)


def call(graphs: Graphs, x: Tensor, *wanted: str, dtype: torch.dtype = HALF) -> Maps:
    maps = graphs.run(double, x, set(wanted or ("a",)), dtype)
    expected = double(x, set(wanted or ("a",)), dtype)
    assert maps.keys() == expected.keys()
    assert all(torch.equal(maps[name], y) for name, y in expected.items())
    return maps


def happened(machine: Machine) -> list[str]:
    found = [entry for entry in machine.log if entry in ("capture", "replay")]
    machine.log.clear()
    return found


def test_float32_of_another_precision_is_another_graph(machine: Machine) -> None:
    graphs = Graphs(machine)
    for _ in range(2):
        call(graphs, clip(4), dtype=torch.float32)
        call(graphs, clip(4))
    assert happened(machine) == ["capture"] * 2
    with tf32_allowed():
        for _ in range(2):
            call(graphs, clip(4), dtype=torch.float32)
        assert happened(machine) == ["capture"]
        call(graphs, clip(4))
        assert happened(machine) == ["replay"], "half precision has one"
    call(graphs, clip(4), dtype=torch.float32)
    assert happened(machine) == ["replay"]


def test_a_shape_is_captured_when_it_comes_again_and_replayed_from_then_on(machine: Machine) -> None:
    graphs = Graphs(machine)
    for expected in ([], ["capture"], ["replay"], ["replay"]):
        call(graphs, clip(4, seed=len(expected)))
        assert happened(machine) == expected
    assert graphs.nbytes == [clip(4).nbytes + clip(4).half().nbytes]
    assert machine.held() == {torch.device("cpu"): 1000}


def test_shapes_that_come_once_are_never_captured(machine: Machine) -> None:
    graphs = Graphs(machine)
    for frames in range(1, 30):
        call(graphs, clip(frames))
    for frames in range(1, 30):
        call(graphs, clip(frames))  # long ago: forgotten
    assert happened(machine) == []
    assert machine.pools == []
    assert graphs.nbytes == []


def test_results_outlive_later_replays(machine: Machine) -> None:
    graphs = Graphs(machine)
    for _ in range(2):
        call(graphs, clip(4))
    kept = [(clip(4, seed), call(graphs, clip(4, seed))) for seed in range(6)]
    for x, maps in kept:
        assert all(torch.equal(y, (2 * x).half()) for y in maps.values())


def test_what_makes_a_graph_of_its_own(machine: Machine) -> None:
    graphs = Graphs(machine, max_graphs=9)
    channels_last = clip(4).contiguous(memory_format=torch.channels_last_3d)
    cases: list[Callable[[], Maps]] = [
        lambda: call(graphs, clip(4)),
        lambda: call(graphs, clip(5)),
        lambda: call(graphs, channels_last),
        lambda: call(graphs, clip(4).half()),
        lambda: call(graphs, clip(4), "a", "b"),
        lambda: call(graphs, clip(4), dtype=torch.float32),
    ]
    for _ in range(2):
        for case in cases:
            case()
    assert happened(machine) == ["capture"] * len(cases)
    for case in cases:
        case()
    assert happened(machine) == ["replay"] * len(cases)
    # Clips cut from longer ones are copied as dense ones are.
    call(graphs, clip(9)[:, :, 2:6])
    call(graphs, clip(7)[:, :, 2:6])
    assert happened(machine) == ["replay"] * 2


def test_the_least_recently_used_is_given_up(machine: Machine) -> None:
    graphs = Graphs(machine, max_graphs=2)
    for frames in (1, 1, 2, 2, 1, 3, 3):
        call(graphs, clip(frames))
    assert happened(machine) == ["capture", "capture", "replay", "capture"]
    for frames in (1, 3):
        call(graphs, clip(frames))
    assert happened(machine) == ["replay", "replay"]
    assert len(graphs.nbytes) == 2


def test_shapes_that_take_turns_do_not_drive_each_other_out(machine: Machine) -> None:
    graphs = Graphs(machine, max_graphs=2)
    for frames in (1, 1, 2, 2):
        call(graphs, clip(frames))
    happened(machine)
    for frames in (1, 2, 3, 4) * 5:
        call(graphs, clip(frames))
    assert happened(machine) == ["replay"] * 10
    for frames in (3, 4, 3, 4, 3, 4):  # now these alone
        call(graphs, clip(frames))
    assert happened(machine) == ["capture", "capture"] + ["replay"] * 4


def test_the_order_on_the_gpu(machine: Machine) -> None:
    """All that touches a graph's memory stands between waiting for the replay before and saying so."""
    first, second = Graphs(machine), Graphs(machine)
    for graphs in (first, second):
        for _ in range(2):
            call(graphs, clip(4), "a", "b")
    machine.log.clear()

    class Log(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if func.overloadpacket.__name__ in ("copy_", "clone") and machine.log[-1:] != ["replay"]:
                machine.log.append(func.overloadpacket.__name__)
            elif func.overloadpacket.__name__ == "clone":
                machine.log.append("clone")
            return func(*args, **(kwargs or {}))

    with Log():
        for graphs in (first, second, first):
            graphs.run(double, clip(4), {"a", "b"}, HALF)
    one = ["wait", "copy_", "replay", "clone", "clone", "record"]
    assert machine.log == one * 3


def test_an_error_while_copying_out_still_marks_the_end(machine: Machine) -> None:
    graphs = Graphs(machine)
    for _ in range(2):
        call(graphs, clip(4))
    _, captured = next(iter(graphs._graphs.values()))
    captured.maps["b"] = None  # type: ignore[assignment]
    machine.log.clear()
    with pytest.raises(AttributeError):
        graphs.run(double, clip(4), {"a"}, HALF)
    assert machine.log[-1] == "record"
    assert not machine.lock.locked()


def test_where_it_cannot_be_captured_it_runs_without(machine: Machine) -> None:
    graphs = Graphs(machine)
    machine.served = False
    for _ in range(4):
        call(graphs, clip(4))
    assert happened(machine) == []
    machine.served = True
    machine.error = RuntimeError("operation not permitted")
    call(graphs, clip(4))
    with pytest.warns(RuntimeWarning, match=r"\(1, 3, 4, 2, 2\).*operation not permitted"):
        call(graphs, clip(4))
    for _ in range(4):
        call(graphs, clip(4))
    assert happened(machine) == ["capture"] * 2  # of several streams, and of one
    machine.error = None
    for _ in range(3):
        call(graphs, clip(5))
    assert happened(machine) == ["capture", "replay"]


def test_it_does_not_try_forever(machine: Machine) -> None:
    graphs = Graphs(machine, max_graphs=3)
    machine.error = RuntimeError("no")
    for frames in range(1, 9):
        context = pytest.warns(RuntimeWarning) if frames <= 3 else contextlib.nullcontext()
        with context:
            for _ in range(3):
                call(graphs, clip(frames))
    assert happened(machine) == ["capture"] * (1 + 3)


def test_where_several_streams_cannot_be_captured_one_is(machine: Machine) -> None:
    graphs, record = Graphs(machine), machine.record

    def fails(memory: Any, work: Any, streams: Any, pool: Any) -> Captured:
        if len(streams) > 1:
            raise RuntimeError("capture invalidated")
        return record(memory, work, streams, pool)

    machine.record = fails  # type: ignore[method-assign]
    for _ in range(3):
        call(graphs, clip(4))
    assert happened(machine) == ["capture", "replay"]
    assert machine.alone == {torch.device("cpu")}


def test_where_memory_is_short_there_is_none(machine: Machine) -> None:
    graphs = Graphs(machine)
    machine.short = True
    for _ in range(4):
        call(graphs, clip(4))
    assert happened(machine) == []


@pytest.mark.parametrize("variable", [("FASTI3D_CUDA_GRAPHS", "0"), ("CUDA_LAUNCH_BLOCKING", "1")])
def test_the_switch(machine: Machine, variable: tuple[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    graphs = Graphs(machine)
    monkeypatch.setenv(*variable)
    for _ in range(4):
        call(graphs, clip(4))
    assert happened(machine) == []
    monkeypatch.delenv(variable[0])
    for _ in range(3):
        call(graphs, clip(4))
    assert happened(machine) == ["capture", "replay"]
    monkeypatch.setenv(*variable)
    call(graphs, clip(4))
    assert happened(machine) == []


def test_deterministic_mode_and_subclasses_of_tensors_run_without(machine: Machine) -> None:
    graphs = Graphs(machine)
    torch.use_deterministic_algorithms(True)
    try:
        for _ in range(4):
            call(graphs, clip(4))
    finally:
        torch.use_deterministic_algorithms(False)
    for _ in range(4):
        call(graphs, torch.nn.Parameter(clip(4), requires_grad=False))
    assert happened(machine) == []


@pytest.mark.parametrize("modes", list(itertools.product([torch.no_grad, torch.inference_mode], repeat=2)))
def test_captured_in_one_mode_replayed_in_another(machine: Machine, modes: tuple[Any, Any]) -> None:
    graphs = Graphs(machine)
    for mode in (modes[0], modes[0], modes[1], modes[0]):
        with mode():
            y = call(graphs, clip(4))["a"]
        assert y.is_inference() == (mode is torch.inference_mode)
    assert happened(machine) == ["capture", "replay", "replay"]


def test_threads(machine: Machine) -> None:
    graphs, other = Graphs(machine, max_graphs=2), Graphs(machine, max_graphs=2)
    barrier = threading.Barrier(4)

    def work(i: int) -> None:
        barrier.wait()
        for n in range(60):
            call((graphs, other)[i % 2], clip(1 + n // 10 % 3, seed=i))

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
    order = [entry for entry in machine.log if entry != "capture"]
    assert order == ["wait", "replay", "record"] * (len(order) // 3)
    assert len(order) > 3 * 60


def test_work_of_several_threads_runs_at_the_same_time(machine: Machine) -> None:
    """Nobody waits for a run that is neither captured nor replayed."""
    graphs = Graphs(machine)
    both = threading.Barrier(2, timeout=PATIENCE)

    def meet(x: Tensor, wanted: set[str], dtype: torch.dtype) -> Maps:
        both.wait()
        return double(x, wanted, dtype)

    with ThreadPoolExecutor(2) as pool:
        for future in [pool.submit(graphs.run, meet, clip(n), {"a"}, HALF) for n in (1, 2)]:
            future.result()


def test_pools_end_with_their_last_graph(machine: Machine) -> None:
    first, second = Graphs(machine), Graphs(machine)
    for graphs, frames in itertools.product((first, second), (4, 5)):
        for _ in range(2):
            call(graphs, clip(frames))
    assert machine.pools == [0]
    captured = weakref.ref(next(iter(first._graphs.values()))[1])
    del first, graphs
    assert captured() is None, "freed at once, not by the garbage collector"
    third = Graphs(machine)
    for _ in range(2):
        call(third, clip(4))
    assert machine.pools == [0]
    del second, third
    assert machine.held() == {}
    fourth = Graphs(machine)
    for _ in range(2):
        call(fourth, clip(4))
    assert machine.pools == [0, 1]


def test_plans_of_other_kernels_have_none() -> None:
    assert plan.Plan(graph_of(make_i3d()), torch.float32, torch.device("cpu")).graphs is None


@pytest.fixture
def everywhere(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> Machine:
    """Gives every new plan graphs of the stand-in."""
    init = plan.Plan.__init__

    def with_graphs(self: plan.Plan, *args: Any) -> None:
        init(self, *args)
        self.graphs = Graphs(machine)

    monkeypatch.setattr(plan.Plan, "__init__", with_graphs)
    return machine


def test_a_network_with_graphs(everywhere: Machine) -> None:
    model, x = make_i3d(), random_clip(*SMALL)
    names = ["Conv3d_1a_7x7", "Conv3d_2b_1x1"]

    def run() -> list[Tensor]:
        with torch.no_grad():
            return list(model.forward_endpoints(x, names).values())

    def same(first: list[Tensor], second: list[Tensor]) -> bool:
        return all(torch.equal(a, b) and a.stride() == b.stride() for a, b in zip(first, second, strict=True))

    results = [run() for _ in range(4)]
    assert happened(everywhere) == ["capture", "replay", "replay"]
    assert all(same(results[0], other) for other in results[1:])
    assert everywhere.held()
    with torch.no_grad():
        model.Conv3d_2b_1x1.bn.bias.add_(1)
    changed = [run() for _ in range(3)]
    assert happened(everywhere) == ["capture", "replay"]
    assert same(changed[0], changed[2])
    assert not same(changed[0], results[0])
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert other._plan is None
    model._plan = None
    model._plans.clear()
    gc.collect()  # what stands in for a graph runs the plan, and so refers to it
    assert everywhere.held() == {}
