"""fasti3d::conv3d_bn_relu against torch's conv3d + ReLU on a CPU, on the layers of most arithmetic."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks import peers
from benchmarks.conftest import Race, rounds_within
from fasti3d.inspect.layers import Layer, layers
from fasti3d.ops.conv3d_bn_relu import PackedConv3d
from fasti3d.ops.conv3d_bn_relu.geometry import Geometry
from fasti3d.ops.conv3d_bn_relu.packed import DirectConv3d, WinogradConv3d
from fasti3d.ops.conv3d_bn_relu.space_to_depth import FEW_CHANNELS
from fasti3d.ops.tiling import Triple
from fasti3d.same_padding import pad_same

NAMES = (
    "Conv3d_1a_7x7",
    "Conv3d_2b_1x1",
    "Conv3d_2c_3x3",
    "Mixed_3b.b1b",
    "Mixed_3c.b0",
    "Mixed_3c.b1b",
    "Mixed_3c.b2b",
    "Mixed_4b.b1b",
    "Mixed_4d.b1b",
    "Mixed_4f.b0",
    "Mixed_4f.b1b",
    "Mixed_5c.b1b",
)
LAYERS = [layer for layer in layers(3, (64, 224, 224)) if layer.name in NAMES]
# Relative L2 error against float32 arithmetic on the same rounded inputs: the order of summation in
# float32; in half precision the rounding of the result alone (2^-8 and 2^-11 at the most).
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2**-8, torch.float16: 2**-11}

Conv = Callable[[], Tensor]
Candidate = Callable[[Layer, Tensor, Tensor, Tensor], Conv]


def _arguments(layer: Layer, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    fan_in = layer.in_channels * math.prod(layer.spec.kernel)
    x = torch.randn(1, layer.in_channels, *layer.in_size, generator=generator)
    weight = torch.randn(layer.out_channels, layer.in_channels, *layer.spec.kernel, generator=generator)
    bias = torch.randn(layer.out_channels, generator=generator)
    x = x.to(dtype).contiguous(memory_format=torch.channels_last_3d)
    weight = (weight / fan_in**0.5).to(dtype).contiguous(memory_format=torch.channels_last_3d)
    return x, weight, bias.to(dtype)


def _fasti3d(layer: Layer, x: Tensor, weight: Tensor, bias: Tensor) -> Conv:
    """As the network calls it: the weight packed once."""
    packed = PackedConv3d.pack(weight.float(), bias.float(), layer.spec.stride, relu=True, dtype=x.dtype)
    return lambda: packed(x)


def _in_form(outputs: Triple) -> Candidate:
    """In tiles of so many outputs along t, h and w, whichever form the network takes."""

    def build(layer: Layer, x: Tensor, weight: Tensor, bias: Tensor) -> Conv:
        geometry = Geometry(layer.spec.kernel, layer.spec.stride, None, True)
        if outputs == (1, 1, 1):
            packed: PackedConv3d = DirectConv3d.of(weight.float(), bias.float(), geometry, x.dtype)
        else:
            packed = WinogradConv3d.of(weight.float(), bias.float(), geometry, outputs, torch.float32)
        return lambda: packed(x)

    return build


def _torch(layer: Layer, x: Tensor, weight: Tensor, bias: Tensor) -> Conv:
    kernel, stride = layer.spec.kernel, layer.spec.stride
    return lambda: F.conv3d(pad_same(x, kernel, stride), weight, bias, stride).relu_()


def _prepacked(layer: Layer, x: Tensor, weight: Tensor, bias: Tensor) -> Conv:
    """oneDNN's convolution with ReLU fused and its weight packed beforehand, as torch.compile calls it."""
    kernel, stride = layer.spec.kernel, layer.spec.stride
    strided = max(stride) > 1  # only then is SAME's padding lopsided, and needs a copy
    padding = [0 if strided else k // 2 for k in kernel]
    size = pad_same(x, kernel, stride).shape if strided else x.shape
    pack: Any = torch._C._nn.mkldnn_reorder_conv3d_weight  # torch's stub lacks the last argument
    packed = pack(weight.to_mkldnn(), padding, stride, (1, 1, 1), 1, list(size))

    def run() -> Tensor:
        padded = pad_same(x, kernel, stride) if strided else x
        result: Tensor = torch.ops.mkldnn._convolution_pointwise(
            padded, packed, bias, padding, stride, (1, 1, 1), 1, "relu", [], ""
        )
        return result

    return run


CANDIDATES: dict[str, Candidate] = {
    "fasti3d": _fasti3d,
    "fasti3d, direct": _in_form((1, 1, 1)),
    "fasti3d, tiles of 4 frames": _in_form((4, 1, 1)),
    "fasti3d, tiles of 2x2x2": _in_form((2, 2, 2)),
    "fasti3d, tiles of 4x2x2": _in_form((4, 2, 2)),
    "torch conv3d + ReLU, channels_last_3d": _torch,
    "oneDNN, prepacked, ReLU fused": _prepacked,
}


def build(name: str, layer: Layer, dtype: torch.dtype) -> Conv:
    convolve = CANDIDATES[name](layer, *_arguments(layer, dtype))

    def run() -> Tensor:
        with torch.no_grad():
            return convolve()

    return run


@functools.lru_cache(maxsize=1)
def ours(layer: Layer, dtype: torch.dtype) -> Conv:
    return build("fasti3d", layer, dtype)


@functools.lru_cache(maxsize=1)
def expected(layer: Layer, dtype: torch.dtype) -> Tensor:
    x, weight, bias = (t.float() for t in _arguments(layer, dtype))
    return F.conv3d(
        pad_same(x, layer.spec.kernel, layer.spec.stride), weight, bias, layer.spec.stride
    ).relu_()


@pytest.mark.parametrize("name", CANDIDATES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("layer", LAYERS, ids=str)
def test_conv3d(race: Race, layer: Layer, dtype: torch.dtype, name: str) -> None:
    if "oneDNN" in name and not torch.backends.mkldnn.is_available():
        pytest.skip("torch was built without oneDNN")
    if "fasti3d," in name and (max(layer.spec.kernel) == 1 or dtype != torch.float32):
        pytest.skip("forms differ where windows have taps to share, in float32")
    if name.endswith("x2") and layer.in_channels < FEW_CHANNELS:
        pytest.skip("a row of the window is one tap in clips of few channels")
    candidate = build(name, layer, dtype)
    error = peers.relative_error(candidate(), expected(layer, dtype))
    assert error < TOLERANCE[dtype], "a wrong result has no speed"

    case = f"{layer} {str(dtype).removeprefix('torch.')} cpu"
    race.benchmark.group = f"conv3d {case}"
    race.benchmark.extra_info |= {"candidate": name, "case": case, "relative_error": error}
    race(
        candidate,
        None if name == "fasti3d" else ours(layer, dtype),
        rounds=rounds_within(0.4, candidate),
        flop=layer.flop,
    )
