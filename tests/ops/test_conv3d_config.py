"""The choice of a kernel configuration, which is pure, and the folding of few channels."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from tolerances import assert_close

from fasti3d.ops.conv3d_bn_relu.config import Config, Problem, choose
from fasti3d.ops.conv3d_bn_relu.model import shared_memory
from fasti3d.ops.conv3d_bn_relu.space_to_depth import cell_channels, fold_weight, folded_kernel, is_folded
from fasti3d.runtime.precision import Precision

ONE, THREE, TWO = (1, 1, 1), (3, 3, 3), (2, 2, 2)
H200, A100, RTX4090 = ((9, 0), 132), ((8, 0), 108), ((8, 9), 128)
CONV_2C = (8, 64, 192, (32, 56, 56), THREE, ONE)


def test_the_largest_convolution_of_the_network() -> None:
    assert choose(Problem(*CONV_2C, *H200)) == Config("descriptor", (1, 4, 8, 8), 128, 64, 64, 8, 3)
    assert choose(Problem(*CONV_2C, *A100)).form == "pointer"
    assert choose(Problem(*CONV_2C, *RTX4090)).form == "pointer"


def test_it_prints_as_it_is_written() -> None:
    config = choose(Problem(*CONV_2C, *H200))
    assert eval(str(config)) == config
    float32 = choose(replace(Problem(*CONV_2C, *H200), precision=Precision.TF32X3))
    assert eval(str(float32)) == float32 != config
    assert float32.short.endswith(", tf32x3")
    assert str(config).startswith("Config(form='descriptor', box=(1, 4, 8, 8), block_n=128, block_n_rest=64")


@pytest.mark.parametrize(
    ("size", "wasted"),
    [((32, 56, 56), 1.0), ((32, 28, 28), 1.0), ((16, 14, 14), 1.0), ((8, 7, 7), 1.15), ((4, 9, 5), 1.5)],
)
def test_boxes_waste_few_pixels(size: tuple[int, int, int], wasted: float) -> None:
    config = choose(Problem(8, 128, 256, size, THREE, ONE, *H200))
    covered = math.prod(-(-n // b) * b for n, b in zip((8, *size), config.box, strict=True))
    assert covered <= wasted * 8 * math.prod(size)


def test_small_maps_take_small_tiles_to_keep_the_machine_busy() -> None:
    problem = (192, 384, (8, 7, 7), THREE, ONE)
    one, many = choose(Problem(1, *problem, *H200)), choose(Problem(64, *problem, *H200))
    assert one.block_m * one.block_n < many.block_m * many.block_n
    assert choose(Problem(1, *problem, (9, 0), 1)) == choose(Problem(1, *problem, (9, 0), 2))


@pytest.mark.parametrize(("first", "second"), [(64, 112), (192, 112), (128, 160), (384, 240), (8, 8)])
@pytest.mark.parametrize("chip", [H200, A100, RTX4090])
def test_no_tile_straddles_two_outputs(chip: tuple[tuple[int, int], int], first: int, second: int) -> None:
    problem = Problem(8, 192, first + second, (1, 1, 25088), ONE, ONE, *chip, split=first)
    config = choose(problem)
    channels = config.block_n + config.block_n_rest
    tiles, tiles_first = problem.channel_tiles(channels)
    assert (tiles_first - 1) * channels < first <= tiles_first * channels
    assert (tiles - tiles_first - 1) * channels < second <= (tiles - tiles_first) * channels
    assert replace(problem, split=0).channel_tiles(channels) == (-(-(first + second) // channels),) * 2


def test_descriptors_only_where_they_can_serve() -> None:
    assert choose(Problem(1, 64, 64, (8, 8, 8), THREE, TWO, *H200)).form == "pointer"
    assert choose(Problem(1, 64, 64, (8, 8, 8), THREE, ONE, *H200, describable=False)).form == "pointer"
    assert choose(Problem(1, 64, 64, (8, 8, 8), THREE, ONE, (12, 0), 170)).form == "pointer"
    assert choose(Problem(1, 64, 64, (8, 8, 8), THREE, ONE, (10, 0), 148)).form == "descriptor"


def test_pointers_on_hopper_have_four_warps() -> None:
    """With 8 a loop over all taps gave wrong results (pytorch #173068)."""
    for batch, channels in itertools.product((1, 64), (64, 128, 512)):
        assert choose(Problem(batch, 64, channels, (16, 56, 56), THREE, TWO, *H200)).warps == 4


@pytest.mark.parametrize("capability", [(8, 0), (8, 6), (8, 9), (9, 0), (10, 0), (10, 1), (12, 0), (99, 0)])
def test_everything_fits_the_chip(capability: tuple[int, int]) -> None:
    for batch, c, n, size, kernel, stride in itertools.product(
        (1, 8),
        (8, 16, 24, 48, 96, 112, 832),
        (8, 64, 192, 320),
        ((1, 1, 1), (8, 14, 14)),
        (ONE, THREE),
        (ONE, TWO),
    ):
        config = choose(Problem(batch, c, n, size, kernel, stride, capability, 100))
        tile = (config.block_m + config.block_n + config.block_n_rest) * config.block_k * 2
        assert 2 <= config.stages <= 4
        assert config.stages * tile < shared_memory(capability)
        assert config.block_k in (16, 32, 64)
        steps = -(-c // config.block_k)
        assert steps * config.block_k <= max(16, 2 * c)


@pytest.mark.parametrize("kernel", [(7, 7, 7), THREE, (1, 3, 3), (2, 5, 4)])
@pytest.mark.parametrize("stride", [ONE, TWO, (2, 1, 2)])
@pytest.mark.parametrize("channels", [1, 2, 3, 5])
def test_a_convolution_over_cells_is_the_convolution(
    channels: int, stride: tuple[int, int, int], kernel: tuple[int, int, int]
) -> None:
    """Cells cut by hand, and the folded weights over them."""
    assert is_folded(channels, kernel)
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(4, channels, *kernel, generator=generator)
    x = torch.randn(2, channels, 16, 12, 14, generator=generator)
    (t, h, w), (st, sh, sw) = folded_kernel(kernel, stride), stride
    cells = x.view(2, channels, 16 // st, st, 12 // sh, sh, 14 // sw, sw).permute(0, 3, 5, 7, 1, 2, 4, 6)
    cells = cells.flatten(1, 4)
    cell = cell_channels(channels, stride)
    assert cell % 8 == 0
    cells = F.pad(cells, (0, 0, 0, 0, 0, 0, 0, cell - cells.shape[1]))
    rows = fold_weight(weight, stride)
    assert rows.shape == (4, t * h, w * cell)
    y = F.conv3d(cells, rows.view(4, t, h, w, cell).permute(0, 4, 1, 2, 3))
    expected = F.conv3d(x, weight, stride=stride)
    assert_close("conv3d", y, expected[:, :, : y.shape[2], : y.shape[3], : y.shape[4]])
