"""A network of ``fasti3d.fuse`` in one pass over a whole video: cut where all of it goes through one map."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from functools import partial

from torch import Tensor, nn

from fasti3d.dense.stages import Workspace, stage
from fasti3d.engine.graph import shapes
from fasti3d.engine.temporal import check_local, field
from fasti3d.fusion.planned import Planned
from fasti3d.fusion.program import Ref


def is_fused(model: object) -> bool:
    """Whether a model is a network that ``fasti3d.fuse`` traced as a whole."""
    return isinstance(model, nn.Module) and isinstance(vars(model).get("forward"), Planned)


def staged_fused(model: nn.Module, pieces: Iterable[Tensor], total: int) -> Iterator[Tensor]:
    """The one map that a fused network returns for clips of ``total`` frames, given as pieces (N, C, t, H, W)
    of them, in pieces. What it yields is overwritten by the next.

    Raises:
        ValueError: the network cannot be planned, returns something else than one map, or has a part that
            reads all frames at once, and which.
    """
    pieces = iter(pieces)
    first = next(pieces, None)
    if first is None:
        return
    n, c, _, h, w = first.shape
    planned: Planned = vars(model)["forward"]
    # Of the whole clip nothing but the shape is looked at.
    run = planned.run_for(first.new_empty(1).expand(n, c, total, h, w))
    if isinstance(run, str):
        raise ValueError(f"model cannot be computed piece by piece: {run}")
    plan = run.plan
    if not isinstance(run.output, Ref) or len(plan.graph.names) != 1:
        raise ValueError("model must return one map (N, C, T, H, W) to be computed piece by piece")
    (output,) = plan.graph.names
    graph, _ = plan.schedule(frozenset((output,)))
    check_local(graph)
    of = shapes(graph, (n, c, total, h, w))
    workspace = Workspace(plan.dtype, first.device)
    staged: Iterator[Tensor] = itertools.chain([first], pieces)
    segments = plan.chain(output)
    for i, segment in enumerate(segments):
        (value,) = segment.graph.names.values()
        result = first.dtype if i == len(segments) - 1 else plan.dtype
        work: Callable[[Tensor], Tensor] = partial(workspace.run, segment, result)
        found = field(segment.graph, value, of)
        staged = stage(staged, work, workspace.join, found, of[segment.graph.input][2], of[value][2])
    yield from staged
