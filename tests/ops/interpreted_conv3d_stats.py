"""The Triton convolution that finds statistics in Triton's interpreter against float64: run by
test_conv3d_stats_triton.py.

A process must say TRITON_INTERPRET=1 before it imports triton, so these tests have one of their own.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from interpreting import CHIPS, clip, tensor_cores, weights
from tolerances import assert_close
from torch import Tensor

from fasti3d.ops.conv3d_bn_relu import launch as conv_launch
from fasti3d.ops.conv3d_bn_relu.config import Config, Form
from fasti3d.ops.conv3d_bn_relu.geometry import Geometry
from fasti3d.ops.conv3d_bn_relu.packed import pack_triton
from fasti3d.ops.conv3d_training import gpu_forms, launch
from fasti3d.proof.guard import collected
from fasti3d.proving import prove
from fasti3d.same_padding import pad_same

Triple = tuple[int, int, int]

ONE, THREE, TWO = (1, 1, 1), (3, 3, 3), (2, 2, 2)
# Channels in and out, kernel, stride and size: every kind of the network, with edges of tiles.
CONVS: dict[str, tuple[int, int, Triple, Triple, Triple]] = {
    "stem": (3, 16, (7, 7, 7), TWO, (5, 9, 11)),
    "pointwise": (24, 40, ONE, ONE, (3, 5, 7)),
    "three": (16, 24, THREE, ONE, (3, 5, 9)),
    "odd": (17, 9, THREE, (2, 1, 1), (3, 7, 6)),
}

_tensor_cores = pytest.fixture(autouse=True)(tensor_cores)


@pytest.fixture(params=CHIPS, autouse=True)
def _chip(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conv_launch, "gpu_traits", lambda device: CHIPS[request.param])


def call(name: str, dtype: torch.dtype = torch.float16) -> tuple[Any, ...]:
    """What ``launch.conv3d_stats`` takes, into a slice, and the exact result."""
    channels, out_channels, kernel, stride, size = CONVS[name]
    x, (weight, _) = clip(2, channels, size, dtype), weights(out_channels, channels, kernel)
    weight[:2] += 1 / weight[0].numel()  # a mean that is not about 0
    geometry = Geometry(kernel, stride, None, False)
    shape = (2, *geometry.output_size(size), out_channels + 16)
    out = torch.full(shape, torch.nan, dtype=dtype).permute(0, 4, 1, 2, 3)[:, 8:-8]
    mean, var = torch.full((2, out_channels), torch.nan).unbind()
    exact = F.conv3d(pad_same(x.double(), kernel, stride), weight.to(dtype).double(), stride=stride)
    return (x, pack_triton(weight, stride, dtype), geometry, out, mean, var), exact


def check_stats(mean: Tensor, var: Tensor, exact: Tensor) -> None:
    exact_var, exact_mean = torch.var_mean(exact, (0, 2, 3, 4), correction=0)
    torch.testing.assert_close(mean.double(), exact_mean, rtol=0, atol=1e-5)
    torch.testing.assert_close(var.double(), exact_var, rtol=1e-4, atol=0)


@pytest.mark.parametrize("name", CONVS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
def test_convolutions_and_their_statistics(name: str, dtype: torch.dtype) -> None:
    """Those of sums that are not rounded yet: rounded to bfloat16, they would be off by far more."""
    (*its, out, mean, var), exact = call(name, dtype)
    launch.conv3d_stats(*its, out, mean, var)
    assert_close("conv3d", out, exact, scale=exact.abs().max().item())
    check_stats(mean, var, exact)


def test_two_tiles_of_channels_over_the_same_pixels() -> None:
    """As a tile of 192 channels is: 128 and 64."""
    (x, weight, geometry, out, mean, var), exact = call("three")
    config = Config(Form.DESCRIPTOR, (1, 2, 4, 4), 16, 16, 16, 4, 2)
    launch.run(config, x, weight, geometry, out, mean, var)
    check_stats(mean, var, exact)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_values_that_are_not_finite(value: float) -> None:
    (x, *its, mean, var), _ = call("three")
    x[1, 3, 2, 4, 8] = value
    launch.conv3d_stats(x, *its, mean, var)
    assert not mean.isfinite().any()
    assert not var.isfinite().any()


@pytest.mark.parametrize(("channels", "kernel"), [((24, 40), ONE), ((9, 17), THREE), ((16, 24), (1, 3, 5))])
def test_gradients_of_inputs(channels: tuple[int, int], kernel: Triple) -> None:
    """Of odd windows at stride 1, into a slice."""
    grad, (weight, _) = clip(2, channels[1], (3, 5, 7)), weights(channels[1], channels[0], kernel)
    wide = torch.full((2, 3, 5, 7, channels[0] + 16), 7.0, dtype=grad.dtype).permute(0, 4, 1, 2, 3)
    gpu_forms.grad_input(grad, weight, wide[:, 8:-8])
    x = torch.zeros(2, channels[0], 3, 5, 7, dtype=torch.float64, requires_grad=True)
    y = F.conv3d(pad_same(x, kernel, ONE), weight.half().double())
    (exact,) = torch.autograd.grad(y, x, grad.double())
    assert_close("conv3d", wide[:, 8:-8], exact, scale=exact.abs().max().item())
    assert (wide[:, :8] == 7).all()
    assert (wide[:, -8:] == 7).all()


@pytest.mark.parametrize("name", CONVS)
def test_they_are_proved_and_wrong_ones_caught(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    its, _ = call(name)
    with collected() as found:
        launch.conv3d_stats(*its)
    (subject,) = found.values()
    assert prove(subject, its[0].device) == ("good", "")
    join = launch.join_stats
    monkeypatch.setattr(launch, "join_stats", lambda part, mean, var: join(part[:1], mean, var))
    assert prove(subject, its[0].device)[0] == "wrong"
