"""What every call of an unchanged model costs before its first kernel: the check that it still is one."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor

from fasti3d import I3D, network
from fasti3d.engine.describe.inception import describe, watch
from fasti3d.engine.plan import InGraph

NAMES = tuple(network.TRUNK)


def test_check(benchmark: BenchmarkFixture) -> None:
    model = I3D().eval()
    held = watch(model, NAMES)
    benchmark.group = "unchanged model"
    benchmark.extra_info |= {"candidate": "fasti3d", "case": "check of its parts"}
    assert benchmark.pedantic(held.holds, rounds=50, iterations=20, warmup_rounds=3)


def test_description(benchmark: BenchmarkFixture) -> None:
    """What the check stands for: made again when something changed."""
    model = I3D().eval()
    benchmark.group = "unchanged model"
    benchmark.extra_info |= {"candidate": "fasti3d", "case": "description"}
    assert benchmark.pedantic(describe, args=(model, NAMES), rounds=20).names


def test_layout(benchmark: BenchmarkFixture) -> None:
    model = I3D().eval()
    with torch.no_grad():
        plan = model.current_plan(torch.empty(0), torch.float32)
    assert plan is not None
    benchmark.group = "unchanged model"
    benchmark.extra_info |= {"candidate": "fasti3d", "case": "layout of a shape that came before"}
    args = ((1, 3, 16, 224, 224), ("Logits",))
    assert benchmark.pedantic(plan.layout, args=args, rounds=50, iterations=20, warmup_rounds=3).nbytes


@pytest.fixture
def stubbed() -> Iterator[tuple[I3D, Tensor]]:
    """A network that has a CUDA graph, on a machine whose kernels do nothing, and its clip."""
    from benchmarks.stub_gpu import h200

    with h200(), torch.no_grad():
        model, x = I3D().eval().half(), torch.zeros(1, 3, 16, 224, 224, dtype=torch.float16)
        # Until no replay is compared any more.
        for _ in range(6):
            model(x)
        yield model, x


@pytest.mark.parametrize("case", ["a call from a graph", "its graph", "its clip into the graph"])
def test_replay(case: str, stubbed: tuple[I3D, Tensor], benchmark: BenchmarkFixture) -> None:
    """Python's time from the call of a model to its result, without what a GPU or its driver does."""
    model, x = stubbed
    plan = model.current_plan(x, x.dtype)
    assert plan is not None
    assert plan.folding is not None
    memory = plan.folding.new_cells(x)
    calls: dict[str, Callable[[], object]] = {
        "a call from a graph": lambda: model(x),
        "its graph": lambda: plan.run(x, {"Logits"}, x.dtype),
        "its clip into the graph": lambda: InGraph(plan).enter(x, memory, x.dtype),
    }
    benchmark.group = "unchanged model"
    benchmark.extra_info |= {"candidate": "fasti3d", "case": case}
    benchmark.pedantic(calls[case], rounds=200, iterations=5, warmup_rounds=3)


def test_launches(
    stubbed: tuple[I3D, Tensor], benchmark: BenchmarkFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same without a graph: what some 60 launches cost."""
    model, x = stubbed
    monkeypatch.setenv("FASTI3D_CUDA_GRAPHS", "0")
    benchmark.group = "unchanged model"
    benchmark.extra_info |= {"candidate": "fasti3d", "case": "a call without a graph"}
    benchmark.pedantic(model, args=(x,), rounds=20, warmup_rounds=2)
