"""The steps of the network's plan on a GPU, each by itself on what it reads in a pass."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from benchmarks import peers
from fasti3d import I3D
from fasti3d.engine.place import Arena
from fasti3d.engine.plan import Plan
from fasti3d.inspect.plan_report import StepReport, report_plan
from fasti3d.ops.i3d_head.op import i3d_head


class PlannedStep(NamedTuple):
    """A step, and a call that runs it; the last one's gives features and logits."""

    report: StepReport
    run: Callable[[], Tensor | tuple[Tensor, Tensor]]


def planned_steps(case: peers.Case) -> list[PlannedStep]:
    """Of the plan of the case's clip; runs each once."""
    model = I3D().eval().requires_grad_(False)
    model.load_state_dict(peers.random_reference().state_dict())
    plan = Plan(model.to(case.device), case.dtype)
    reports = report_plan(case.shape, case.dtype, torch.device(case.device)).steps
    found = []
    x = peers.clip(case)
    for (_, step), report in zip(plan.choose({"Logits"}), reports[:-1], strict=True):
        measured = Arena(case.dtype, x.device)
        step(x.to("meta"), measured)

        def run(
            step: Callable[[Tensor, Arena], Tensor] = step, x: Tensor = x, peak: int = measured.peak
        ) -> Tensor:
            return step(x, Arena(x.dtype, x.device, peak))

        found.append(PlannedStep(report, run))
        x = run().clone()
    assert plan.classifier is not None
    return [*found, PlannedStep(reports[-1], functools.partial(i3d_head, x, *plan.classifier))]
