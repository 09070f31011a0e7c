"""Batch norm with ReLU in training: statistics, the normalized map and both passes, against torch's."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from fasti3d.ops.batch_norm_relu import (
    batch_norm_relu_backward_,
    batch_norm_relu_sums,
    batch_norm_stats,
    scale_shift_relu_,
)
from fasti3d.runtime import extension

EPS = 1e-3
# (N, C, T, H, W): no channels that fill a vector, none but one, one pixel per row, many runs of pixels.
SHAPES = [(2, 37, 3, 5, 6), (1, 1, 2, 1, 3), (3, 64, 4, 1, 1), (2, 200, 3, 19, 23)]
# Relative to the largest value: float32 sums of short runs, joined in float64; a map is rounded once.
LIMITS = {torch.float32: 2e-6, torch.bfloat16: 1.01 * 2.0**-8}
PIXELS = (0, 2, 3, 4)


def maps(shape: tuple[int, ...], dtype: torch.dtype, *, whole: bool = False) -> Iterator[Tensor]:
    """Maps of one seed each: whole ones, or slices of wider ones."""
    for seed in range(10):
        generator = torch.Generator().manual_seed(seed)
        n, c, *size = shape
        wide = torch.randn(n, c + (0 if whole else 11), *size, generator=generator).to(dtype) * 2 + 0.5
        wide = wide.contiguous(memory_format=torch.channels_last_3d)
        yield wide if whole else wide[:, 4 : 4 + c]


def assert_near(actual: Tensor, expected: Tensor, limit: float) -> None:
    assert actual.shape == expected.shape
    assert (actual - expected).abs().max() <= limit * expected.abs().max().clamp(min=1e-6)


@pytest.mark.parametrize("dtype", LIMITS)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("whole", [True, False])
def test_equals_torch(kernels: None, shape: tuple[int, ...], dtype: torch.dtype, whole: bool) -> None:
    """All passes together are torch's batch norm and ReLU, and their gradients, in float64."""
    x, grad, out, *_ = maps(shape, dtype, whole=whole)
    out = out.zero_()
    weight, bias = torch.linspace(-1, 2, shape[1]) + 0.01, torch.linspace(1, -1, shape[1])
    exact = x.double().requires_grad_()
    affine = [t.double().requires_grad_() for t in (weight, bias)]
    running = [torch.zeros(shape[1]).double(), torch.zeros(shape[1]).double()]
    y = F.relu(F.batch_norm(exact, *running, *affine, True, 1.0, EPS))
    y.backward(grad.double())

    mean, var = batch_norm_stats(x)
    pixels = x.numel() // shape[1]
    assert_near(mean, running[0], 2e-6)
    assert_near(var * (pixels / (pixels - 1)), running[1], 2e-6)
    inverse = (var + EPS).rsqrt()
    scale = weight * inverse
    shift = bias - mean * scale
    assert scale_shift_relu_(x, scale, shift, out) is out
    assert_near(out, y.detach(), LIMITS[dtype])

    total, dot = batch_norm_relu_sums(grad, x, mean, scale, shift)
    assert_near(dot * inverse, affine[0].grad, 1e-5)
    assert_near(total, affine[1].grad, 1e-5)
    slope, offset = -scale * inverse**2 * dot / pixels, -scale * total / pixels
    assert batch_norm_relu_backward_(grad, x, mean, scale, shift, slope, offset, out) is out
    assert_near(out, exact.grad, 2 * LIMITS[dtype])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_variance_far_from_the_origin(kernels: None, dtype: torch.dtype) -> None:
    """A mean of thousands of deviations costs no digits of the variance, wherever the first pixel lies."""
    x = torch.randn(2, 19, 4, 30, 31, generator=torch.Generator().manual_seed(0)) + 2000
    x[0, :, 0, 0, 0] = 0  # as at a border of zeros
    x = x.to(dtype).contiguous(memory_format=torch.channels_last_3d)
    mean, var = batch_norm_stats(x)
    assert mean.dtype == var.dtype == dtype
    exact, average = torch.var_mean(x.double(), PIXELS, correction=0)
    torch.testing.assert_close(mean.double(), average, rtol=5e-7, atol=0)  # short sums in float32
    torch.testing.assert_close(var.double(), exact, rtol=1e-5, atol=0)


@pytest.mark.skipif(extension.CORE is None, reason="the extension was not built")
def test_sums_are_equal_to_the_bit_whatever_the_threads(isa: str) -> None:
    x, grad, *_ = maps((2, 48, 5, 40, 41), torch.float32)
    scale, shift = torch.randn(2, 48)
    threads, found = torch.get_num_threads(), []
    try:
        for number in (1, 2, 3, 2):
            torch.set_num_threads(number)
            stats = batch_norm_stats(x)
            found.append(torch.stack([*stats, *batch_norm_relu_sums(grad, x, stats[0], scale, shift)]))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(each, found[0]) for each in found[1:])


def test_what_is_not_finite(kernels: None) -> None:
    """As in torch: a NaN passes the ReLU, and its gradient; the statistics of its channel are NaN."""
    x = torch.zeros(1, 17, 1, 2, 3).contiguous(memory_format=torch.channels_last_3d)
    x[0, 3, 0, 0, 1], x[0, 5, 0, 1, 1], x[0, 7, 0, 0, 0] = torch.nan, torch.inf, -torch.inf
    ones, zeros = torch.ones(17), torch.zeros(17)
    out = torch.empty_like(x)
    scale_shift_relu_(x, ones, zeros, out)
    torch.testing.assert_close(out, F.relu(x), rtol=0, atol=0, equal_nan=True)
    leaf = x.clone().requires_grad_()
    F.relu(leaf).sum().backward()
    batch_norm_relu_backward_(torch.ones_like(x), x, zeros, ones, zeros, zeros, zeros, out)
    assert out[x.isnan()].isnan().all()
    assert torch.equal(out[x.isfinite()], leaf.grad[x.isfinite()])
    mean, var = batch_norm_stats(x)
    running = [torch.zeros(17), torch.zeros(17)]
    F.batch_norm(x, *running, training=True, momentum=1.0)
    assert torch.equal(mean.isfinite(), running[0].isfinite())
    torch.testing.assert_close(var * (6 / 5), running[1], rtol=0, atol=0, equal_nan=True)


def test_neighbors_of_a_slice_stay(kernels: None) -> None:
    for shape, dtype in product(SHAPES, LIMITS):
        x, grad, *_ = maps(shape, dtype)
        wide = torch.full((shape[0], shape[1] + 9, *shape[2:]), 7.0, dtype=dtype)
        wide = wide.contiguous(memory_format=torch.channels_last_3d)
        vectors = torch.randn(5, shape[1])
        scale_shift_relu_(x, *vectors[:2], wide[:, 5:-4])
        batch_norm_relu_backward_(grad, x, *vectors, wide[:, 5:-4])
        assert (wide[:, :5] == 7).all()
        assert (wide[:, -4:] == 7).all()


def test_pixels_that_are_not_evenly_apart(kernels: None) -> None:
    """Every other row of a map, and maps of other steps together."""
    wide = torch.randn(2, 24, 4, 10, 12).contiguous(memory_format=torch.channels_last_3d)
    x, dense = wide[:, 3:20, :, ::2, 1:8], wide[:, 3:20, :, ::2, 1:8].clone()
    assert x.stride() != dense.stride()
    for a, b in zip(batch_norm_stats(x), batch_norm_stats(dense), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-7)
    out = torch.empty_like(dense, memory_format=torch.channels_last_3d)
    scale, shift = torch.randn(2, 17)
    scale_shift_relu_(x, scale, shift, out)
    expected = F.relu(x * scale.view(-1, 1, 1, 1) + shift.view(-1, 1, 1, 1))
    torch.testing.assert_close(out, expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_other_dtypes_run_the_reference(dtype: torch.dtype) -> None:
    x, out, *_ = maps((1, 5, 2, 3, 4), dtype)
    mean, var = batch_norm_stats(x)
    scale, shift = torch.ones_like(mean), -mean
    scale_shift_relu_(x, scale, shift, out)
    assert_near(out, F.relu(x.double() - mean.double().view(-1, 1, 1, 1)), 2e-3)
    assert var.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)


@pytest.mark.skipif(extension.CORE is None, reason="the extension was not built")
def test_opcheck() -> None:
    x, grad, out, *_ = maps((1, 6, 2, 3, 4), torch.float32)
    v = list(torch.randn(7, 6))
    calls = {
        "batch_norm_stats_": (x, *v[:2]),
        "scale_shift_relu_": (x, *v[:2], out),
        "batch_norm_relu_sums_": (grad, x, *v[:5]),
        "batch_norm_relu_backward_": (grad, x, *v[:5], out),
    }
    for name, arguments in calls.items():
        torch.library.opcheck(getattr(torch.ops.fasti3d, name).default, arguments)
