"""``fasti3d::planned``: a graph as one operator that compilers and exporters put into theirs."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fasti3d.engine.code import decode
from fasti3d.engine.describe.description import Description
from fasti3d.engine.graph import Graph, shapes
from fasti3d.engine.plan import Plan
from fasti3d.engine.replay import replay
from fasti3d.inputs import as_floats
from fasti3d.ops.fingerprint import fingerprint
from fasti3d.ops.registry import operator
from fasti3d.runtime.route import compute_dtype
from fasti3d.utils.derived import DerivedCaches, memory_of

# By the first tensor.
_plans: DerivedCaches[Plan] = DerivedCaches()


def planned(described: Description, x: Tensor, wanted: set[str], dtype: torch.dtype) -> dict[str, Tensor]:
    """The wanted endpoints of a clip in ``dtype``, of a description that knows them."""
    code, names = described.coded()
    order = [i for i, name in enumerate(names) if name in wanted]
    maps = torch.ops.fasti3d.planned(
        x, code.tensors, code.numbers, code.floats, list(names.values()), order, dtype
    )
    found = [name for name in names if name in wanted]
    return dict(zip(found, maps, strict=True))


def _graph(tensors: list[Tensor], code: list[int], floats: list[float], values: list[int]) -> Graph:
    return decode(code, tensors, floats, {str(i): value for i, value in enumerate(values)})


def _plan(
    tensors: list[Tensor],
    code: list[int],
    floats: list[float],
    values: list[int],
    device: torch.device,
    dtype: torch.dtype,
) -> Plan:
    """The plan for the weights as they are now."""

    def make() -> Plan:
        return Plan(_graph(tensors, code, floats, values), dtype, device)

    if device.type != "cpu" and any(t.is_inference() for t in tensors):
        return make()  # without version counters an edit could not be seen
    key = (tuple(code), tuple(floats), tuple(values), device, dtype, fingerprint(tensors))
    return _plans.of(tensors[0]).get(key, make, lambda: memory_of(tensors))


def _planned(
    x: Tensor,
    tensors: list[Tensor],
    code: list[int],
    floats: list[float],
    values: list[int],
    wanted: list[int],
    dtype: torch.dtype,
) -> list[Tensor]:
    with torch.no_grad(), torch.autocast(x.device.type, enabled=False):
        plan = _plan(tensors, code, floats, values, x.device, compute_dtype(x.device, dtype))
        found = plan.run(x, {str(i) for i in wanted}, dtype)
        return [found[str(i)] for i in wanted]


def _fake(
    x: Tensor,
    tensors: list[Tensor],
    code: list[int],
    floats: list[float],
    values: list[int],
    wanted: list[int],
    dtype: torch.dtype,
) -> list[Tensor]:
    names = [str(i) for i in wanted]
    graph = _graph(tensors, code, floats, values).only(names)
    of = shapes(graph, x.shape)
    layouts = {5: torch.channels_last_3d}
    return [
        torch.empty(
            of[graph.names[name]],
            dtype=dtype,
            device=x.device,
            memory_format=layouts.get(len(of[graph.names[name]]), torch.contiguous_format),
        )
        for name in names
    ]


def planned_reference(
    x: Tensor,
    tensors: list[Tensor],
    code: list[int],
    floats: list[float],
    values: list[int],
    wanted: list[int],
    dtype: torch.dtype,
) -> list[Tensor]:
    """The operator in plain PyTorch, computed in ``dtype``."""
    names = [str(i) for i in wanted]
    graph = _graph(tensors, code, floats, values).only(names)
    maps = replay(graph, as_floats(x, dtype, graph.scaling))
    return [maps[name] for name in names]


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: list[Tensor]) -> None:
    x, tensors, *ctx.structure, ctx.wanted, ctx.dtype = inputs
    ctx.save_for_backward(x, *tensors)


def _backward(ctx: Any, grads: list[Tensor]) -> tuple[Any, ...]:
    """By way of plain PyTorch."""
    with torch.enable_grad():
        leaves = [t.detach().requires_grad_(t.requires_grad) for t in ctx.saved_tensors]
        x, *tensors = leaves
        names = [str(i) for i in ctx.wanted]
        graph = _graph(tensors, *ctx.structure).only(names)
        clip = as_floats(x, x.dtype if x.is_floating_point() else tensors[0].dtype, graph.scaling)
        with torch.autocast(x.device.type, ctx.dtype, enabled=ctx.dtype != clip.dtype):
            maps = replay(graph, clip)
        needed = [t for t in leaves if t.requires_grad]
        outputs = [maps[name] for name in names]
        found = iter(torch.autograd.grad(outputs, needed, grads, allow_unused=True))
    x_grad, *others = [next(found) if t.requires_grad else None for t in leaves]
    return x_grad, others, None, None, None, None, None


# ``code`` and ``floats`` are engine/code.py's, ``values`` may be asked for, ``wanted`` are indices of these.
operator(
    "planned(Tensor x, Tensor[] tensors, int[] code, float[] floats, int[] values, int[] wanted, "
    "ScalarType dtype) -> Tensor[]",
    _planned,
    fake=_fake,
    setup_context=_setup_context,
    backward=_backward,
    # A CUDA graph around it would replay what was made of the weights when it was captured.
    tags=(torch.Tag.cudagraph_unsafe,),
)
