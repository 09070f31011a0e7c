"""The Triton pools in Triton's interpreter against their references: run by test_pools_triton.py.

A process must say TRITON_INTERPRET=1 before it imports triton, so these tests have one of their own.
Every result goes into a poisoned channel slice with sentinels around it.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from interpreting import CHIPS, SENTINEL, clip, pack, tensor_cores, weights
from tolerances import assert_close
from torch import Tensor

from fasti3d.ops.max_pool3d_same import launch as pool_launch
from fasti3d.ops.max_pool3d_same.reference import max_pool3d_reference
from fasti3d.ops.pooled_conv3d import config as conv_config
from fasti3d.ops.pooled_conv3d import launch as conv_launch
from fasti3d.ops.pooled_conv3d.op import pool_and_convolve

Triple = tuple[int, int, int]

ONE, THREE, TWO = (1, 1, 1), (3, 3, 3), (2, 2, 2)
DTYPES = (torch.float16, torch.bfloat16, torch.float32)
I3D_POOLS = [((1, 3, 3), (1, 2, 2)), (THREE, TWO), (TWO, TWO), (THREE, ONE)]

_tensor_cores = pytest.fixture(autouse=True)(tensor_cores)


@pytest.fixture(autouse=True)
def _chip(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (pool_launch, conv_launch):
        # Takes the largest tiles, which the interpreter is fastest with.
        monkeypatch.setattr(module, "gpu_traits", lambda device: CHIPS["pointer"]._replace(sms=1))


def into_slice(
    shape: list[int], like: Tensor, around: tuple[int, int], run: Callable[[Tensor], None]
) -> Tensor:
    """What ``run`` writes into a poisoned channel slice, checked not to touch what is around it."""
    n, c, *size = shape
    wide = torch.full((n, *size, around[0] + c + around[1]), SENTINEL, dtype=like.dtype)
    wide[..., around[0] : around[0] + c] = torch.nan
    wide = wide.permute(0, 4, 1, 2, 3)
    out = wide[:, around[0] : around[0] + c]
    before = like.clone()
    run(out)
    assert (wide[:, : around[0]] == SENTINEL).all()
    assert (wide[:, around[0] + c :] == SENTINEL).all()
    assert torch.equal(before.nan_to_num(), like.nan_to_num())
    return out


def check_pool(
    x: Tensor,
    kernel: Triple,
    stride: Triple,
    around: tuple[int, int] = (8, 8),
    padding: Triple | None = None,
    ceil_mode: bool = False,
) -> None:
    expected = max_pool3d_reference(x, kernel, stride, padding, ceil_mode)
    out = into_slice(
        list(expected.shape),
        x,
        around,
        lambda y: pool_launch.max_pool3d(x, kernel, stride, y, padding, ceil_mode),
    )
    torch.testing.assert_close(out, expected, rtol=0, atol=0, equal_nan=True)


def check_pooled_conv(
    x: Tensor, out_channels: int, relu: bool = True, around: tuple[int, int] = (8, 8)
) -> None:
    weight, bias = weights(out_channels, x.shape[1], ONE)
    conv = pack(weight, bias, ONE, relu, x.dtype)
    shape = [len(x), out_channels, *x.shape[2:]]
    out = into_slice(shape, x, around, lambda y: pool_and_convolve(conv, x, y))
    pooled = max_pool3d_reference(x, THREE, ONE, None).double()
    exact = F.conv3d(pooled, weight.double(), bias.double())
    assert_close("conv3d", out, exact.relu() if relu else exact, scale=exact.abs().max().item())


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("size", [(4, 6, 8), (3, 5, 7)])
@pytest.mark.parametrize(("kernel", "stride"), I3D_POOLS)
def test_the_pools_of_the_network(kernel: Triple, stride: Triple, size: Triple, dtype: torch.dtype) -> None:
    check_pool(clip(2, 24, size, dtype), kernel, stride)


@pytest.mark.parametrize("ceil_mode", [False, True])
@pytest.mark.parametrize(
    ("kernel", "stride", "padding"),
    [
        ((1, 3, 3), (1, 2, 2), (0, 1, 1)),
        ((1, 3, 3), TWO, (0, 1, 1)),
        ((2, 3, 3), TWO, (0, 0, 0)),
        ((2, 1, 1), (2, 1, 1), (0, 0, 0)),
        ((4, 5, 6), (1, 3, 2), (2, 2, 3)),
    ],
)
def test_padding(kernel: Triple, stride: Triple, padding: Triple, ceil_mode: bool) -> None:
    check_pool(clip(2, 24, (4, 6, 7)) - 3, kernel, stride, padding=padding, ceil_mode=ceil_mode)


@pytest.mark.parametrize("channels", [1, 5, 8, 16, 72, 130])
def test_channels_of_a_pool(channels: int) -> None:
    check_pool(clip(2, channels, (2, 3, 5)), THREE, ONE)


@pytest.mark.parametrize("size", [ONE, (2, 1, 9), (5, 6, 7)])
@pytest.mark.parametrize(
    ("kernel", "stride"), [(ONE, ONE), (ONE, (3, 2, 5)), ((5, 4, 7), (2, 3, 1)), ((9, 8, 2), (1, 2, 3))]
)
def test_windows(size: Triple, kernel: Triple, stride: Triple) -> None:
    check_pool(clip(2, 8, size), kernel, stride)


def test_slices_and_layouts_of_a_pool() -> None:
    wide = clip(3, 40, (3, 5, 6))
    for x in (
        wide[:, 8:24],
        wide[:, 3:20],
        wide[1::2, 8:24, ::2, 2:, 1::2],
        wide[:1, :16].contiguous(),
        wide[:, :1],
    ):
        check_pool(x, THREE, TWO)
        check_pool(x, THREE, ONE, around=(3, 5))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_small_tiles(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool_launch, "gpu_traits", lambda device: CHIPS["pointer"])
    check_pool(clip(3, 72, (2, 3, 4), dtype), (1, 3, 3), ONE)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_nan_and_infinities_in_a_pool(dtype: torch.dtype) -> None:
    x = clip(2, 16, (4, 5, 6), dtype)
    generator = torch.Generator().manual_seed(1)
    for value in (torch.nan, torch.inf, -torch.inf):
        x[torch.rand(x.shape, generator=generator) < 0.02] = value
    x[1, 0] = -torch.inf
    check_pool(x, THREE, TWO)


@pytest.mark.parametrize("channels", [16, 24, 48, 96])
@pytest.mark.parametrize("size", [(4, 4, 8), (3, 5, 7), ONE])
def test_pooled_convolution(channels: int, size: Triple) -> None:
    check_pooled_conv(clip(2, channels, size), channels // 2)
    check_pooled_conv(clip(1, channels, size) - 3, 32, relu=False)  # where a pad of zeros would win


@pytest.mark.parametrize("out_channels", [8, 24, 32, 64, 128])
def test_output_channels_of_a_pooled_convolution(out_channels: int) -> None:
    check_pooled_conv(clip(2, 72, (2, 3, 5)), out_channels)
    check_pooled_conv(clip(2, 72, (2, 3, 5), torch.bfloat16), out_channels)


@pytest.mark.parametrize(("channels", "out_channels"), [(20, 24), (17, 9), (72, 128)])
def test_pooled_convolution_in_float32(channels: int, out_channels: int) -> None:
    check_pooled_conv(clip(2, channels, (2, 3, 5), torch.float32), out_channels, around=(4, 12))


def test_slices_and_layouts_of_a_pooled_convolution() -> None:
    wide = clip(3, 32, (3, 5, 6))
    check_pooled_conv(wide[:, 8:24], 16)
    check_pooled_conv(wide[1::2, 8:24, ::2, 2:, 1:5], 24)
    check_pooled_conv(wide[:, 3:20], 16)
    check_pooled_conv(wide[:1, :16].contiguous(), 17, around=(3, 5))


@pytest.mark.parametrize("box", [(2, 2, 4, 4), (8, 8, 1, 1), (1, 16, 2, 2)])
def test_boxes_of_a_pooled_convolution(box: conv_config.Box, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conv_launch, "choose", lambda problem: conv_config.Config(box, 32, 16, 4))
    check_pooled_conv(clip(2, 24, (3, 2, 3)), 24)


@pytest.mark.parametrize("dtype", DTYPES[:2], ids=str)
def test_non_finite_values_reach_every_output_they_touch(dtype: torch.dtype) -> None:
    weight, bias = weights(16, 16, ONE)
    conv = pack(weight, bias, ONE, True, dtype)
    for value in (torch.nan, torch.inf, -torch.inf):
        x = clip(2, 16, (3, 4, 5), dtype)
        x[1, 1, 1, 2, 3] = value
        y = torch.empty_like(x)
        pool_and_convolve(conv, x, y)
        pooled = max_pool3d_reference(x, THREE, ONE, None).double()
        exact = F.conv3d(pooled, conv.weight.double().view(16, 16, 1, 1, 1), bias.double()).relu()
        assert torch.equal(y.isnan(), exact.isnan())
        assert torch.equal(y.isinf(), exact.isinf())


@pytest.mark.parametrize("value", [torch.inf, torch.nan])
def test_weights_that_are_not_finite_leave_other_channels(value: float) -> None:
    """A chunk has more places than the 24 channels, and the tile than the 20 outputs."""
    x = clip(1, 24, (2, 3, 4))
    weight, bias = weights(20, 24, ONE)
    weight[7, 0] = weight[19, 23] = value
    conv = pack(weight, bias, ONE, False, x.dtype)
    y = torch.empty(1, 20, 2, 3, 4, dtype=x.dtype).contiguous(memory_format=torch.channels_last_3d)
    pool_and_convolve(conv, x, y)
    pooled = max_pool3d_reference(x, THREE, ONE, None).double()
    exact = F.conv3d(pooled, weight.double(), bias.double())
    for what in (torch.isnan, torch.isposinf, torch.isneginf):
        assert torch.equal(what(y), what(exact))


def test_empty_batches() -> None:
    x = clip(1, 16, (3, 4, 5))[:0]
    pool_launch.max_pool3d(x, THREE, ONE, torch.empty_like(x))
    weight, bias = weights(16, 16, ONE)
    pool_and_convolve(pack(weight, bias, ONE, True, x.dtype), x, torch.empty_like(x))
