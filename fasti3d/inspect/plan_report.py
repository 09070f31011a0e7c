"""What a plan does with clips of a shape: its steps, their arithmetic and traffic, and its memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from fasti3d import network, reference
from fasti3d.engine.cost import flop, values
from fasti3d.engine.describe import inception
from fasti3d.engine.describe.parts import MismatchError
from fasti3d.engine.graph import Graph, Node, Shapes, shapes, without_values
from fasti3d.engine.plan import Plan
from fasti3d.fused import FusedNetwork
from fasti3d.fusion.planned import graph_of
from fasti3d.i3d import I3D
from fasti3d.inputs import check_clip
from fasti3d.inspect.roofline import Chip, floor_seconds
from fasti3d.ops.conv3d_bn_relu.packed import PackedConv3d
from fasti3d.runtime.route import Route, route


@dataclass(frozen=True)
class StepReport:
    """A step of a plan.

    Attributes:
        name: its part of the network, or two joined by a plus.
        shape: of the map that it writes, (N, C, T, H, W).
        flop: two per multiplication of the convolutions, those with padding included.
        values: read and written by its kernels, weights included: each kernel its input and its
            output once, but not what stays in the cache between two of them.
        forms: of its convolutions, each once: ``direct``, or ``F(4,2,2)`` for minimal filters with tiles
            of 4x2x2 outputs along t, h and w; ``direct/slab`` where a table of ``fasti3d tune``, or a race at
            first use, decides between a direct form and slabs.
    """

    name: str
    shape: tuple[int, ...]
    flop: int
    values: int
    forms: tuple[str, ...]


@dataclass(frozen=True)
class RewriteReport:
    """What a rewrite of the graph changed.

    Attributes:
        name: what it does.
        nodes: how many nodes are left.
        values: what these read and write, as for `StepReport`.
    """

    name: str
    nodes: int
    values: int


@dataclass(frozen=True)
class PlanReport:
    """What a plan does with clips of one shape.

    Attributes:
        route: the path that runs, and why.
        steps: in order; the head (average, classifier) is the last.
        rewrites: the graph as it is described, then after each rewrite.
        arena_bytes: the block that holds all maps but the clip and the logits.
        graph_arena_bytes: the same in a CUDA graph, where maps of steps beside each other share no memory;
            None where there are no graphs.
        weight_bytes: packed weights, kept from call to call.
    """

    route: Route
    steps: tuple[StepReport, ...]
    rewrites: tuple[RewriteReport, ...]
    arena_bytes: int
    graph_arena_bytes: int | None
    weight_bytes: int

    @property
    def flop(self) -> int:
        return sum(step.flop for step in self.steps)

    @property
    def moved_bytes(self) -> int:
        """In the dtype that the plan computes in."""
        return self.route.compute_dtype.itemsize * sum(step.values for step in self.steps)

    def floor_seconds(self, chip: Chip) -> float:
        """The least time of the whole pass in half precision, step by step."""
        return sum(floor_seconds(step.flop, 2 * step.values, chip) for step in self.steps)


def report_plan(
    shape: Sequence[int], dtype: torch.dtype, device: torch.device, num_classes: int = 400
) -> PlanReport:
    """Plans eval-mode clips (N, 3 or 2, T, H, W) of I3D up to the logits; nothing is computed.

    Raises:
        ValueError: a shape that the network does not take.
    """
    channels = shape[1] if len(shape) == 5 and shape[1] in (2, 3) else 3
    return plan(I3D(num_classes, channels).eval().to(device), shape, dtype)


def plan(module: nn.Module, shape: Sequence[int], dtype: torch.dtype | None = None) -> PlanReport:
    """Plans a network for clips of a shape; nothing is computed.

    Args:
        module: an `I3D`, an `I3DResNet`, one of ``fasti3d.compat``, or any network that `fuse` can plan, in
            eval mode.
        shape: of the clips, (N, C, T, H, W).
        dtype: of the clips; that of the network's weights if None.

    Returns:
        Steps with their arithmetic and traffic, what each rewrite of the graph changed, and the memory of
        maps and weights.

    Raises:
        ValueError: a network that cannot be planned, and why, or a shape that it does not take.

    Example:
        >>> report = fasti3d.plan(fasti3d.I3D().eval(), (1, 3, 16, 224, 224))
        >>> report.arena_bytes < 20e6
        True
    """
    like = next(
        (t for t in (*module.parameters(), *module.buffers()) if t.is_floating_point()), torch.empty(0)
    )
    dtype = dtype or like.dtype
    if isinstance(module, reference.I3D):
        clip = torch.empty(tuple(shape), dtype=dtype, device="meta")
        check_clip(clip, module.in_channels, None, window=network.HEAD_POOL)
        try:
            graph = inception.graph_of(module)
        except MismatchError as why:
            raise ValueError(f"module cannot be planned: {why}") from None
        return _report(graph, ["Logits"], shape, dtype, like.device, {})
    if isinstance(module, FusedNetwork):
        check_clip(torch.empty(tuple(shape), dtype=dtype, device="meta"), None, None)
        try:
            graph = module.graph()
        except MismatchError as why:
            raise ValueError(f"module cannot be planned: {why}") from None
        return _report(graph, ["Logits"], shape, dtype, like.device, {})
    for name, part in module.named_modules():
        if part.training:
            raise ValueError(
                f"module must be in eval mode, but {name or 'it'} is in training mode: call module.eval()"
            )
    lowered, why_not = graph_of(module, shape, dtype, str(like.device))
    if lowered is None:
        raise ValueError(f"module cannot be planned as a whole: {why_not}")
    return _report(lowered.graph, list(lowered.graph.names), shape, dtype, like.device, lowered.shapes)


def _report(
    graph: Graph,
    wanted: list[str],
    shape: Sequence[int],
    dtype: torch.dtype,
    device: torch.device,
    opaque: Shapes,
) -> PlanReport:
    chosen = route(device, dtype)
    made = Plan(graph, chosen.compute_dtype, device)
    layout = made.layout(shape, wanted, opaque)
    nodes = [placed.step.node for placed in layout.steps]
    forms = {
        placed.step.node.writes[-1]: [
            conv.form for conv in placed.step.convs if isinstance(conv, PackedConv3d)
        ]
        for placed in layout.steps
    }
    parts = _parts(nodes, made.graph.names, wanted)
    steps = tuple(_step(name, part, layout.shapes, forms) for name, part in parts)
    return PlanReport(
        chosen,
        steps,
        tuple(_rewrites(made, without_values(graph), wanted, shape, opaque)),
        layout.nbytes,
        made.layout(shape, wanted, in_graph=True).nbytes if made.graphs else None,
        made.weight_bytes(wanted),
    )


def _parts(
    nodes: Sequence[Node], names: Mapping[str, int], wanted: Sequence[str]
) -> Iterator[tuple[str, list[Node]]]:
    """The nodes up to each endpoint that is computed, with its name and those of endpoints that are not; each
    node by itself if a network names its outputs alone.
    """
    if set(names) == set(wanted):
        yield from ((node.name, [node]) for node in nodes)
        return
    waiting, part = list(names.items()), []
    for node in nodes:
        part.append(node)
        count = 1 + max((i for i, (_, value) in enumerate(waiting) if value in node.writes), default=-1)
        if count == 0:
            continue
        unwritten = [name for name, value in waiting[:count] if value not in node.writes]
        written = [name for name, value in waiting[:count] if value in node.writes]
        # Of what one node writes the last that is wanted.
        last = ([name for name in written if name in wanted] or written)[-1]
        yield " + ".join([*unwritten, last]), part
        waiting, part = waiting[count:], []


def _step(name: str, nodes: Sequence[Node], of: Shapes, forms: Mapping[int, Sequence[str]]) -> StepReport:
    work, moved = sum(flop(node, of) for node in nodes), sum(values(node, of) for node in nodes)
    found = dict.fromkeys(form for node in nodes for form in forms[node.writes[-1]])
    return StepReport(name, of[nodes[-1].writes[-1]], work, moved, tuple(found))


def _rewrites(
    made: Plan, graph: Graph, wanted: Sequence[str], shape: Sequence[int], opaque: Shapes
) -> Iterator[RewriteReport]:
    for name, rewritten in made.rewrites(graph, wanted):
        of = shapes(rewritten, shape, opaque)
        moved = sum(values(node, of) for node in rewritten.nodes)
        yield RewriteReport(name, len(rewritten.nodes), moved)
