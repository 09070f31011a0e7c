"""Proves every kernel that the network launches on a GPU, even if it is known."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch

from fasti3d.engine.cuda_graphs import RUNS_TO_PROVE
from fasti3d.engine.describe.inception import graph_of
from fasti3d.engine.layout import ONE_LANE
from fasti3d.engine.plan import InGraph, Plan
from fasti3d.flow.params import PRESETS
from fasti3d.flow.solve import subject
from fasti3d.i3d import I3D
from fasti3d.ops.tvl1 import has_kernel
from fasti3d.proof.guard import collected, guard_of
from fasti3d.proof.subject import Subject
from fasti3d.proof.verdicts import Verdict
from fasti3d.runtime import gpu

SHAPES = ((1, 3, 64, 224, 224), (8, 3, 64, 224, 224), (1, 2, 64, 224, 224))


def subjects(device: torch.device, shapes: Sequence[tuple[int, ...]] = SHAPES) -> list[Subject]:
    """The kernels of clips of these shapes in each dtype, from floats and from bytes, and TV-L1."""
    found: dict[str, Subject] = {}
    for shape in shapes:
        for dtype in gpu.DTYPES:
            if gpu.why_not(device, dtype):
                continue
            plan = Plan(graph_of(I3D(400, shape[1]).eval().to(device)), dtype, device)
            for kind in (dtype, torch.uint8)[: 2 if shape[1] == 3 else 1]:
                x = torch.zeros(shape, dtype=kind, device=device)
                with torch.no_grad(), collected() as its:
                    plan.compute(x, {"Logits"}, dtype)
                    inside = InGraph(plan)
                    memory = inside.memory(x)
                    inside.enter(x, memory, dtype)
                    inside.compute(memory, x.shape, {"Logits"}, dtype, ONE_LANE)
                found |= its
    if has_kernel(device):
        found |= {its.key: its for its in map(subject, PRESETS.values())}
    return list(found.values())


def graph_verdicts(
    device: torch.device, shapes: Sequence[tuple[int, ...]] = SHAPES, dtype: torch.dtype = torch.float16
) -> Iterator[Verdict]:
    """Of the CUDA graph of clips of each shape, where there is one: replays against runs without it."""
    for shape in shapes:
        if gpu.why_not(device, dtype):
            continue
        plan = Plan(graph_of(I3D(400, shape[1]).eval().to(device)), dtype, device)
        assert plan.graphs is not None
        x = torch.rand(shape, device=device).mul_(2).sub_(1).to(dtype)
        with torch.no_grad():
            for _ in range(RUNS_TO_PROVE):
                plan.run(x, {"Logits"}, dtype)
        its = Subject.of("graph", f"the CUDA graph of {'x'.join(map(str, shape))}")
        if plan.graphs.wrong(device):
            yield Verdict.on(its, "wrong", "it could not be captured as it is, or replayed otherwise")
        elif plan.graphs.nbytes:
            yield Verdict.on(its, "good")


def prove_all(
    device: torch.device, progress: Callable[[float, float | None], None] | None = None
) -> Iterator[Verdict]:
    """Prove each kernel, except those that do not fit into the GPU's memory, then the CUDA graphs of them.

    Args:
        device: a CUDA GPU.
        progress: called with the number done and in total.
    """
    found = subjects(device)
    for done, its in enumerate(found):
        if progress:
            progress(done, len(found))
        if verdict := guard_of(device).prove(its):
            yield verdict
    yield from graph_verdicts(device)
