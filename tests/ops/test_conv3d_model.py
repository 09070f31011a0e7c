"""The model of a convolution's time on a GPU, which is arithmetic, and what is chosen by it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from fasti3d.ops.conv3d_bn_relu.config import Config, Problem, choose, cut, modelled
from fasti3d.ops.conv3d_bn_relu.model import Tiles, nanoseconds, resident, step

ONE, THREE = (1, 1, 1), (3, 3, 3)
H200 = ((9, 0), 132)
# A tile that fits an SM four times.
SMALL = Tiles(132, 64, 64, steps=100, depth=64, stages=3, warps=4, instructions=100, registers=26)


@pytest.mark.parametrize(
    ("problem", "tile"),
    [
        ((8, 144, 288, (16, 14, 14), THREE), (256, 192)),
        ((8, 160, 320, (16, 14, 14), THREE), (256, 192)),
        ((8, 160, 320, (8, 7, 7), THREE), (128, 128)),
        ((8, 64, 192, (32, 56, 56), THREE), (256, 192)),
        ((1, 160, 320, (8, 7, 7), THREE), (64, 64)),
    ],
    ids=["4e", "4f", "5b", "2c", "5b of one clip"],
)
def test_tiles_of_the_network(
    problem: tuple[int, int, int, tuple[int, int, int], object], tile: object
) -> None:
    config = choose(Problem(*problem, ONE, *H200))  # type: ignore[arg-type]
    assert (config.block_m, config.block_n + config.block_n_rest) == tile


@pytest.mark.parametrize("problem", [(64, 64, 0), (192, 176, 64)], ids=["2b", "3b"])
def test_two_blocks_share_an_sm_where_memory_is_the_limit(problem: tuple[int, int, int]) -> None:
    """Of 1x1x1 convolutions of eight clips: else nothing is read while a block writes."""
    cin, cout, split = problem
    pixels = 802816 if split == 0 else 200704
    convolution = Problem(1, cin, cout, (1, 1, pixels), ONE, ONE, *H200, split=split)
    config = choose(convolution)
    assert resident(cut(convolution, config), (9, 0)) >= 2
    assert config.stages <= max(2, cut(convolution, config).steps)


def test_narrow_outputs_take_narrow_tiles_of_pointers() -> None:
    for channels, tile in ((8, 16), (16, 16), (32, 32), (48, 64)):
        assert choose(Problem(8, 64, channels, (32, 56, 56), THREE, ONE, (8, 0), 108)).block_n == tile


@pytest.mark.parametrize(
    ("changes", "limit"),
    [
        ({"pixels": 256, "channels": 192, "depth": 64, "stages": 3, "warps": 8}, "tensor"),
        ({"pixels": 256, "channels": 16, "depth": 64}, "l2"),
        ({"depth": 16, "warps": 8, "instructions": 250}, "issue"),
        ({"depth": 16}, "chain"),
    ],
)
def test_what_limits_a_step(changes: dict[str, int], limit: str) -> None:
    tiles = SMALL._replace(**changes)
    found = step(tiles, 1, *H200)
    assert found.limit == limit
    assert max(found) == getattr(found, limit)
    more = step(tiles, 2, *H200)
    assert [b / a for a, b in zip(found, more, strict=True)] == [2, 2, 2, 1]


def test_a_step_by_hand() -> None:
    """790 TFLOP/s over 132 SMs, 7.5 TB/s, four instructions a clock of 1.75 GHz."""
    found = step(SMALL, 1, *H200)
    assert found.tensor == pytest.approx(2 * 64**3 / 790e12 * 132 * 1e9, rel=0.01)
    assert found.l2 == pytest.approx(2 * 2 * 64 * 64 / 7.5e12 * 132 * 1e9, rel=0.01)
    assert found.issue == pytest.approx(100 / 1.75)
    # A load that arrives after 400 ns is waited for, where one step is loaded ahead.
    assert step(SMALL._replace(stages=2), 1, *H200).chain == 400
    assert found.chain == 200
    assert step(SMALL._replace(stages=4), 1, *H200).chain == pytest.approx(250 / 1.75)


def test_few_sms_have_more_of_the_cache() -> None:
    assert step(SMALL._replace(number=100), 1, *H200).l2 < step(SMALL, 1, *H200).l2
    assert step(SMALL._replace(number=7), 1, *H200).l2 == step(SMALL._replace(number=1), 1, *H200).l2


def test_blocks_of_an_sm() -> None:
    """By registers (90 of 256 threads each), by shared memory, and none where one does not fit."""
    tiles = SMALL._replace(pixels=128, channels=128, warps=8)
    assert resident(tiles._replace(stages=1), (9, 0)) == 2
    assert resident(tiles._replace(depth=16, pixels=64), (9, 0)) == 4
    assert resident(tiles._replace(stages=3), (9, 0)) == 2
    assert resident(tiles._replace(stages=4), (9, 0)) == 1
    assert resident(tiles._replace(stages=7), (9, 0)) == 0
    assert nanoseconds(tiles._replace(stages=7), *H200) == float("inf")


def test_tiles_take_turns() -> None:
    room = resident(SMALL, (9, 0))
    one, full = (nanoseconds(SMALL._replace(number=132 * n), *H200) for n in (1, room))
    assert one < full < room * one
    assert nanoseconds(SMALL._replace(number=132 * room + 1), *H200) == pytest.approx(full + one)
    assert nanoseconds(SMALL._replace(number=3 * 132 * room), *H200) == pytest.approx(3 * full)


def test_all_waste_counts() -> None:
    """Beyond a tile's last pixel, output channel and input channel as if it were there."""
    config = Config("descriptor", (1, 4, 8, 8), 128, 0, 64, 8, 3)  # type: ignore[arg-type]
    whole = Problem(1, 128, 128, (32, 56, 56), THREE, ONE, *H200)
    time = modelled(whole, config)
    for more in ({"size": (33, 56, 56)}, {"out_channels": 129}, {"in_channels": 129}):
        padded = replace(whole, **more)  # type: ignore[arg-type]
        assert modelled(padded, config) > time
    for less in ({"size": (29, 50, 49)}, {"out_channels": 65}, {"in_channels": 65}):
        assert modelled(replace(whole, **less), config) == time  # type: ignore[arg-type]
