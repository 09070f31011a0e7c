"""Modules to replace parts of the network by, and the plain network to compare with; of few channels."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from i3d_making import NARROW, randomise
from tolerances import assert_close
from torch import Tensor, nn

from fasti3d import I3D, compat, network, reference

CLASSES = 7
FEATURES = 96  # of the narrow network
CLIP = (1, 3, 5, 17, 20)


def make(kind: Callable[[], reference.I3D] = lambda: I3D(CLASSES)) -> Any:
    model = kind()
    randomise(model)
    return model.eval()


class Twice(nn.Module):
    """A wrapper that keeps what it wraps."""

    def __init__(self, part: nn.Module) -> None:
        super().__init__()
        self.part = part

    def forward(self, x: Tensor) -> Tensor:
        return 2 * self.part(x)


def negated(part: nn.Module) -> nn.Module:
    """An instance of a subclass with the same attributes."""
    base = type(part)
    part.__class__ = type("Negated", (base,), {"forward": lambda self, x: -base.forward(self, x)})
    return part


def with_hook(part: nn.Module) -> nn.Module:
    part.register_forward_hook(lambda module, args, y: y - 1)
    return part


def with_pre_hook(part: nn.Module) -> nn.Module:
    part.register_forward_pre_hook(lambda module, args: (args[0] * 0.5,))
    return part


def with_forward(part: nn.Module) -> nn.Module:
    inner = copy.copy(part)
    part.forward = lambda x: inner(x) * 3
    return part


def with_extra(part: nn.Module) -> nn.Module:
    """A child that its class knows nothing of, and that a hook lets take part."""
    part.extra = nn.Tanh()
    part.register_forward_hook(lambda module, args, y: module.extra(y))
    return part


# By what any module may be replaced that keeps the shape of its output.
ANY: dict[str, Callable[[nn.Module], nn.Module]] = {
    "a sequence": lambda part: nn.Sequential(part, nn.Tanh()),
    "a wrapper": Twice,
    "a subclass": negated,
    "a hook": with_hook,
    "a pre-hook": with_pre_hook,
    "a forward of its own": with_forward,
    "another child": with_extra,
}


def widths(name: str) -> tuple[int, int, tuple[int, ...]]:
    """(in, out, stride) of a part of the narrow trunk."""
    channels = 3
    for other, spec in NARROW.items():
        out = channels if isinstance(spec, network.Pool) else spec.out_channels
        if other == name:
            return channels, out, getattr(spec, "stride", (1, 1, 1))
        channels = out
    raise KeyError(name)


def map_before(model: I3D, name: str, x: Tensor) -> Tensor:
    """What a part of the trunk is given."""
    names = list(NARROW)[: list(NARROW).index(name)]
    with torch.no_grad():
        return reference.I3D.forward_endpoints(model, x, names[-1:])[names[-1]] if names else x


def check(model: I3D, name: str, x: Tensor, given: Tensor | None = None) -> Tensor:
    """The endpoint of a clip, compared with the plain network's: its part on what it is ``given``."""
    with torch.no_grad():
        actual = model.forward_endpoints(x, [name])[name]
        given = map_before(model, name, x) if given is None else given
        assert_close("i3d", actual, getattr(model, name)(given))
    return actual


KINDS: dict[str, Callable[[], reference.I3D]] = {
    "I3D": lambda: I3D(CLASSES),
    "InceptionI3d": lambda: compat.InceptionI3d(CLASSES),
    "compat.I3D": lambda: compat.I3D(CLASSES),
}
