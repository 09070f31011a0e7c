"""The trunk in training mode as its modules, whose parameters and statistics are read at every call."""

from __future__ import annotations

from typing import Any, NamedTuple, TypeAlias

import torch
import torch.distributed as dist
from torch import Tensor, nn

from fasti3d import network
from fasti3d.engine.describe.inception import check_pool, known_conv, known_norm
from fasti3d.engine.describe.parts import MismatchError, check_dtypes, check_torch, form
from fasti3d.forms import MixedForm, Size
from fasti3d.ops.border import sum_dtype
from fasti3d.sync_batch_norm import SYNCHRONIZED

_ONE, _THREE = (1, 1, 1), (3, 3, 3)
POOL = network.Pool(_THREE, _ONE)  # of a Mixed block


class Unit(NamedTuple):
    """A convolution without a bias, its batch norm, and ReLU."""

    conv: Any
    norm: Any
    stride: Size

    @property
    def width(self) -> int:
        width: int = self.conv.out_channels
        return width

    @property
    def tensors(self) -> tuple[Tensor, Tensor, Tensor]:
        """What gradients are for: the filters, and weight and bias of the batch norm."""
        return self.conv.weight, self.norm.weight, self.norm.bias


class Mixed(NamedTuple):
    """An Inception block, whose max-pool is ``POOL``."""

    b0: Unit
    b1a: Unit
    b2a: Unit
    b1b: Unit
    b2b: Unit
    b3b: Unit


Part: TypeAlias = Unit | Mixed | network.Pool


def describe(model: nn.Module, names: tuple[str, ...]) -> dict[str, Part]:
    """The parts of a model whose trunk consists of ``names``, in order.

    Raises:
        MismatchError: a part is not exactly as the network's table has it, or asks for something unusual.
    """
    if not names or names != tuple(network.TRUNK)[: len(names)]:
        raise MismatchError("the trunk is not I3D's, or the beginning of it")
    check_torch()
    parts: dict[str, Part] = {}
    channels: int | None = None  # of any clip's channels, which are checked by themselves
    for name in names:
        module, spec = getattr(model, name, None), network.TRUNK[name]
        if isinstance(spec, network.Pool):
            check_pool(module, spec.kernel, spec.stride, name)
            parts[name] = spec
        elif isinstance(spec, network.Conv):
            unit = _unit(module, spec.kernel, spec.stride, channels, name)
            parts[name], channels = unit, unit.width
        else:
            block = _mixed(module, channels, name)
            parts[name] = block
            channels = sum(unit.width for unit in (block.b0, block.b1b, block.b2b, block.b3b))
    return parts


def check_tensors(parts: dict[str, Part], device: torch.device, dtype: torch.dtype) -> None:
    """MismatchError unless parameters and statistics are ordinary tensors there, fit for ``dtype``."""
    units: list[Unit] = []
    for part in parts.values():
        units.extend([part] if isinstance(part, Unit) else part if isinstance(part, Mixed) else [])
    weights = [unit.conv.weight for unit in units]
    norms = [t for u in units for t in (u.norm.weight, u.norm.bias, u.norm.running_mean, u.norm.running_var)]
    check_dtypes([*weights, *norms], weights[0], "the trunk")
    for t, expected in [*((t, weights[0].dtype) for t in weights), *((t, sum_dtype(dtype)) for t in norms)]:
        if t.device != device or t.dtype != expected:
            raise MismatchError(f"a tensor is {t.dtype} on {t.device}, maps are {dtype} on {device}")


def _unit(module: nn.Module | None, kernel: Size, stride: Size, channels: int | None, path: str) -> Unit:
    conv = known_conv(module, kernel, stride, channels, path)
    if conv.bias is not None:
        raise MismatchError(f"the convolution of {path} has a bias")
    norm = known_norm(module, conv.out_channels, path)
    if norm.training and (norm.momentum is None or not norm.track_running_stats):
        raise MismatchError(f"the batch norm of {path} has no momentum, or does not track its statistics")
    return Unit(conv, norm, stride)


def _mixed(module: nn.Module | None, channels: int | None, path: str) -> Mixed:
    block = form(module, MixedForm, path)
    check_pool(block.b3a, *POOL, f"{path}.b3a")

    def unit(name: str, kernel: Size, width: int | None) -> Unit:
        return _unit(getattr(block, name), kernel, _ONE, width, f"{path}.{name}")

    b0, b1a, b2a = (unit(name, _ONE, channels) for name in ("b0", "b1a", "b2a"))
    b1b, b2b = unit("b1b", _THREE, b1a.width), unit("b2b", _THREE, b2a.width)
    found = Mixed(b0, b1a, b2a, b1b, b2b, unit("b3b", _ONE, channels))
    if len({sync_group(each) for each in found if each.norm.training}) > 1:
        raise MismatchError(f"{path} has batch norms over processes and others, or over different ones")
    return found


def sync_group(unit: Unit) -> Any:
    """The process group that a batch norm has its statistics over; None if it is this process alone."""
    norm = unit.norm
    if not (isinstance(norm, SYNCHRONIZED) and norm.training):
        return None
    if not (dist.is_available() and dist.is_initialized()):
        return None
    group = getattr(norm, "process_group", None) or dist.group.WORLD
    return group if dist.get_world_size(group) > 1 else None
