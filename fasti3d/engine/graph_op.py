"""``fasti3d::i3d``: the fused network as an operator that compilers and exporters put into a graph."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes
from torch.utils.weak import WeakIdKeyDictionary

from fasti3d import network, reference
from fasti3d.engine.plan import Plan
from fasti3d.inputs import as_floats
from fasti3d.ops.fingerprint import fingerprint
from fasti3d.ops.registry import define
from fasti3d.reference import Mixed, Unit3D
from fasti3d.runtime.route import compute_dtype
from fasti3d.same_padding import same_shape

# A CUDA graph around it would replay what was made of the weights when it was captured.
define(
    "i3d",
    "(Tensor x, Tensor[] tensors, float[] eps, str[] wanted, ScalarType dtype) -> Tensor[]",
    tags=(torch.Tag.cudagraph_unsafe,),
)

_lock = threading.Lock()
# By the stem's weight, with which they go: a plan, its key, and the tensors that the key was made of.
_plans: WeakIdKeyDictionary = WeakIdKeyDictionary()


def fused_endpoints(
    model: reference.I3D, x: Tensor, wanted: set[str], dtype: torch.dtype, *, classify: bool
) -> dict[str, Tensor]:
    """The wanted endpoints of a clip in ``dtype``, of a model whose trunk the fused path knows.

    ``classify``: whether it knows the classifier, which is left out otherwise.
    """
    units = list(_units(model, classify))
    tensors = [t for unit in units for t in _tensors(unit)]
    eps = [unit.bn.eps for unit in units if unit.bn is not None]
    names = [name for name in network.OUTPUTS if name in wanted]
    maps = torch.ops.fasti3d.i3d(x, tensors, eps, names, dtype)
    return dict(zip(names, maps, strict=True))


def _units(model: reference.I3D, classify: bool = True) -> Iterator[Unit3D]:
    """A network's convolutions in the operator's order, as far as it goes; the classifier is the last."""
    for name in network.TRUNK:
        part = getattr(model, name, None)
        if part is None:
            return
        if isinstance(part, Mixed):
            yield from (part.b0, part.b1a, part.b1b, part.b2a, part.b2b, part.b3b)
        elif isinstance(part, Unit3D):
            yield part
    logits = getattr(model, "logits", None)
    if classify and logits is not None:
        yield logits


def _tensors(unit: Unit3D) -> Iterator[Tensor]:
    """A convolution's weight, the only one of five axes, its bias if it has one, and its batch norm's."""
    yield unit.conv3d.weight
    if unit.conv3d.bias is not None:
        yield unit.conv3d.bias
    if unit.bn is not None:
        assert unit.bn.running_mean is not None
        assert unit.bn.running_var is not None
        yield from (unit.bn.weight, unit.bn.bias, unit.bn.running_mean, unit.bn.running_var)


def _rebuild(tensors: Sequence[Tensor], eps: Sequence[float]) -> reference.I3D:
    """The eval-mode network that the operator's arguments are of, without the parts beyond its end."""
    groups: list[list[Tensor]] = []
    for tensor in tensors:
        if tensor.dim() == 5:
            groups.append([])
        groups[-1].append(tensor)
    with _disable_current_modes(), torch.device("meta"):  # also while a compiler traces the gradient
        model = reference.I3D(in_channels=tensors[0].shape[1]).eval()
    each_eps = iter(eps)
    for unit, (weight, *others) in zip(_units(model), groups, strict=False):
        if unit.bn is not None:
            unit.bn.eps = next(each_eps)
            *others, gamma, beta, mean, var = others
            _assign(unit.bn._parameters, weight=gamma, bias=beta)
            _assign(unit.bn._buffers, running_mean=mean, running_var=var)
        _assign(unit.conv3d._parameters, weight=weight, bias=others[0] if others else None)
    for name, part in list(model.named_children()):
        if any(parameter.is_meta for parameter in part.parameters()):
            delattr(model, name)
    return model


def _assign(held: Any, **tensors: Tensor | None) -> None:
    """Puts tensors into a module's dictionary as they are, where the module itself asks for parameters."""
    held.update(tensors)


def _plan(tensors: list[Tensor], eps: list[float], device: torch.device, dtype: torch.dtype) -> Plan:
    """The plan for the weights as they are now."""
    if device.type != "cpu" and any(t.is_inference() for t in tensors):
        return Plan(_rebuild(tensors, eps), dtype)  # without version counters an edit could not be seen
    key = (tuple(eps), device, dtype, fingerprint(tensors))
    with _lock:
        kept = _plans.get(tensors[0])
        if kept is None or kept[0] != key:
            plan = Plan(_rebuild(tensors, eps), dtype)
            # With the tensors, so that no new one takes the address of one that the key was made of.
            kept = _plans[tensors[0]] = (key, plan, [t.detach() for t in tensors])
    return kept[1]


@torch.library.impl("fasti3d::i3d", "default")
def _i3d(
    x: Tensor, tensors: list[Tensor], eps: list[float], wanted: list[str], dtype: torch.dtype
) -> list[Tensor]:
    with torch.no_grad(), torch.autocast(x.device.type, enabled=False):
        plan = _plan(tensors, eps, x.device, compute_dtype(x.device, dtype))
        return list(plan.run(x, set(wanted), dtype).values())


@torch.library.register_fake("fasti3d::i3d")
def _fake(
    x: Tensor, tensors: list[Tensor], eps: list[float], wanted: list[str], dtype: torch.dtype
) -> list[Tensor]:
    out_channels = [t.shape[0] for t in tensors if t.dim() == 5]
    widths = iter(out_channels)
    n, channels, *size = x.shape
    shapes: dict[str, tuple[int, ...]] = {}
    for name, part in network.TRUNK.items():
        if shapes.keys() >= set(wanted):
            break
        if isinstance(part, network.Mixed):
            b0, _, b1b, _, b2b, b3b = islice(widths, 6)
            channels = b0 + b1b + b2b + b3b
        else:
            size = same_shape(size, part.stride)
            channels = next(widths) if isinstance(part, network.Conv) else channels
        shapes[name] = (n, channels, *size)
    shapes["Features"] = (n, channels, size[0] - network.HEAD_POOL[0] + 1)
    shapes |= dict.fromkeys(("Logits", "Predictions"), (n, out_channels[-1]))
    layouts = {2: torch.contiguous_format, 3: torch.contiguous_format, 5: torch.channels_last_3d}
    return [
        torch.empty(shape, dtype=dtype, device=x.device, memory_format=layouts[len(shape)])
        for shape in map(shapes.__getitem__, wanted)
    ]


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: list[Tensor]) -> None:
    x, tensors, ctx.eps, ctx.wanted, ctx.dtype = inputs
    ctx.save_for_backward(x, *tensors)


def _backward(ctx: Any, grads: list[Tensor]) -> tuple[Tensor | None, list[Tensor | None], None, None, None]:
    """By way of the plain network."""
    with torch.enable_grad():
        leaves = [t.detach().requires_grad_(t.requires_grad) for t in ctx.saved_tensors]
        x, *tensors = leaves
        clip = as_floats(x, x.dtype if x.is_floating_point() else tensors[0].dtype)
        with torch.autocast(x.device.type, ctx.dtype, enabled=ctx.dtype != clip.dtype):
            maps = reference.I3D.forward_endpoints(_rebuild(tensors, ctx.eps), clip, ctx.wanted)
        needed = [t for t in leaves if t.requires_grad]
        found = iter(torch.autograd.grad(list(maps.values()), needed, grads, allow_unused=True))
    x_grad, *others = [next(found) if t.requires_grad else None for t in leaves]
    return x_grad, others, None, None, None


torch.library.register_autograd("fasti3d::i3d", _backward, setup_context=_setup_context)
