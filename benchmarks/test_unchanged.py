"""What every call of an unchanged model costs before its first kernel: the check that it still is one."""

from __future__ import annotations

import torch
from pytest_benchmark.fixture import BenchmarkFixture

from fasti3d import I3D, network
from fasti3d.engine.describe.inception import describe, watch

NAMES = tuple(network.TRUNK)


def test_check(benchmark: BenchmarkFixture) -> None:
    held = watch(I3D().eval(), NAMES)
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
