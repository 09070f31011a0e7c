"""The Triton max-pool with taps and its gradient in Triton's interpreter against their references: run by
test_max_pool3d_taps_triton.py.

A process must say TRITON_INTERPRET=1 before it imports triton, so these tests have one of their own.
"""

from __future__ import annotations

import itertools

import pytest
import torch
from interpreting import CHIPS, SENTINEL, clip
from torch import Tensor

from fasti3d.ops.max_pool3d_taps import launch
from fasti3d.ops.max_pool3d_taps.reference import (
    max_pool3d_taps_backward_reference,
    max_pool3d_taps_reference,
)
from fasti3d.proof.guard import collected
from fasti3d.proving import prove
from fasti3d.same_padding import same_shape

Triple = tuple[int, int, int]

ONE, THREE, TWO = (1, 1, 1), (3, 3, 3), (2, 2, 2)
DTYPES = (torch.float16, torch.bfloat16, torch.float32)
I3D_POOLS = [((1, 3, 3), (1, 2, 2)), (THREE, TWO), (TWO, TWO), (THREE, ONE)]
# The interpreter cuts bfloat16 off, where GPUs and PyTorch round.
ROUNDING = {torch.float16: 0.0, torch.bfloat16: 2.0**-7, torch.float32: 0.0}


@pytest.fixture(autouse=True)
def _chip(monkeypatch: pytest.MonkeyPatch) -> None:
    """Takes the largest tiles, which the interpreter is fastest with."""
    monkeypatch.setattr(launch, "gpu_traits", lambda device: CHIPS["pointer"]._replace(sms=1))


def sliced(x: Tensor, around: tuple[int, int] = (8, 8)) -> tuple[Tensor, Tensor]:
    """Memory for a map like x, poisoned, in a wider one of sentinels."""
    n, c, *size = x.shape
    beside = SENTINEL if x.is_floating_point() else 77
    wide = torch.full((n, *size, around[0] + c + around[1]), beside, dtype=x.dtype).permute(0, 4, 1, 2, 3)
    return wide[:, around[0] : around[0] + c].fill_(torch.nan if x.is_floating_point() else 255), wide


def check(x: Tensor, kernel: Triple, stride: Triple, around: tuple[int, int] = (8, 8)) -> None:
    """Both passes into slices, which leave what is beside them as it was."""
    shape = (*x.shape[:2], *same_shape(x.shape[2:], stride))
    y, taps = torch.empty(shape, dtype=x.dtype), torch.empty(shape, dtype=torch.uint8)
    results = []
    for run in (launch.max_pool3d_taps, max_pool3d_taps_reference):
        (out, wide), (winners, wide_winners) = sliced(y, around), sliced(taps, around)
        run(x, list(kernel), list(stride), out, winners)
        results.append((wide, wide_winners))
    for found, expected in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=0, equal_nan=True)

    grad = clip(len(x), x.shape[1] + sum(around), tuple(shape[2:]), x.dtype, seed=1)
    grad = grad[:, around[0] : around[0] + x.shape[1]]
    gradients = []
    for backward in (launch.max_pool3d_taps_backward, max_pool3d_taps_backward_reference):
        out, wide = sliced(x, around)
        backward(grad, winners, list(kernel), list(stride), out)
        gradients.append(wide)
    torch.testing.assert_close(*gradients, rtol=ROUNDING[x.dtype], atol=0)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("kernel", "stride"), I3D_POOLS)
def test_the_pools_of_the_network(kernel: Triple, stride: Triple, dtype: torch.dtype) -> None:
    check(clip(2, 24, (3, 5, 7), dtype), kernel, stride)
    # Ties, of which the first wins.
    check(clip(2, 24, (4, 6, 8), dtype).round(), kernel, stride)


@pytest.mark.parametrize("channels", [1, 5, 16, 130])
def test_channels(channels: int) -> None:
    check(clip(2, channels, (2, 3, 5)), THREE, ONE, around=(3, 5))


@pytest.mark.parametrize("size", [ONE, (2, 1, 9), (5, 6, 7)])
@pytest.mark.parametrize(
    ("kernel", "stride"),
    [(ONE, ONE), (ONE, (3, 2, 5)), ((5, 4, 7), (2, 3, 1)), ((9, 8, 2), (1, 2, 3)), ((1, 1, 9), ONE)],
)
def test_windows(size: Triple, kernel: Triple, stride: Triple) -> None:
    """Also ones that skip pixels, that reach beyond the clip on both sides, and that torch computes."""
    check(clip(2, 8, size), kernel, stride)


def test_layouts() -> None:
    wide = clip(3, 40, (3, 5, 6))
    for x in (wide[:, 8:24], wide[:, 3:20], wide[1::2, 8:24, ::2, 2:, 1::2], wide[:, :1]):
        check(x, THREE, TWO)
        check(x, (1, 3, 3), ONE, around=(3, 5))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_nan_and_infinities(dtype: torch.dtype) -> None:
    x = clip(2, 16, (4, 5, 6), dtype)
    generator = torch.Generator().manual_seed(1)
    for value in (torch.nan, torch.inf, -torch.inf):
        x[torch.rand(x.shape, generator=generator) < 0.05] = value
    x[1, 0] = -torch.inf  # of which the first that is not padding wins
    check(x, THREE, TWO)


def test_a_gradient_that_is_not_finite_goes_to_the_winners_alone() -> None:
    x = clip(1, 8, (2, 4, 4), torch.float32)
    y, taps = (torch.empty(1, 8, 2, 2, 2, dtype=dtype) for dtype in (x.dtype, torch.uint8))
    y, taps = (it.contiguous(memory_format=torch.channels_last_3d) for it in (y, taps))
    launch.max_pool3d_taps(x, [1, 3, 3], [1, 2, 2], y, taps)
    grad, out = torch.full_like(y, torch.nan), torch.empty_like(x)
    launch.max_pool3d_taps_backward(grad, taps, [1, 3, 3], [1, 2, 2], out)
    expected = torch.zeros_like(x)
    for frame, channel in itertools.product(range(2), range(8)):
        for row, column in itertools.product(range(2), range(2)):
            tap = int(taps[0, channel, frame, row, column])
            expected[0, channel, frame, 2 * row + tap // 3, 2 * column + tap % 3] = torch.nan
    assert torch.equal(out.isnan(), expected.isnan())
    assert (out.nan_to_num() == 0).all()


def test_small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "gpu_traits", lambda device: CHIPS["pointer"])
    check(clip(1, 72, (2, 3, 4)), (1, 3, 3), ONE)


@pytest.mark.parametrize(("kernel", "stride"), I3D_POOLS)
def test_both_passes_are_proved_and_wrong_ones_caught(
    kernel: Triple, stride: Triple, monkeypatch: pytest.MonkeyPatch
) -> None:
    dtype = torch.bfloat16
    x = clip(2, 24, (3, 13, 15), dtype)
    shape = (*x.shape[:2], *same_shape(x.shape[2:], stride))
    y, taps = sliced(torch.empty(shape, dtype=dtype))[0], torch.zeros(shape, dtype=torch.uint8)
    taps = taps.contiguous(memory_format=torch.channels_last_3d)
    with collected() as found:
        launch.max_pool3d_taps(x, list(kernel), list(stride), y, taps)
        launch.max_pool3d_taps_backward(y, taps, list(kernel), list(stride), torch.empty_like(x))
    assert len(found) == 2
    for subject in found.values():
        assert prove(subject, x.device) == ("good", "")
    pool, backward = launch.run, launch.run_backward

    def other_winner(*arguments: Tensor) -> None:
        pool(*arguments)  # type: ignore[arg-type]
        arguments[-1][-1, -1, -1, -1, -1] += 1

    def too_large(config: object, grad: Tensor, *others: object) -> None:
        backward(config, 1.5 * grad, *others)  # type: ignore[arg-type]

    monkeypatch.setattr(launch, "run", other_winner)
    monkeypatch.setattr(launch, "run_backward", too_large)
    assert {prove(subject, x.device)[0] for subject in found.values()} == {"wrong"}
