"""The passes of I3D's convolutions in training against torch's, in both of its layouts, on the CPU."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from benchmarks.conftest import Race, rounds_within
from fasti3d.ops import conv3d_training
from fasti3d.ops.conv3d_training import reference

Triple = tuple[int, int, int]


class Layer(NamedTuple):
    """A convolution; ``size`` is the input's (T, H, W) for clips of 2x16x224x224."""

    name: str
    channels: int
    outputs: int
    size: Triple
    kernel: Triple = (3, 3, 3)
    stride: Triple = (1, 1, 1)

    def __str__(self) -> str:
        return f"{self.name} {self.channels}-{self.outputs}"


LAYERS = [
    Layer("1a", 3, 64, (16, 224, 224), (7, 7, 7), (2, 2, 2)),
    Layer("2b", 64, 64, (8, 56, 56), (1, 1, 1)),
    Layer("2c", 64, 192, (8, 56, 56)),
    Layer("3b.b1b", 96, 128, (8, 28, 28)),
    Layer("3c.b1b", 128, 192, (8, 28, 28)),
    Layer("3c.b2b", 32, 96, (8, 28, 28)),
    Layer("3c.b0+b1a+b2a", 256, 288, (8, 28, 28), (1, 1, 1)),
    Layer("4e.b1b", 144, 288, (4, 14, 14)),
    Layer("5c.b1b", 192, 384, (2, 7, 7)),
]
PASSES = ("forward", "grad_input", "grad_weight")
CANDIDATES = {
    "fasti3d": torch.channels_last_3d,
    "torch, channels_last_3d": torch.channels_last_3d,
    "torch, NCDHW": torch.contiguous_format,
}
CASES = [(layer, name) for layer in LAYERS for name in PASSES if (layer.name, name) != ("1a", "grad_input")]


def build(candidate: str, layer: Layer, name: str) -> Callable[[], Tensor]:
    generator = torch.Generator().manual_seed(0)
    order = CANDIDATES[candidate]
    x = torch.randn(2, layer.channels, *layer.size, generator=generator).contiguous(memory_format=order)
    weight = torch.randn(layer.outputs, layer.channels, *layer.kernel, generator=generator)
    weight /= weight[0].numel() ** 0.5
    grad = reference.forward(x, weight, layer.stride).contiguous(memory_format=order)
    # The parameters of fasti3d's networks are as torch creates them.
    weight = weight if candidate == "fasti3d" else weight.contiguous(memory_format=order)
    arguments: dict[str, tuple[Any, ...]] = {
        "forward": (x, weight, layer.stride),
        "grad_input": (grad, weight, layer.stride, layer.size),
        "grad_weight": (grad, x, layer.stride, layer.kernel),
    }
    source = conv3d_training if candidate == "fasti3d" else reference
    return functools.partial(getattr(source, name), *arguments[name])


@functools.lru_cache(maxsize=1)
def ours(layer: Layer, name: str) -> Callable[[], Tensor]:
    return build("fasti3d", layer, name)


@pytest.mark.parametrize("name", CANDIDATES)
@pytest.mark.parametrize(("layer", "which"), CASES, ids=str)
def test_conv3d_training(race: Race, layer: Layer, which: str, name: str) -> None:
    candidate, mine = build(name, layer, which), ours(layer, which)
    found, expected = candidate(), mine()
    error = (found - expected).abs().max() / expected.abs().max()
    assert error <= 1e-4, "a wrong result has no speed"

    case = f"{layer} {which}"
    race.benchmark.group = f"conv3d_training {case}"
    race.benchmark.extra_info |= {"candidate": name, "case": case}
    race(candidate, None if name == "fasti3d" else mine, rounds=rounds_within(0.3, candidate))
