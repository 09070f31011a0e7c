"""Networks and clips that show a wrong fold, and the two paths of a network to compare."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import pytest
import torch
from tolerances import assert_close
from torch import Tensor, nn

from fasti3d import I3D, network, reference
from fasti3d.engine.describe.inception import describe, watch

# Every endpoint of the trunk, with the fewest pixels that make all windows partial somewhere.
SMALL = (1, 3, 9, 33, 40)
# The smallest clip the head takes.
WITH_HEAD = (1, 3, 9, 193, 193)

# The network with few channels, of the kinds that the real one has.
NARROW: dict[str, network.Conv | network.Pool | network.Mixed] = {
    name: part._replace(out_channels=24)
    if isinstance(part, network.Conv)
    else network.Mixed(16, 24, 40, 8, 16, 24)
    if isinstance(part, network.Mixed)
    else part
    for name, part in network.TRUNK.items()
}


# With one block per size, which the compiler traces in a third of the time.
SHORT = {
    name: part
    for name, part in NARROW.items()
    if not isinstance(part, network.Mixed) or name in ("Mixed_3b", "Mixed_4b", "Mixed_5c")
}


@contextmanager
def narrowed(trunk: dict[str, Any] = NARROW) -> Iterator[None]:
    """Inside, networks are built and read with these parts."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(network, "TRUNK", trunk)
        patch.setattr(network, "FEATURE_CHANNELS", trunk["Mixed_5c"].out_channels)
        yield


def random_clip(*shape: int, seed: int = 0) -> Tensor:
    """Values in [-1, 1] with both signs, so that nothing looks like another range."""
    return torch.empty(shape).uniform_(-1, 1, generator=torch.Generator().manual_seed(seed))


def randomise(module: nn.Module, seed: int = 0) -> None:
    """Weights that keep the size of the maps through the network, and batch norms far from the identity."""
    generator = torch.Generator().manual_seed(seed)

    def uniform(t: Tensor, low: float, high: float) -> None:
        t.copy_(torch.empty(t.shape).uniform_(low, high, generator=generator))

    with torch.no_grad():
        for part in module.modules():
            if isinstance(part, nn.Conv3d):
                bound = (6 / part.weight[0].numel()) ** 0.5
                uniform(part.weight, -bound, bound)
                if part.bias is not None:
                    uniform(part.bias, -1, 1)
            elif isinstance(part, nn.BatchNorm3d):
                uniform(part.weight, 0.5, 1.5)
                part.weight[::3] *= -1
                uniform(part.bias, -0.3, 0.5)
                uniform(part.running_mean, -0.5, 0.5)
                uniform(part.running_var, 0.3, 2.0)


def make_i3d(num_classes: int = 7, in_channels: int = 3, *, seed: int = 0) -> I3D:
    """A network in eval mode, the same for the same seed."""
    return copy.deepcopy(_template(num_classes, in_channels, seed, id(network.TRUNK)))


def make_warm_i3d() -> I3D:
    """The same network as ``make_i3d()``, as it is after a fused run: with a plan for its weights."""
    template, model = _template(7, 3, 0, id(network.TRUNK)), make_i3d()
    if template._plan is None:
        with torch.no_grad():
            template.forward_features(random_clip(*SMALL))
    assert template._plan is not None
    names = template._plan.names
    model._plans._kept = template._plans._kept
    model._plan = template._plan._replace(watch=watch(model, names), described=describe(model, names))
    return model


@cache
def _template(num_classes: int, in_channels: int, seed: int, trunk: int) -> I3D:
    """``trunk`` tells networks that are made inside of ``narrowed`` from others."""
    model = I3D(num_classes, in_channels)
    randomise(model, seed)
    return model.eval()


def ordinary(model: I3D, x: Tensor, *names: str) -> dict[str, Tensor]:
    """The endpoints as the plain network computes them from the model's parts as they are now."""
    with torch.no_grad():
        return reference.I3D.forward_endpoints(model, x, names)


def assert_maps_close(actual: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert list(actual) == list(expected)
    for name, value in actual.items():
        assert_close("i3d", value, expected[name])
