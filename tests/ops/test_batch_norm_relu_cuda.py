"""The passes of a batch norm with ReLU on a GPU, at the network's sizes and odd ones."""

from __future__ import annotations

import pytest
import torch
from requiring import require
from torch import Tensor

from fasti3d.ops.batch_norm_relu import (
    batch_norm_relu_backward_,
    batch_norm_relu_sums,
    batch_norm_stats,
    reference,
    scale_shift_relu_,
)
from fasti3d.runtime import gpu

pytestmark = pytest.mark.gpu

Shape = tuple[int, int, int, int, int]

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
SENTINEL = 1234.0
# (N, C, T, H, W), and channels before and behind a slice: of the network on clips of 64 frames, and odd ones.
MAPS: list[tuple[Shape, tuple[int, int]]] = [
    ((2, 64, 32, 112, 112), (0, 0)),
    ((3, 192, 32, 28, 28), (64, 64)),
    ((2, 208, 16, 14, 14), (192, 112)),
    ((1, 384, 8, 7, 7), (384, 256)),
    ((3, 5, 5, 9, 11), (3, 4)),
    ((1, 1, 1, 1, 3), (1, 0)),
    ((2, 130, 3, 5, 7), (0, 1)),
]


@pytest.fixture(autouse=True)
def _kernel() -> None:
    require(gpu.why_no_triton(torch.device("cuda")))


def sliced(shape: Shape, around: tuple[int, int], dtype: torch.dtype, seed: int = 0) -> Tensor:
    """A channel slice of a wider map, with NaN beside it."""
    n, c, *size = shape
    generator = torch.Generator("cuda").manual_seed(seed)
    wide = torch.full((n, *size, around[0] + c + around[1]), torch.nan, dtype=dtype, device="cuda")
    its = wide.permute(0, 4, 1, 2, 3)[:, around[0] : around[0] + c]
    return its.copy_(torch.randn(shape, generator=generator, device="cuda"))


def poisoned(x: Tensor, around: tuple[int, int]) -> tuple[Tensor, Tensor]:
    n, c, *size = x.shape
    wide = torch.full((n, *size, around[0] + c + around[1]), SENTINEL, dtype=x.dtype, device="cuda")
    wide = wide.permute(0, 4, 1, 2, 3)
    return wide[:, around[0] : around[0] + c].fill_(torch.nan), wide


def vectors(count: int, channels: int) -> list[Tensor]:
    generator = torch.Generator("cuda").manual_seed(2)
    return list(torch.randn(count, channels, generator=generator, device="cuda").unbind())


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("shape", "around"), MAPS, ids=str)
def test_statistics(shape: Shape, around: tuple[int, int], dtype: torch.dtype) -> None:
    x = sliced(shape, around, dtype) + 3
    mean, var = batch_norm_stats(x)
    exact_var, exact_mean = torch.var_mean(x.double(), (0, 2, 3, 4), correction=0)
    torch.testing.assert_close(mean.double(), exact_mean, rtol=1e-6, atol=0)
    torch.testing.assert_close(var.double(), exact_var, rtol=1e-5, atol=1e-12)
    assert all(map(torch.equal, (mean, var), batch_norm_stats(x)))


def test_a_mean_far_larger_than_the_deviation_costs_no_digits() -> None:
    x = sliced((2, 64, 8, 56, 56), (0, 0), torch.float32) + 1e4
    _, var = batch_norm_stats(x)
    exact = x.double().var((0, 2, 3, 4), correction=0)
    torch.testing.assert_close(var.double(), exact, rtol=1e-4, atol=0)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("shape", "around"), MAPS, ids=str)
def test_maps_are_the_references(shape: Shape, around: tuple[int, int], dtype: torch.dtype) -> None:
    """To the bit, with values that are not finite, and nothing beside them is written."""
    x, grad = sliced(shape, (0, 0), dtype), sliced(shape, around, dtype, seed=1)
    x.view(-1)[:3] = torch.tensor([torch.nan, torch.inf, -torch.inf], device="cuda").to(dtype)
    mean, scale, shift, slope, offset = vectors(5, shape[1])
    found, expected = (poisoned(x, around) for _ in range(2))
    scale_shift_relu_(x, scale, shift, found[0])
    reference.scale_shift_relu_reference(x, scale, shift, expected[0])
    torch.testing.assert_close(found[1], expected[1], rtol=0, atol=0, equal_nan=True)
    numbers = (mean, scale, shift, slope, offset)
    batch_norm_relu_backward_(grad, x, *numbers, found[0].fill_(torch.nan))
    reference.batch_norm_relu_backward_reference(grad, x, *numbers, expected[0])
    torch.testing.assert_close(found[1], expected[1], rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("shape", "around"), MAPS, ids=str)
def test_sums_of_the_gradient(shape: Shape, around: tuple[int, int], dtype: torch.dtype) -> None:
    x, grad = sliced(shape, (0, 0), dtype), sliced(shape, around, dtype, seed=1)
    mean, scale, shift = vectors(3, shape[1])
    sums = batch_norm_relu_sums(grad, x, mean, scale, shift)
    stopped = x * scale.view(-1, 1, 1, 1) + shift.view(-1, 1, 1, 1) <= 0
    below = grad.double().masked_fill(stopped, 0)
    off = x.double() - mean.double().view(-1, 1, 1, 1)
    for found, terms in zip(sums, (below, below * off), strict=True):
        limit = 1e-6 * terms.abs().sum((0, 2, 3, 4))
        assert ((found - terms.sum((0, 2, 3, 4))).abs() <= limit).all()
    assert all(map(torch.equal, sums, batch_norm_relu_sums(grad, x, mean, scale, shift)))


def test_more_than_two_to_the_31_elements() -> None:
    if torch.cuda.mem_get_info()[0] < 30e9:
        pytest.skip("needs 30 GB of free GPU memory")
    x = torch.zeros(1, 35, 1000, 1000, 64, dtype=torch.bfloat16, device="cuda").permute(0, 4, 1, 2, 3)
    x[:, :, -1] = 1
    assert x.numel() > 2**31
    mean, var = batch_norm_stats(x)
    share = torch.full_like(mean, 1 / 35)
    torch.testing.assert_close(mean, share)
    torch.testing.assert_close(var, share * 34 / 35)
    one, zero = torch.ones_like(mean), torch.zeros_like(mean)
    y = scale_shift_relu_(x, 2 * one, zero, torch.empty_like(x))
    assert (y[:, :, -1] == 2).all()
    assert (y[:, :, :-1] == 0).all()
    total, dot = batch_norm_relu_sums(y, x, mean, one, zero)
    torch.testing.assert_close(total, 2e6 * one)
    torch.testing.assert_close(dot, 2e6 * (1 - mean))


def test_run_in_a_cuda_graph_on_another_stream() -> None:
    x, grad = (sliced((2, 96, 8, 28, 28), (0, 32), torch.bfloat16, seed) for seed in (0, 1))
    mean, scale, shift = vectors(3, 96)

    def run() -> tuple[Tensor, ...]:
        return *batch_norm_stats(x), *batch_norm_relu_sums(grad, x, mean, scale, shift)

    run()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = run()
    x.copy_(sliced((2, 96, 8, 28, 28), (0, 0), torch.bfloat16, seed=5))
    graph.replay()
    assert all(map(torch.equal, captured, run()))
