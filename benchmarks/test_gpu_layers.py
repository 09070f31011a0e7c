"""Every convolution of the network on a GPU, and the steps of the plan, by the GPU's clock."""

from __future__ import annotations

import functools
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks import gpu_timing, peers
from benchmarks.conftest import DeviceClock
from benchmarks.folded_network import convolve_then_relu, same_padded
from benchmarks.plan_steps import PlannedStep, planned_steps
from benchmarks.test_conv3d import TOLERANCE, Conv
from fasti3d import network
from fasti3d.inspect.layers import Layer, layers
from fasti3d.ops.conv3d_bn_relu import PackedConv3d
from fasti3d.same_padding import pad_same

pytestmark = pytest.mark.gpu

DEVICE = "cuda"
DTYPE = torch.float16
CLIP = (64, 224, 224)
BATCHES = (1, 8)
_CONVOLUTIONS = [layer for layer in layers(3, CLIP) if isinstance(layer.spec, network.Conv)][:-1]  # no head
# Of several of the same sizes the first.
LAYERS = list({layer[1:]: layer for layer in reversed(_CONVOLUTIONS)}.values())[::-1]
# A plan joins some of these parts, but has no more steps than them and the head.
MOST_STEPS = len(network.TRUNK) + 1


def test_ceilings(device_clock: DeviceClock) -> None:
    """What all shares in this record are of."""
    best = gpu_timing.ceilings()
    device_clock.benchmark.group = "gpu_ceilings"
    device_clock.benchmark.extra_info |= {
        "candidate": best.name,
        "case": "8192x8192x8192 float16, and a copy of 3 GiB",
        "gflop_per_s": best.flop_per_s / 1e9,
        "gb_per_s": best.bytes_per_s / 1e9,
    }
    device_clock.benchmark.pedantic(lambda: None)


def _fasti3d(layer: Layer, x: Tensor, weight: Tensor, bias: Tensor) -> Conv:
    """As the network calls it: the weight packed once, into a map that is there."""
    packed = PackedConv3d.pack(weight, bias, layer.spec.stride, relu=True, dtype=x.dtype)
    out = packed(x).fill_(torch.nan)
    return lambda: packed(x, out)


def _cudnn(layer: Layer, x: Tensor, weight: Tensor, bias: Tensor) -> Conv:
    kernel, stride = layer.spec.kernel, layer.spec.stride
    weight = weight.to(x.dtype).contiguous(memory_format=torch.channels_last_3d)
    bias = bias.to(x.dtype)

    def run() -> Tensor:
        padded, padding = same_padded(x, kernel, stride)
        return convolve_then_relu(padded, weight, bias, stride, padding)

    return run


CANDIDATES: dict[str, Callable[[Layer, Tensor, Tensor, Tensor], Conv]] = {
    "fasti3d": _fasti3d,
    "cuDNN, channels_last_3d": _cudnn,
}


def arguments(layer: Layer, batch: int) -> tuple[Tensor, Tensor, Tensor]:
    """Input, channels-last, and float32 weight and bias, the weight already rounded."""
    generator = torch.Generator(DEVICE).manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, device=DEVICE)

    x = normal(batch, *layer.in_size, layer.in_channels).to(DTYPE).permute(0, 4, 1, 2, 3)
    weight = normal(layer.out_channels, layer.in_channels, *layer.spec.kernel)
    return x, (weight / weight[0].numel() ** 0.5).to(DTYPE).float(), normal(layer.out_channels)


@functools.lru_cache(maxsize=1)
def expected(layer: Layer, batch: int) -> Tensor:
    """In float32."""
    x, weight, bias = arguments(layer, batch)
    kernel, stride = layer.spec.kernel, layer.spec.stride
    return F.conv3d(pad_same(x.float(), kernel, stride), weight, bias, stride).relu_()


@pytest.mark.parametrize("name", CANDIDATES)
@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("layer", LAYERS, ids=str)
def test_gpu_layer(
    device_clock: DeviceClock, layer: Layer, batch: int, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    wanted = expected(layer, batch)
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", True)
    x, weight, bias = arguments(layer, batch)
    with torch.no_grad():
        run = CANDIDATES[name](layer, x, weight, bias)
        error = ((run().float() - wanted).norm() / wanted.norm()).item()
        # torch rounds before it adds the bias, too.
        assert error < (1 if name == "fasti3d" else 2) * TOLERANCE[DTYPE], "a wrong result has no speed"

        case = f"{layer} batch {batch}"
        device_clock.benchmark.group = f"gpu_layer {case}"
        device_clock.benchmark.extra_info |= {"candidate": name, "case": case, "relative_error": error}
        values = batch * layer.elements + layer.weights
        device_clock(run, flop=batch * layer.flop, moved_bytes=values * DTYPE.itemsize)


@functools.lru_cache(maxsize=1)
def steps(batch: int) -> list[PlannedStep]:
    """Of a plan of clips like ``CLIP``, which together give the right logits."""
    case = peers.Case((batch, 3, *CLIP), DTYPE, DEVICE)
    found = planned_steps(case)
    _, logits = found[-1].run()
    error = peers.relative_error(logits, peers.expected_logits(case))
    assert error < peers.LOGITS_TOLERANCE[DTYPE], "a wrong result has no speed"
    return found


@pytest.mark.parametrize("number", range(MOST_STEPS))
@pytest.mark.parametrize("batch", BATCHES)
def test_gpu_step(device_clock: DeviceClock, batch: int, number: int) -> None:
    with torch.no_grad():
        found = steps(batch)
        if number >= len(found):
            pytest.skip(f"the plan has {len(found)} steps")
        report, run = found[number]
        case = f"batch {batch}"
        device_clock.benchmark.group = f"gpu_step {case}"
        device_clock.benchmark.extra_info |= {"candidate": report.name, "case": case}
        device_clock(run, flop=report.flop, moved_bytes=report.values * DTYPE.itemsize)
