"""fasti3d's packed depthwise convolution against torch's, at the layers of X3D-S and CSN-101 on the CPU."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.conftest import Race, rounds_within
from fasti3d.ops.depthwise_conv3d import DepthwiseConv3d

Triple = tuple[int, int, int]


class Layer(NamedTuple):
    """A depthwise convolution with padding of half its kernel; ``size`` are the input's (T, H, W)."""

    name: str
    channels: int
    size: Triple
    kernel: Triple = (3, 3, 3)
    stride: Triple = (1, 1, 1)

    def __str__(self) -> str:
        return f"{self.name} {self.channels}x{'x'.join(map(str, self.size))}"

    @property
    def padding(self) -> Triple:
        t, h, w = self.kernel
        return t // 2, h // 2, w // 2


LAYERS = [
    Layer("X3D stem", 24, (13, 80, 80), (5, 1, 1)),
    Layer("X3D res2.0", 54, (13, 80, 80), stride=(1, 2, 2)),
    Layer("X3D res2", 54, (13, 40, 40)),
    Layer("X3D res3", 108, (13, 20, 20)),
    Layer("X3D res4", 216, (13, 10, 10)),
    Layer("X3D res5", 432, (13, 5, 5)),
    Layer("CSN res2", 64, (32, 56, 56)),
    Layer("CSN res3.0", 128, (32, 56, 56), stride=(2, 2, 2)),
    Layer("CSN res3", 128, (16, 28, 28)),
    Layer("CSN res4", 256, (8, 14, 14)),
    Layer("CSN res5", 512, (4, 7, 7)),
]
DTYPES = (torch.float32, torch.bfloat16)
CANDIDATES = {
    "fasti3d": torch.channels_last_3d,
    "torch conv3d + ReLU, channels_last_3d": torch.channels_last_3d,
    "torch conv3d + ReLU, NCDHW": torch.contiguous_format,
}


def build(name: str, layer: Layer, dtype: torch.dtype) -> Callable[[], Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, layer.channels, *layer.size, generator=generator)
    weight = torch.randn(layer.channels, 1, *layer.kernel, generator=generator) / math.prod(layer.kernel)
    bias = torch.randn(layer.channels, generator=generator)
    x = x.to(dtype).contiguous(memory_format=CANDIDATES[name])
    if name == "fasti3d":
        conv = DepthwiseConv3d.pack(weight, bias, layer.stride, relu=True, dtype=dtype, padding=layer.padding)
        return functools.partial(conv, x)
    weight, bias = weight.to(dtype).contiguous(memory_format=CANDIDATES[name]), bias.to(dtype)

    def run() -> Tensor:
        y = F.conv3d(x, weight, bias, layer.stride, layer.padding, groups=layer.channels)
        return F.relu_(y)

    return run


@functools.lru_cache(maxsize=1)
def ours(layer: Layer, dtype: torch.dtype) -> Callable[[], Tensor]:
    return build("fasti3d", layer, dtype)


@pytest.mark.parametrize("name", CANDIDATES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("layer", LAYERS, ids=str)
def test_depthwise_conv3d(race: Race, layer: Layer, dtype: torch.dtype, name: str) -> None:
    candidate, mine = build(name, layer, dtype), ours(layer, dtype)
    found, expected = candidate().float(), mine().float()
    # torch may round weights, bias and result in bfloat16.
    limit = 1e-5 if dtype == torch.float32 else 2.0**-6
    error = (found - expected).abs().max() / expected.abs().max()
    assert error <= limit, "a wrong result has no speed"

    case = f"{layer} {str(dtype).removeprefix('torch.')}"
    race.benchmark.group = f"depthwise_conv3d {case}"
    race.benchmark.extra_info |= {"candidate": name, "case": case}
    race(
        candidate,
        None if name == "fasti3d" else mine,
        rounds=rounds_within(0.3, candidate),
        moved_bytes=(math.prod(layer.size) * layer.channels + expected.numel()) * dtype.itemsize,
    )
