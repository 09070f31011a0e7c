"""The steps of the network's plan on a GPU, each by itself on what it reads in a pass."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from benchmarks import peers
from fasti3d.engine.describe.inception import graph_of
from fasti3d.engine.graph import Head
from fasti3d.engine.plan import Plan
from fasti3d.inspect.plan_report import StepReport, report_plan
from fasti3d.ops.i3d_head.op import i3d_head


class PlannedStep(NamedTuple):
    """A step, and a call that runs it; the last one's gives features and logits."""

    report: StepReport
    run: Callable[[], Tensor | tuple[Tensor, Tensor]]


def planned_steps(case: peers.Case) -> list[PlannedStep]:
    """Of the plan of the case's clip; runs each once."""
    plan = Plan(graph_of(peers.our_network().to(case.device)), case.dtype, torch.device(case.device))
    reports = report_plan(case.shape, case.dtype, torch.device(case.device)).steps
    found = []
    x = peers.clip(case)
    for (_, segment), report in zip(plan.segments("Mixed_5c"), reports[:-1], strict=True):
        layout = segment.layout(x.shape)
        block = torch.empty(layout.nbytes, dtype=torch.uint8, device=x.device).view(case.dtype)
        run = functools.partial(segment.run, x, layout, block)
        found.append(PlannedStep(report, run))
        x = run().clone()
    head = plan.graph.writers[plan.graph.names["Logits"]]
    assert isinstance(head, Head)
    return [*found, PlannedStep(reports[-1], functools.partial(i3d_head, x, head.weight, head.bias))]
