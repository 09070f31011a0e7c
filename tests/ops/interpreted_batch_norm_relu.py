"""The Triton passes of a batch norm with ReLU in Triton's interpreter against float64 and their references:
run by test_batch_norm_relu_triton.py.

A process must say TRITON_INTERPRET=1 before it imports triton, so these tests have one of their own.
"""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from interpreting import CHIPS, SENTINEL, clip
from torch import Tensor

from fasti3d.ops.batch_norm_relu import launch, reference
from fasti3d.ops.batch_norm_relu.config import Config
from fasti3d.proof.guard import collected
from fasti3d.proving import prove

Triple = tuple[int, int, int]

DTYPES = (torch.float16, torch.bfloat16, torch.float32)
# Channels, and those before and behind a slice of them: whole packs of 16 bytes, or one by one.
CHANNELS = [(1, 0, 0), (5, 3, 2), (24, 8, 16), (72, 1, 0)]
SIZE: Triple = (3, 5, 7)
# The interpreter cuts bfloat16 off, where GPUs and PyTorch round.
ROUNDING = {torch.float16: 0.0, torch.bfloat16: 2.0**-7, torch.float32: 0.0}


@pytest.fixture(autouse=True)
def _chip(monkeypatch: pytest.MonkeyPatch) -> None:
    """Programs of many steps, and the largest tiles."""
    monkeypatch.setattr(launch, "gpu_traits", lambda device: CHIPS["pointer"]._replace(sms=1))


@pytest.fixture(params=["few programs", "many programs"])
def _programs(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same, and programs of one step each."""
    if request.param == "many programs":
        monkeypatch.setattr(launch, "gpu_traits", lambda device: CHIPS["pointer"])


def sliced(channels: int, around: tuple[int, int], dtype: torch.dtype, seed: int = 0) -> Tensor:
    """A channel slice of a wider map, with NaN beside it."""
    wide = clip(3, around[0] + channels + around[1], SIZE, dtype, seed)
    its = wide[:, around[0] : around[0] + channels]
    values = its.clone()
    wide.fill_(torch.nan)
    return its.copy_(values)


def poisoned(x: Tensor, around: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """A slice to write to, and the wider map of sentinels that it is of."""
    n, c, *size = x.shape
    wide = torch.full((n, *size, around[0] + c + around[1]), SENTINEL, dtype=x.dtype).permute(0, 4, 1, 2, 3)
    its = wide[:, around[0] : around[0] + c]
    return its.fill_(torch.nan), wide


def vectors(count: int, channels: int) -> Sequence[Tensor]:
    return torch.randn(count, channels, generator=torch.Generator().manual_seed(2)).unbind()


def statistics(x: Tensor) -> tuple[Tensor, Tensor]:
    mean, var = torch.full((2, x.shape[1]), torch.nan).unbind()
    launch.batch_norm_stats(x, mean, var)
    return mean, var


@pytest.mark.usefixtures("_programs")
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("channels", "before", "behind"), CHANNELS)
def test_statistics(channels: int, before: int, behind: int, dtype: torch.dtype) -> None:
    x = sliced(channels, (before, behind), dtype)
    mean, var = statistics(x)
    exact_var, exact_mean = torch.var_mean(x.double(), (0, 2, 3, 4), correction=0)
    # Of deviations of 1; the interpreter adds a tile's rows one after the other.
    torch.testing.assert_close(mean.double(), exact_mean, rtol=0, atol=2e-6)
    torch.testing.assert_close(var.double(), exact_var, rtol=4e-6, atol=0)


@pytest.mark.usefixtures("_programs")
@pytest.mark.parametrize("first", [0.0, 3e6])
def test_a_mean_far_larger_than_the_deviation_costs_no_digits(first: float) -> None:
    """Nor does a first pixel far from the others, about which a tile's sums could have been taken."""
    x = clip(2, 8, SIZE, torch.float32) + 1e4
    x[0, :, 0, 0, 0] += first
    _, var = statistics(x)
    exact = x.double().var((0, 2, 3, 4), correction=0)
    # Means of tiles are rounded to float32, to 5e-4 of deviations of 1. Sums of squares lose all digits.
    torch.testing.assert_close(var.double(), exact, rtol=1e-4, atol=0)


@pytest.mark.usefixtures("_programs")
@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_values_that_are_not_finite_stay_in_their_channels(value: float) -> None:
    for place in (0, 6):  # of the pixels about whose mean a tile's sums are taken, and beyond them
        x = clip(2, 16, SIZE, torch.float32)
        clean = x.clone()
        x[0, 3, 2, 4, place] = value
        mean, var = statistics(x)
        expected, expected_var = statistics(clean)
        assert not mean[3].isfinite()
        assert var[3].isnan()
        others = torch.arange(16) != 3
        assert torch.equal(mean[others], expected[others])
        assert torch.equal(var[others], expected_var[others])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("channels", "before", "behind"), CHANNELS)
def test_normalized_maps_are_the_reference_s(
    channels: int, before: int, behind: int, dtype: torch.dtype
) -> None:
    x = sliced(channels, (before, behind), dtype)
    x[1, 0, 1, 1, :3] = torch.tensor([torch.nan, torch.inf, -torch.inf], dtype=dtype)
    scale, shift = vectors(2, channels)
    (out, wide), (expected, wide_expected) = (poisoned(x, (behind, before)) for _ in range(2))
    launch.scale_shift_relu(x, scale, shift, out)
    reference.scale_shift_relu_reference(x, scale, shift, expected)
    torch.testing.assert_close(wide, wide_expected, rtol=ROUNDING[dtype], atol=0, equal_nan=True)


@pytest.mark.usefixtures("_programs")
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("channels", "before", "behind"), CHANNELS)
def test_sums_of_the_gradient(channels: int, before: int, behind: int, dtype: torch.dtype) -> None:
    x, grad = sliced(channels, (0, 0), dtype), sliced(channels, (before, behind), dtype, seed=1)
    mean, scale, shift = vectors(3, channels)
    total, dot = torch.full((2, channels), torch.nan).unbind()
    launch.batch_norm_relu_sums(grad, x, mean, scale, shift, total, dot)
    # Stopped where the float32 products say so, but summed exactly.
    stopped = x * scale.view(-1, 1, 1, 1) + shift.view(-1, 1, 1, 1) <= 0
    below = grad.double().masked_fill(stopped, 0)
    off = x.double() - mean.double().view(-1, 1, 1, 1)
    for found, terms in ((total, below), (dot, below * off)):
        limit = 1e-6 * terms.abs().sum((0, 2, 3, 4))
        assert ((found - terms.sum((0, 2, 3, 4))).abs() <= limit).all()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("channels", "before", "behind"), CHANNELS)
def test_gradients_are_the_reference_s(channels: int, before: int, behind: int, dtype: torch.dtype) -> None:
    x, grad = sliced(channels, (0, 0), dtype), sliced(channels, (before, behind), dtype, seed=1)
    x[1, 0, 1, 1, :3] = torch.tensor([torch.nan, torch.inf, -torch.inf], dtype=dtype)
    grad[2, -1, 0, 0, 0] = torch.nan
    numbers = vectors(5, channels)
    (out, wide), (expected, wide_expected) = (poisoned(x, (behind, before)) for _ in range(2))
    launch.batch_norm_relu_backward(grad, x, *numbers, out)
    reference.batch_norm_relu_backward_reference(grad, x, *numbers, expected)
    torch.testing.assert_close(wide, wide_expected, rtol=ROUNDING[dtype], atol=0, equal_nan=True)


def test_a_gradient_of_the_relu_s_kinds_of_input() -> None:
    """0 stops it, and so does -0; NaN passes it, as in torch."""
    x = torch.tensor([1.0, 0.0, -0.0, torch.nan, -1.0]).view(1, 1, 1, 1, 5)
    one, zero = torch.ones(1), torch.zeros(1)
    out = torch.empty_like(x)
    launch.batch_norm_relu_backward(torch.full_like(x, 3), x, zero, one, zero, zero, zero, out)
    leaf = x.clone().requires_grad_()
    leaf.relu().backward(torch.full_like(x, 3))
    assert leaf.grad is not None
    # The slope of 0 times NaN is NaN.
    assert out.flatten()[:3].tolist() == leaf.grad.flatten()[:3].tolist() == [3, 0, 0]
    assert out.flatten()[4] == 0
    total, dot = torch.empty(2, 1).unbind()
    launch.batch_norm_relu_sums(torch.full_like(x, 3), x, zero, one, zero, total, dot)
    assert total.item() == 6
    assert dot.isnan().all()


def test_pixels_that_are_not_one_pitch_apart_are_pytorch_s(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "choose", None)
    x = clip(2, 8, (4, 6, 6), torch.float32)[:, :, ::2, 1:4]
    mean, var = statistics(x)
    torch.testing.assert_close(mean, x.mean((0, 2, 3, 4)))
    torch.testing.assert_close(var, x.var((0, 2, 3, 4), correction=0))


@pytest.mark.parametrize("name", launch.PASSES)
@pytest.mark.parametrize("dtype", DTYPES[1:2], ids=str)
def test_passes_are_proved_and_wrong_ones_caught(
    name: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    its = launch.PASSES[name]
    x, grad = sliced(24, (0, 0), dtype), sliced(24, (8, 0), dtype, seed=1)
    read = [grad, x][-its.maps :] + list(vectors(its.vectors, 24))
    written = (
        [torch.empty(24) for _ in range(2)] if name.endswith(("stats", "sums")) else [poisoned(x, (8, 8))[0]]
    )
    with collected() as found:
        getattr(launch, name)(*read, *written)
    (subject,) = found.values()
    assert prove(subject, x.device) == ("good", "")

    def wrong(config: Config, *arguments: Tensor) -> None:
        its.run(config, *arguments)
        arguments[-1][-1] += 1

    monkeypatch.setitem(launch.PASSES, name, its._replace(run=wrong))
    assert prove(subject, x.device)[0] == "wrong"


def test_many_tiles_are_joined_in_groups() -> None:
    """As a convolution finds them: of different numbers of pixels."""
    generator = torch.Generator().manual_seed(3)
    count = torch.randint(1, 256, (1300, 1), generator=generator).float().expand(1300, 9)
    average, spread = (
        100 + torch.randn(1300, 9, generator=generator),
        200 * torch.rand(1300, 9, generator=generator),
    )
    mean, var = torch.full((2, 9), torch.nan).unbind()
    launch.join_stats(torch.stack((average, spread, count), 1), mean, var)
    share = count.double() / count.sum(0)
    exact = (average * share).sum(0)
    torch.testing.assert_close(mean.double(), exact, rtol=1e-6, atol=0)
    exact_var = (spread.double() / count.sum(0) + (average - exact) ** 2 * share).sum(0)
    torch.testing.assert_close(var.double(), exact_var, rtol=1e-5, atol=0)
