"""Which memory steps share, in the cases that random graphs seldom draw."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from fasti3d.engine.graph import Add, Concat, Conv, Graph, Node, Norm, Opaque, Relu
from fasti3d.engine.plan import Plan
from fasti3d.engine.replay import replay

ONE, NONE = (1, 1, 1), (0, 0, 0)
SHAPE = (1, 16, 2, 3, 4)
_generator = torch.Generator().manual_seed(0)


def conv(out: int, x: int, channels: int = 16, *, relu: bool = False) -> Conv:
    weight = torch.randn(channels, 16, 1, 1, 1, generator=_generator) / 4
    return Conv(out, x, weight, torch.randn(channels, generator=_generator), ONE, NONE, relu=relu)


# The last node is what is asked for. A sum could take the place of its residual in some, but not in others.
SUMS: dict[str, list[Node]] = {
    "a residual that nothing reads later": [conv(1, 0), conv(2, 1), conv(3, 2), Add(4, 3, 1)],
    "a residual that is read later": [conv(1, 0), conv(2, 1), conv(3, 2), Add(4, 3, 1), Concat(5, (4, 1))],
    "a residual of which a view is read later": [
        conv(1, 0),
        Opaque(2, (1,), lambda y: y[:, :, :1]),
        conv(3, 0),
        Add(4, 3, 1),
        Opaque(5, (4, 2), lambda y, view: y + view),
    ],
    "a residual of which a branch is read later": [
        conv(1, 0, 8),
        conv(2, 0, 8),
        Concat(3, (1, 2)),
        conv(4, 0),
        Add(5, 4, 3),
        Concat(6, (5, 1)),
    ],
    "a residual that the convolution reads": [conv(1, 0), conv(2, 1), Add(3, 1, 2), conv(4, 3)],
    "the clip as a residual": [conv(1, 0), Add(2, 0, 1)],
    "a sum of a map and itself": [conv(1, 0), Add(2, 1, 1)],
    "sums of sums": [conv(1, 0), conv(2, 1), conv(3, 2), Add(4, 2, 3), Add(5, 4, 1), Relu(6, 5)],
}


@pytest.mark.parametrize("what", SUMS)
def test_sums(what: str) -> None:
    nodes = SUMS[what]
    graph = Graph(tuple(nodes), {"sum": nodes[-1].out})
    x = torch.randn(SHAPE, generator=torch.Generator().manual_seed(1))
    opaque = {node.out: SHAPE for node in nodes if isinstance(node, Opaque)}
    plan = Plan(graph, torch.float32, x.device)
    layout = plan.layout(SHAPE, ["sum"], opaque)
    block = torch.full((layout.nbytes // 4,), torch.nan)
    keep: Callable[[Tensor], Tensor] = torch.clone
    x = x.contiguous(memory_format=torch.channels_last_3d)
    found = layout.run({0: x}, block, keep)["sum"]
    torch.testing.assert_close(found, replay(graph, x)["sum"], rtol=1e-5, atol=1e-5)


def test_a_residual_that_nothing_reads_later_is_where_the_sum_is() -> None:
    nodes = SUMS["a residual that nothing reads later"]
    plan = Plan(Graph(tuple(nodes), {"sum": 4}), torch.float32, torch.device("cpu"))
    first, _, third = plan.layout(SHAPE, ["sum"]).steps
    assert first.written[1] == third.written[4]


def test_a_batch_norm_after_a_relu_is_not_folded() -> None:
    mean, var = torch.full((16,), 0.5), torch.full((16,), 2.0)
    graph = Graph((conv(1, 0, relu=True), Norm(2, 1, mean, var, None, None, 1e-5)), {"y": 2})
    x = torch.randn(SHAPE, generator=torch.Generator().manual_seed(1))
    found = Plan(graph, torch.float32, x.device).compute(x, {"y"}, torch.float32)["y"]
    torch.testing.assert_close(found, replay(graph, x)["y"], rtol=1e-5, atol=1e-5)
