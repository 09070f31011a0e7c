"""What a plan does with clips of a shape: its steps, their arithmetic and traffic, and its memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from fasti3d import network
from fasti3d.engine.gpu_steps import GpuMixedStep
from fasti3d.engine.layers import Layer, layers
from fasti3d.engine.plan import Plan
from fasti3d.engine.steps import ConvPoolStep
from fasti3d.i3d import I3D
from fasti3d.inputs import check_clip
from fasti3d.inspect.roofline import Chip, floor_seconds
from fasti3d.runtime.route import Route, route


@dataclass(frozen=True)
class StepReport:
    """A step of a plan.

    Attributes:
        name: its part of the network, or two joined by a plus.
        shape: of the map that it writes, (N, C, T, H, W).
        flop: two a multiplication of the convolutions, those with padding included.
        values: read and written by its kernels, weights included: each kernel its input and its
            output once, but not what stays in the cache between two of them.
    """

    name: str
    shape: tuple[int, ...]
    flop: int
    values: int


@dataclass(frozen=True)
class PlanReport:
    """What a plan does with clips of one shape.

    Attributes:
        route: the path that runs, and why.
        steps: in order; the head (average, classifier) is the last.
        arena_bytes: the block that holds all maps but the clip and the logits.
        weight_bytes: packed weights, kept from call to call.
    """

    route: Route
    steps: tuple[StepReport, ...]
    arena_bytes: int
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
    """Plans eval-mode clips (N, 3 or 2, T, H, W) up to the logits; nothing is computed.

    Raises:
        ValueError: a shape that the network does not take.
    """
    channels = shape[1] if len(shape) == 5 and shape[1] in (2, 3) else 3
    clip = torch.empty(tuple(shape), dtype=dtype, device="meta")
    check_clip(clip, channels, None, window=network.HEAD_POOL)
    chosen = route(device, dtype)
    plan = Plan(I3D(num_classes, channels).eval().to(device), chosen.compute_dtype)
    maps, arena_bytes = plan.measure(clip.shape, {"Logits"}, device)
    parts: dict[str, list[Layer]] = {}
    for layer in layers(channels, clip.shape[2:], num_classes):
        parts.setdefault(layer.name.split(".")[0], []).append(layer)

    # The part that a step does before the pool it is named by.
    before = {pool: name for name, (pool, _) in plan.joint.items()}
    steps = []
    for (name, step), written in zip(plan.choose({"Logits"}), maps, strict=True):
        joint = [before[name]] if step is not plan.steps[name] else []
        work = [layer for part in (*joint, name) for layer in parts[part]]
        # These go to the next kernel piece by piece, in the cache.
        cached = [layer for layer in work if layer.name.endswith(".b3a")]
        cached += work[:1] if isinstance(step, ConvPoolStep) else []
        # These are one kernel with the one before them, which has read their input.
        merged = [layer for layer in work if layer.name.endswith((".b1a", ".b2a"))]
        merged = merged if isinstance(step, GpuMixedStep) else []
        steps.append(_step(" + ".join((*joint, name)), written, work, cached, merged))
    (head,) = parts["logits"]
    logits = torch.Size((clip.shape[0], num_classes))
    # It reads the map itself: the average is no pass of its own.
    values = maps[-1].numel() + logits.numel() + head.weights
    steps.append(StepReport("Logits", tuple(logits), clip.shape[0] * head.flop, values))
    weights = sum(conv.nbytes for _, step in plan.choose({"Logits"}) for conv in step.convs)
    return PlanReport(chosen, tuple(steps), arena_bytes, weights)


def _step(
    name: str, shape: Sequence[int], work: list[Layer], cached: list[Layer], merged: list[Layer]
) -> StepReport:
    clips = shape[0]
    values = sum(layer.elements for layer in work) - 2 * sum(layer.out_elements for layer in cached)
    values -= sum(layer.elements - layer.out_elements for layer in merged)
    return StepReport(
        name,
        tuple(shape),
        clips * sum(layer.flop for layer in work),
        clips * values + sum(layer.weights for layer in work),
    )
