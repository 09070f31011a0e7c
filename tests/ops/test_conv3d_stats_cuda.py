"""The convolution that finds statistics on a GPU, at the network's sizes and odd ones."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from requiring import require
from tolerances import assert_close

from fasti3d import network
from fasti3d.inspect.layers import Layer, layers
from fasti3d.ops.conv3d_training import conv3d_with_stats, finds_statistics
from fasti3d.runtime import gpu
from fasti3d.same_padding import pad_same

pytestmark = pytest.mark.gpu

Triple = tuple[int, int, int]

ONE, THREE, TWO = (1, 1, 1), (3, 3, 3), (2, 2, 2)
HALVES = (torch.float16, torch.bfloat16)
_CONVOLUTIONS = [layer for layer in layers(3, (64, 224, 224)) if isinstance(layer.spec, network.Conv)][:-1]
# Of several of the same sizes the first.
LAYERS = list({layer[1:]: layer for layer in reversed(_CONVOLUTIONS)}.values())[::-1]


@pytest.fixture(autouse=True)
def _kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    require(gpu.why_no_triton(torch.device("cuda")))
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


def check(
    batch: int, channels: tuple[int, int], size: Triple, kernel: Triple, stride: Triple, dtype: torch.dtype
) -> None:
    """Twice, with the same bits; statistics are of sums that are not rounded."""
    generator = torch.Generator("cuda").manual_seed(0)
    x = torch.randn(batch, *size, channels[0], generator=generator, device="cuda").to(dtype)
    x = x.permute(0, 4, 1, 2, 3)
    weight = torch.randn(channels[1], channels[0], *kernel, generator=generator, device="cuda")
    # A mean that is not about 0.
    weight = (weight + 0.2) / weight[0].numel() ** 0.5
    assert finds_statistics(x)
    found = conv3d_with_stats(x, weight, stride)
    assert all(map(torch.equal, found, conv3d_with_stats(x, weight, stride)))
    y, mean, var = found
    exact = F.conv3d(pad_same(x.float(), kernel, stride), weight.to(dtype).float(), stride=stride)
    assert_close("conv3d", y, exact, scale=exact.abs().max().item())
    exact_var, exact_mean = torch.var_mean(exact.double(), (0, 2, 3, 4), correction=0)
    torch.testing.assert_close(mean.double(), exact_mean, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(var.double(), exact_var, rtol=1e-4, atol=0)


@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize("layer", LAYERS, ids=str)
def test_every_convolution_of_the_network(layer: Layer, dtype: torch.dtype) -> None:
    channels = layer.in_channels, layer.out_channels
    for batch in (1, 3) if layer.in_size[1] < 100 else (1,):
        check(batch, channels, layer.in_size, layer.spec.kernel, layer.spec.stride, dtype)


@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize("channels", [(3, 64), (17, 9), (24, 40), (96, 208)])
@pytest.mark.parametrize(("kernel", "stride"), [(ONE, ONE), (THREE, ONE), (THREE, TWO), ((7, 7, 7), TWO)])
def test_odd_convolutions(
    channels: tuple[int, int], kernel: Triple, stride: Triple, dtype: torch.dtype
) -> None:
    for size in ((3, 5, 7), (9, 31, 33)):
        check(3, channels, size, kernel, stride, dtype)


def test_the_kernel_of_this_library_ran(monkeypatch: pytest.MonkeyPatch) -> None:
    """And not PyTorch's own in its place, which would be as right."""
    # Not at the top: without triton the other tests skip.
    from fasti3d.ops.conv3d_bn_relu import launch

    parts = []
    run = launch.run
    monkeypatch.setattr(launch, "run", lambda config, work: (parts.append(work.part), run(config, work)))
    check(1, (64, 192), (8, 28, 28), THREE, ONE, torch.bfloat16)
    assert parts
    assert all(part is not None for part in parts)
