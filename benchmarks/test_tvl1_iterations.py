"""TV-L1's iterations alone, and what bounds them: the machine's arithmetic and its caches."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from benchmarks import flow_work
from benchmarks.conftest import Race, rounds_within
from benchmarks.flow_data import made_frames
from fasti3d.flow import TVL1Params

HEIGHT, WIDTH = 256, 340
# One level, one warp, no median: nothing but the 300 iterations is left worth speaking of.
ALONE = TVL1Params(
    nscales=1, warps=1, epsilon=0.0, inner_iterations=300, outer_iterations=1, median_filtering=0
)
PRODUCT = 2048
# As many floats as the iterations of one pair go over.
STATE = HEIGHT * WIDTH * flow_work.BYTES // 4


@pytest.mark.parametrize("pairs", [1, 2 * torch.get_num_threads()], ids="{} pairs".format)
def test_tvl1_iterations(race: Race, pairs: int) -> None:
    images = made_frames(pairs + 1, HEIGHT, WIDTH)
    arguments = flow_work.arguments(ALONE)

    def solve() -> torch.Tensor:
        return torch.ops.fasti3d.tvl1(images, None, None, *arguments)[1]

    done = flow_work.pixel_iterations(solve(), (HEIGHT, WIDTH), ALONE)
    assert done == pairs * 300 * HEIGHT * WIDTH
    describe(race, f"300 iterations, {WIDTH}x{HEIGHT}, {pairs} {'pair' if pairs == 1 else 'pairs at once'}")
    race(
        solve,
        None,
        rounds=rounds_within(1, solve),
        flop=done * flow_work.FLOP,
        moved_bytes=done * flow_work.BYTES,
    )
    if race.benchmark.stats is not None:
        race.benchmark.extra_info["gpixel_iterations_per_s"] = done / race.benchmark.stats.stats.median / 1e9


def test_tvl1_arithmetic(race: Race) -> None:
    a, b = torch.randn(2, PRODUCT, PRODUCT).unbind()
    run(race, f"float32 matrix product of {PRODUCT}", lambda: a @ b, flop=2 * PRODUCT**3)


def test_tvl1_bandwidth(race: Race) -> None:
    a, b, c = torch.randn(3, STATE // 3).unbind()
    name = f"c = a + 2 b, {3 * a.nbytes / 1e6:.1f} MB"
    run(race, name, lambda: torch.add(a, b, alpha=2.0, out=c), moved_bytes=3 * a.nbytes)


def run(race: Race, name: str, call: Callable[[], object], *, flop: int = 0, moved_bytes: int = 0) -> None:
    describe(race, name)
    race(call, None, rounds=rounds_within(0.5, call), flop=flop, moved_bytes=moved_bytes)


def describe(race: Race, name: str) -> None:
    race.benchmark.group = "TV-L1 iterations"
    race.benchmark.extra_info |= {"candidate": name, "case": "TV-L1 iterations"}
