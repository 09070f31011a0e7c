"""Frames that a pool steps over are not computed, and nothing else changes."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from fasti3d.engine.graph import Conv, ConvPool, Graph, Pool, shapes
from fasti3d.engine.plan import Plan
from fasti3d.engine.replay import replay
from fasti3d.engine.rewrite import skip_frames

CPU = torch.device("cpu")


def graph(stride: int = 2, by: int = 2) -> Graph:
    weight = torch.randn(16, 3, 5, 3, 3, generator=torch.Generator().manual_seed(0)) / 10
    conv = Conv(1, 0, weight, None, (stride, 2, 2), (2, 1, 1), relu=True)
    return Graph((conv, Pool(2, 1, (1, 3, 3), (by, 2, 2), (0, 1, 1))), {"conv": 1, "pool": 2})


def clip(frames: int) -> torch.Tensor:
    return torch.randn(1, 3, frames, 17, 18, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("frames", [1, 2, 7, 8, 9, 12, 13])
@pytest.mark.parametrize(("stride", "by"), [(2, 2), (1, 3), (1, 2)])
def test_the_result_is_the_same(stride: int, by: int, frames: int) -> None:
    its = graph(stride, by).only(["pool"])
    changed = skip_frames(its)
    (conv, pool) = changed.nodes
    assert isinstance(conv, Conv)
    assert isinstance(pool, Pool)
    assert (conv.stride, pool.stride) == ((stride * by, 2, 2), (1, 2, 2))
    x = clip(frames)
    expected = replay(its, x)["pool"]
    assert shapes(changed, x.shape)[2] == expected.shape
    torch.testing.assert_close(replay(changed, x)["pool"], expected, rtol=1e-5, atol=1e-6)


def unchanged() -> dict[str, Graph]:
    conv, pool = graph().nodes
    assert isinstance(conv, Conv)
    assert isinstance(pool, Pool)
    alone = graph().only(["pool"])
    return {
        "is asked for": graph(),
        "is read twice": replace(alone, nodes=(*alone.nodes, Pool(3, 1, *(((1, 1, 1),) * 2), (0, 0, 0)))),
        "SAME": alone.with_nodes([replace(conv, padding=None), pool]),
        "a window of frames": alone.with_nodes([conv, replace(pool, kernel=(2, 3, 3))]),
        "padding in time": alone.with_nodes([conv, replace(pool, kernel=(3, 3, 3), padding=(1, 1, 1))]),
        "with a residual": alone.with_nodes([replace(conv, residual=0), pool]),
    }


@pytest.mark.parametrize("name", unchanged())
def test_where_frames_are_needed_nothing_changes(name: str) -> None:
    its = unchanged()[name]
    assert skip_frames(its).nodes == its.nodes


def test_a_plan_computes_them_only_where_they_are_asked_for() -> None:
    its, x = graph(), clip(12)
    plan = Plan(its, torch.float32, CPU)
    with torch.no_grad():
        exact = replay(its, x)
        for wanted, node in (({"pool"}, ConvPool), ({"pool", "conv"}, Conv)):
            schedule, _ = plan.schedule(frozenset(wanted))
            assert type(schedule.nodes[0]) is node
            found = plan.compute(x, set(wanted), torch.float32)
            for name in wanted:
                torch.testing.assert_close(found[name], exact[name], rtol=1e-5, atol=1e-6)
