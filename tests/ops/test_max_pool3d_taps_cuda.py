"""The max-pool with taps and its gradient on a GPU, at the network's sizes and odd ones."""

from __future__ import annotations

import itertools

import pytest
import torch
import torch.nn.functional as F
from requiring import require
from torch import Tensor

from fasti3d import network
from fasti3d.inspect.layers import Layer, layers
from fasti3d.ops.max_pool3d_taps import max_pool3d_taps, max_pool3d_taps_backward
from fasti3d.ops.max_pool3d_taps.reference import (
    max_pool3d_taps_backward_reference,
    max_pool3d_taps_reference,
)
from fasti3d.runtime import gpu

pytestmark = pytest.mark.gpu

Triple = tuple[int, int, int]

ONE, THREE, TWO = (1, 1, 1), (3, 3, 3), (2, 2, 2)
DTYPES = (torch.float32, torch.float16, torch.bfloat16)
POOLS = [layer for layer in layers(3, (64, 224, 224)) if isinstance(layer.spec, network.Pool)]


@pytest.fixture(autouse=True)
def _kernel() -> None:
    require(gpu.why_no_triton(torch.device("cuda")))


def clip(batch: int, channels: int, size: Triple, dtype: torch.dtype, seed: int = 0) -> Tensor:
    """Values with many ties, of which the first wins."""
    generator = torch.Generator("cuda").manual_seed(seed)
    x = torch.randn(batch, *size, channels, generator=generator, device="cuda").mul(4).round().to(dtype)
    return x.permute(0, 4, 1, 2, 3)


def check(x: Tensor, kernel: Triple, stride: Triple) -> None:
    y, taps = max_pool3d_taps(x, kernel, stride)
    expected, winners = torch.empty_like(y), torch.empty_like(taps)
    max_pool3d_taps_reference(x, kernel, stride, expected, winners)
    torch.testing.assert_close(y, expected, rtol=0, atol=0, equal_nan=True)
    assert torch.equal(taps, winners)
    grad = clip(len(x), x.shape[1], tuple(y.shape[2:]), x.dtype, seed=1)
    found = max_pool3d_taps_backward(grad, taps, kernel, stride, x.shape[2:])
    right = torch.empty_like(found)
    max_pool3d_taps_backward_reference(grad, taps, kernel, stride, right)
    assert torch.equal(found, right)
    assert torch.equal(found, max_pool3d_taps_backward(grad, taps, kernel, stride, x.shape[2:]))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("layer", POOLS, ids=str)
def test_every_pool_of_the_network(layer: Layer, dtype: torch.dtype) -> None:
    for batch in (1, 3):
        check(clip(batch, layer.in_channels, layer.in_size, dtype), layer.spec.kernel, layer.spec.stride)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("channels", [1, 5, 24, 130])
def test_odd_pools(channels: int, dtype: torch.dtype) -> None:
    x = clip(3, channels, (5, 9, 11), dtype)
    for kernel, stride in itertools.product((ONE, THREE, (5, 4, 7), (9, 8, 2)), (ONE, TWO, (2, 3, 1))):
        check(x, kernel, stride)
        check(x[1::2, :, ::2, 2:, 1::2], kernel, stride)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_nan_and_infinities(dtype: torch.dtype) -> None:
    x = clip(2, 16, (8, 9, 9), dtype)
    generator = torch.Generator("cuda").manual_seed(1)
    for value in (torch.nan, torch.inf, -torch.inf):
        x[torch.rand(x.shape, generator=generator, device="cuda") < 0.02] = value
    check(x, THREE, TWO)


def test_gradients_are_torchs() -> None:
    x = torch.rand(2, 24, 5, 9, 11, device="cuda").contiguous(memory_format=torch.channels_last_3d)
    leaf = x.clone().requires_grad_()
    y = F.max_pool3d(F.pad(leaf, (1, 1, 1, 1, 1, 1), value=float("-inf")), 3, 1)
    grad = torch.rand_like(y).contiguous(memory_format=torch.channels_last_3d)
    (expected,) = torch.autograd.grad(y, leaf, grad)
    pooled, taps = max_pool3d_taps(x, THREE, ONE)
    assert torch.equal(pooled, y)
    torch.testing.assert_close(max_pool3d_taps_backward(grad, taps, THREE, ONE, x.shape[2:]), expected)


def test_more_than_two_to_the_31_elements() -> None:
    if torch.cuda.mem_get_info()[0] < 30e9:
        pytest.skip("needs 30 GB of free GPU memory")
    x = torch.zeros(1, 35, 1000, 1000, 64, dtype=torch.bfloat16, device="cuda").permute(0, 4, 1, 2, 3)
    x[:, :, :, 1::2, 1::2] = 1
    assert x.numel() > 2**31
    y, taps = max_pool3d_taps(x, (1, 2, 2), (1, 2, 2))
    assert (y == 1).all()
    assert (taps == 3).all()
    assert torch.equal(max_pool3d_taps_backward(y, taps, (1, 2, 2), (1, 2, 2), x.shape[2:]), x)
