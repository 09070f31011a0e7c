"""The CUDA solver's logic without a GPU: its source, run on the CPU, against the reference.

Tiles and their halos, sweeps that are run again up to the stop, groups of blocks and their meetings, and
the division of the work. What is left for a GPU is in test_tvl1_cuda.py.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from math import ceil
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from torch import Tensor
from tvl1_making import arguments, frames
from tvl1_serial import ADDRESS, GPU, RACES, Clusters, Launch, Launches, Serial, Tiling, build

from fasti3d.flow.params import TVL1Params
from fasti3d.ops.tvl1.reference import Settings, pyramid_sizes, tvl1_reference

SHORT: dict[str, Any] = {"nscales": 2, "warps": 2, "inner_iterations": 13, "outer_iterations": 2}
FORMS: list[dict[str, Any]] = [
    {},
    {"mode": "opencv-cuda"},
    {"median_filtering": 3, "inner_iterations": 7, "outer_iterations": 3},
    {"median_filtering": 0, "epsilon": 0.03},
    {"gamma": 0.5},
    {"mode": "opencv-cuda", "gamma": 0.2, "scale_step": 0.5},
]
# One block and one tile; tiles that go round among blocks; tiles that stay with theirs; halos wider than
# a sweep; sweeps of every length.
TILINGS = [
    Tiling(),
    Tiling(blocks=3, halo=4, step=4),
    Tiling(groups=2, blocks=14, halo=4, step=8),
    Tiling(groups=2, blocks=2, halo=8, step=16, sweep=5),
    *(Tiling(blocks=4, halo=4, step=24, sweep=sweep) for sweep in (1, 2, 3)),
]
# A block, or two, whose warps all have work; pieces of a row in different blocks; blocks without any.
CLUSTERS = [Clusters(blocks=2), Clusters(clusters=2, blocks=3), Clusters(blocks=16)]
DESIGNS = [Tiling(blocks=3, halo=4, step=8), Clusters(blocks=3)]
# Of each design the coarse levels, then the fine ones: by fewer blocks, of more groups.
LAUNCHES = [
    (coarse, fine)
    for coarse in (Tiling(groups=2, blocks=2, halo=4, step=4, levels=1), Clusters(clusters=2, levels=1))
    for fine in (Tiling(blocks=3, halo=4, step=12), Clusters(blocks=3))
]
# Sides of less than a tile, of whole tiles, of a pixel more, odd; level sizes between.
SIZES = [(16, 16), (33, 120), (90, 65)]


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """For the reference: its tensors are too small to share."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def serial(tmp_path_factory: pytest.TempPathFactory) -> Serial:
    """With every access to memory checked."""
    return build(tmp_path_factory.mktemp("address"), *ADDRESS)


@pytest.fixture(scope="module")
def racing(tmp_path_factory: pytest.TempPathFactory) -> Serial:
    """With unordered accesses by different blocks reported."""
    return build(tmp_path_factory.mktemp("races"), *RACES)


@cache
def pair(size: tuple[int, int], count: int = 2) -> tuple[Tensor, Tensor]:
    clip = frames(count + 1, *size)
    return clip[:-1], clip[1:]


@cache
def expected(size: tuple[int, int], params: TVL1Params) -> tuple[Tensor, Tensor]:
    return tvl1_reference(*pair(size), None, *arguments(params))


def assert_same(actual: tuple[Tensor, ...], wanted: tuple[Tensor, ...]) -> None:
    for a, w in zip(actual, wanted, strict=True):
        torch.testing.assert_close(a, w, rtol=0, atol=0)


def blocks_of_a_cluster(size: tuple[int, int], components: int) -> int:
    """As many as hold a level, of whose pieces each of 12 warps keeps one."""
    pieces = ceil(size[1] / 64) * ceil(size[0] / (8 if components == 2 else 4))
    return ceil(pieces / 12)


@pytest.mark.parametrize(
    ("form", "tiling"),
    [
        *((FORMS[0], tiling) for tiling in (*TILINGS, *CLUSTERS)),
        *((form, tiling) for form in FORMS[1:] for tiling in (TILINGS[1], TILINGS[3], CLUSTERS[1])),
    ],
    ids=str,
)
def test_equals_the_reference(serial: Serial, form: dict[str, Any], tiling: Tiling | Clusters) -> None:
    changes = SHORT | form
    actual = serial.solve(*pair((41, 75)), tiling=tiling, **changes)
    assert_same(actual, expected((41, 75), TVL1Params(**changes)))


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_any_size(serial: Serial, size: tuple[int, int]) -> None:
    fitting = blocks_of_a_cluster(size, 2)
    for tiling in (Tiling(blocks=1), Tiling(blocks=6), Clusters(blocks=fitting), Clusters(blocks=7)):
        actual = serial.solve(*pair(size), tiling=tiling, **SHORT)
        assert_same(actual, expected(size, TVL1Params(**SHORT)))


@given(
    size=st.tuples(st.integers(3, 90), st.integers(3, 140)),
    blocks=st.integers(1, 9),
    halo=st.sampled_from([4, 8]),
    steps=st.integers(1, 6),
    sweep=st.integers(1, 8),
    form=st.sampled_from(FORMS),
)
@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_random_sizes_and_tilings(
    serial: Serial,
    size: tuple[int, int],
    blocks: int,
    halo: int,
    steps: int,
    sweep: int,
    form: dict[str, Any],
) -> None:
    tiling = Tiling(1, blocks, halo, min(4 * steps, 32 - 2 * halo), min(sweep, halo))
    changes = {"nscales": 2, "warps": 1, "inner_iterations": 9, "outer_iterations": 2} | form
    assert_same(serial.solve(*pair(size), tiling=tiling, **changes), expected(size, TVL1Params(**changes)))


@example(
    size=(31, 57), more=0, form=FORMS[2]
)  # the column beside the image reads what lies right of the piece
@given(
    size=st.tuples(st.integers(3, 90), st.integers(3, 140)),
    more=st.integers(0, 3),
    form=st.sampled_from(FORMS),
)
@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_random_sizes_and_clusters(
    serial: Serial, size: tuple[int, int], more: int, form: dict[str, Any]
) -> None:
    blocks = blocks_of_a_cluster(size, 3 if "gamma" in form else 2)
    changes = {"nscales": 2, "warps": 1, "inner_iterations": 9, "outer_iterations": 2} | form
    actual = serial.solve(*pair(size), tiling=Clusters(blocks=blocks + more), **changes)
    assert_same(actual, expected(size, TVL1Params(**changes)))


@pytest.mark.parametrize("launches", LAUNCHES, ids=str)
@pytest.mark.parametrize("form", [{}, {"mode": "opencv-cuda", "gamma": 0.2, "scale_step": 0.5}], ids=str)
def test_launches_give_the_same_bits(
    serial: Serial, form: dict[str, Any], launches: tuple[Tiling | Clusters, ...]
) -> None:
    changes = SHORT | form
    actual = serial.solve(*pair((41, 75)), tiling=launches, order=1, **changes)
    assert_same(actual, expected((41, 75), TVL1Params(**changes)))


@pytest.mark.parametrize("gamma", [0.0, 0.5])
def test_three_launches_hand_the_flow_of_each_pair_on(serial: Serial, gamma: float) -> None:
    """Of more pairs than groups, which end at different times and have an initial flow."""
    first, second = pair((47, 75), 5)
    second = second.clone()
    second[1], second[3] = first[1], frames(1, 47, 75, seed=7)[0]
    initial = 3 * torch.randn((5, 2, 47, 75), generator=torch.Generator().manual_seed(0))
    changes = SHORT | {"nscales": 4, "warps": 1, "epsilon": 0.05, "gamma": gamma}
    launches = (
        Clusters(clusters=3, levels=1),
        Tiling(groups=2, blocks=2, halo=4, step=8, levels=2),
        Clusters(clusters=2, blocks=4),
    )
    actual = serial.solve(first, second, initial, launches, **changes)
    wanted = tvl1_reference(first, second, initial, *arguments(TVL1Params(**changes)))
    assert_same(actual, wanted)
    assert all(len(its.unique()) > 2 for its in wanted[1].sum(2).T), "the pairs end at the same time"


def test_stops_within_a_sweep(serial: Serial) -> None:
    """At whatever iteration the rule says, also when a sweep has gone past it."""
    sweep = 4
    ends = set()
    for epsilon in (0.1, 0.05, 0.03, 0.02):
        changes = SHORT | {"epsilon": epsilon}
        actual = serial.solve(
            *pair((41, 75)), tiling=Tiling(blocks=3, halo=4, step=8, sweep=sweep), **changes
        )
        wanted = expected((41, 75), TVL1Params(**changes))
        assert_same(actual, wanted)
        assert_same(serial.solve(*pair((41, 75)), tiling=Clusters(blocks=3), **changes), wanted)
        ends |= set((wanted[1] % sweep).unique().tolist())
    assert ends == set(range(sweep)), "the cases leave out some place in a sweep"


@pytest.mark.parametrize("tiling", DESIGNS, ids=str)
def test_runs_to_the_cap(serial: Serial, tiling: Tiling | Clusters) -> None:
    """Without a tolerance, and at a scene cut: no sweep passes a median or the last iteration."""
    cut = frames(1, 40, 70), frames(1, 40, 70, seed=5)
    for epsilon in (0.0, 0.0005):
        changes = SHORT | {"epsilon": epsilon, "inner_iterations": 7, "outer_iterations": 3}
        actual = serial.solve(*cut, tiling=tiling, **changes)
        assert_same(actual, tvl1_reference(*cut, None, *arguments(TVL1Params(**changes))))
        assert actual[1].flatten().tolist() == [21] * 4


@pytest.mark.parametrize("tiling", DESIGNS, ids=str)
@pytest.mark.parametrize("mode", ["opencv-cpu", "opencv-cuda"])
def test_initial_flow_and_float_frames(serial: Serial, mode: str, tiling: Tiling | Clusters) -> None:
    """A flow that points far outside too."""
    first, second = (frame.float() / 255 for frame in pair((41, 75)))
    initial = 3 * torch.randn((2, 2, 41, 75), generator=torch.Generator().manual_seed(0))
    initial[:, :, ::7, ::5] *= 100
    changes = SHORT | {"mode": mode, "epsilon": 0.05}
    actual = serial.solve(first, second, initial, tiling, **changes)
    assert_same(actual, tvl1_reference(first, second, initial, *arguments(TVL1Params(**changes))))


def test_identical_frames_do_not_move(serial: Serial) -> None:
    first, _ = pair((41, 75))
    for frame in (first, torch.full_like(first, 97)):
        flow, iterations = serial.solve(frame, frame, tiling=Tiling(blocks=2), **SHORT)
        assert not flow.any()
        assert iterations.max() == 1


@pytest.mark.parametrize("tiling", DESIGNS, ids=str)
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_comes_to_an_end_whatever_the_frames_hold(
    serial: Serial, value: float, tiling: Tiling | Clusters
) -> None:
    """Reads and writes nothing outside either: the operator does not look at the values."""
    first, second = (frame.float() / 255 for frame in pair((41, 75)))
    second[:, 20:23, 30:50] = value
    _, iterations = serial.solve(first, second, tiling=tiling, **SHORT)
    assert iterations.max() <= 26


@pytest.mark.parametrize("form", [FORMS[0], FORMS[4]], ids=str)
@pytest.mark.parametrize(
    "tiling",
    [Tiling(groups=2, blocks=3, halo=4, step=12), Clusters(clusters=2, blocks=3), LAUNCHES[1]],
    ids=str,
)
def test_order_of_the_threads_does_not_matter(serial: Serial, form: dict[str, Any], tiling: Launches) -> None:
    changes = SHORT | form
    for order in (1, 2):
        actual = serial.solve(*pair((41, 75)), tiling=tiling, order=order, **changes)
        assert_same(actual, expected((41, 75), TVL1Params(**changes)))


FEW: dict[str, Any] = {"nscales": 2, "warps": 2, "inner_iterations": 5, "outer_iterations": 2}


@pytest.mark.parametrize("form", [{}, {"gamma": 0.5, "mode": "opencv-cuda"}], ids=str)
def test_blocks_do_not_race(racing: Serial, form: dict[str, Any]) -> None:
    """Three pairs by two groups: one of them takes a second pair."""
    clip = frames(4, 40, 70)
    initial = torch.randn((3, 2, 40, 70), generator=torch.Generator().manual_seed(0))
    changes = FEW | form
    for tiling in (
        Tiling(groups=2, blocks=3, halo=4, step=8),
        Tiling(groups=2, blocks=8, halo=4, step=8),
        Clusters(clusters=2, blocks=4),
        (Clusters(clusters=2, levels=1), Tiling(groups=2, blocks=3, halo=4, step=8)),
        (Tiling(groups=2, blocks=2, halo=4, step=8, levels=1), Clusters(clusters=2, blocks=4)),
    ):
        actual = racing.solve(clip[:-1], clip[1:], initial, tiling, **changes)
        assert_same(actual, tvl1_reference(clip, None, initial, *arguments(TVL1Params(**changes))))


def assert_noticed(racing: Serial, tiling: Launches, skipped: int) -> None:
    """As a race, or, where a block ran far ahead before the sanitizer saw one, as a read of what the
    others had yet to write."""
    first, second = pair((40, 70), 1)
    with pytest.raises(subprocess.CalledProcessError) as error:
        racing.solve(first, second, None, tiling, skipped=skipped, **FEW)
    assert re.search("ThreadSanitizer: data race|never written", error.value.stderr)


@pytest.mark.parametrize("skipped", range(0, 10, 3))
def test_a_missing_meeting_is_noticed(racing: Serial, skipped: int) -> None:
    """So that the test above means something."""
    assert_noticed(racing, Tiling(blocks=3, halo=4, step=8), skipped)


@pytest.mark.parametrize("skipped", [0, 2])
def test_a_missing_meeting_of_the_second_launch_is_noticed(racing: Serial, skipped: int) -> None:
    """Of the pyramids' levels, and before the flow that the first launch handed on is used."""
    launches = (Clusters(levels=1), Tiling(blocks=3, halo=4, step=8))
    assert_noticed(racing, launches, skipped)


@pytest.mark.parametrize("skipped", [0, 4, 6, 8])
def test_a_missing_exchange_is_noticed(racing: Serial, skipped: int) -> None:
    """Two meetings, the second before the iterations; what is sent at their start; u, p and u again."""
    assert_noticed(racing, Clusters(blocks=3), skipped)


def test_fast_arithmetic_is_the_same_in_every_tiling(serial: Serial) -> None:
    """And close to the exact one: to the tolerances of test_tvl1_cuda.py, whose GPU rounds differently."""
    first, second = pair((41, 75))
    changes: dict[str, Any] = {"nscales": 1, "inner_iterations": 30, "outer_iterations": 1, "epsilon": 0.0}
    exact, _ = serial.solve(first, second, **changes)
    fast = serial.solve(first, second, exact=False, **changes)
    assert not torch.equal(fast[0], exact)
    error = (fast[0] - exact).square().sum(1).sqrt()
    assert error.mean() <= 1e-4
    assert error.max() <= 0.05
    stopping = SHORT | {"epsilon": 0.03}
    stopped = serial.solve(first, second, exact=False, **stopping)
    for tiling in (*TILINGS[1:4], *CLUSTERS[:2]):
        assert_same(serial.solve(first, second, tiling=tiling, exact=False, **changes), fast)
        assert_same(serial.solve(first, second, tiling=tiling, exact=False, **stopping), stopped)
    for launches in LAUNCHES:
        assert_same(serial.solve(first, second, tiling=launches, exact=False, **stopping), stopped)


# With clusters of 1, 2, 4, 8 and 16 blocks where the GPU has them.
DEVICES = {
    "H200": GPU(264, 60 << 20, (132, 66, 33, 16, 8)),
    "A100": GPU(216, 40 << 20),
    "RTX 3090": GPU(164, 6 << 20),
    "RTX 5090": GPU(340, 96 << 20, (170, 85, 42, 21, 0)),
    "tiny": GPU(4, 1 << 20),
}
H200 = DEVICES["H200"]
PLAN_SIZES = [(3, 3), (16, 16), (17, 300), (300, 17), (224, 224), (256, 340), (511, 513), (1080, 1920)]
PLAN_FORMS = [TVL1Params(), TVL1Params(gamma=0.3), TVL1Params.preset("large-motion")]
MANY_LEVELS = TVL1Params(nscales=60, scale_step=0.98)


def test_tiles(serial: Serial) -> None:
    """Every pixel belongs to one tile's core, and no tile is higher than a block."""
    cases = [(blocks, *size, form) for blocks in (1, 30, 264) for size in PLAN_SIZES for form in PLAN_FORMS]
    for levels in serial.tiles(cases):
        assert levels
        for _, _, halo, sweep, tiles, least, most, rows in levels:
            assert least == most == 1
            assert sweep <= halo
            assert rows <= 32
            assert tiles >= 1


def launches_of(plan: list[Launch | None]) -> list[Launch]:
    assert None not in plan
    return [launch for launch in plan if launch]


@pytest.mark.parametrize("design", ["groups", "groups/1", "groups/2", "auto"])
@pytest.mark.parametrize("device", DEVICES)
def test_plan(serial: Serial, device: str, design: str) -> None:
    """The launches cover the levels, run at the same time what they wait for, and their memory is bounded."""
    gpu = DEVICES[device]
    forms = [*PLAN_FORMS, MANY_LEVELS]
    cases = [(pairs, *size, form) for size in PLAN_SIZES for pairs in (1, 7, 256) for form in forms]
    for case, plan in zip(cases, serial.plan(gpu, cases, design), strict=True):
        pairs, height, width, form = case
        launches = launches_of(plan)
        count = len(pyramid_sizes((height, width), Settings(**vars(form))))
        ends = [launch.end for launch in launches]
        assert ends == sorted(ends, reverse=True)
        assert [count, *(launch.first for launch in launches)] == [*ends, 0]
        if "/" in design:
            assert len(launches) == min(int(design[-1]), count)
        for launch in launches:
            assert 1 <= launch.groups <= pairs
            if launch.clusters:
                assert launch.groups <= gpu.clusters[launch.blocks.bit_length() - 1]
            else:
                assert launch.groups * launch.blocks <= gpu.blocks
            # Two pyramids, of at most 2.8 images without many levels, the packed image and the data; u and p
            # twice; rows end at a multiple of 8 floats, planes at one of 32.
            images = 2 * (2.8 if form is not MANY_LEVELS else 60)
            planes = images + 4 + 4 + (12 if form.gamma == 0 else 18)
            plane = height * (width + 7) + 32
            assert launch.floats <= planes * plane + 2 * 8 * 2 * launch.blocks + 1024


def test_plan_of_one_pair_and_of_many(serial: Serial) -> None:
    """A single pair has the whole GPU to itself, as far as it can use it; 64 share it, more of them
    at a time at coarse levels.
    """
    params = TVL1Params()
    cases = [(pairs, *size, params) for pairs, size in ((1, (256, 340)), (64, (256, 340)), (8, (1080, 1920)))]
    for design in ("groups", "auto"):
        (one,), many, (large,) = map(launches_of, serial.plan(H200, cases, design))
        assert one.groups == 1
        assert one.blocks > H200.blocks / 2
        assert len(many) > 1
        assert many[-1].groups >= 4
        assert many[0].groups > many[-1].groups
        for launch in many:
            assert launch.groups * launch.blocks > (0.45 if launch.clusters else 0.9) * H200.blocks
            assert launch.groups * launch.floats * 4 < 100e6  # bytes: of the pairs in work, not of the batch
        assert (large.groups, large.blocks) == (1, H200.blocks)  # its state fills the cache several times


@pytest.mark.parametrize("design", ["groups", "cluster"])
def test_launches_for_coarse_levels_save_time(serial: Serial, design: str) -> None:
    """Modelled, a tenth of it and more, for many pairs; none without."""
    case = (64, 256, 340, TVL1Params())
    free, one = (
        sum(launch.cycles for launch in launches_of(serial.plan(H200, [case], its)[0]))
        for its in (design, f"{design}/1")
    )
    assert free < 0.9 * one


def test_mixed_has_the_coarse_levels_in_clusters(serial: Serial) -> None:
    """Also where that is slower, as for a single pair; one level, which has no coarser ones, in groups."""
    cases = [(pairs, 256, 340, TVL1Params()) for pairs in (1, 64)]
    for plan in serial.plan(H200, cases, "mixed"):
        *coarse, fine = launches_of(plan)
        assert coarse
        assert all(launch.clusters for launch in coarse)
        assert not fine.clusters
    (plan,) = serial.plan(H200, [(64, 256, 340, TVL1Params(nscales=1))], "mixed")
    assert [launch.clusters for launch in launches_of(plan)] == [False]
    assert serial.plan(DEVICES["A100"], cases, "mixed") == [[], []]


def test_plan_of_clusters(serial: Serial) -> None:
    """The fewest blocks that hold the finest level, more only for SMs that would be idle, and
    none for a level that the largest cluster cannot hold.
    """
    less = GPU(296, 100 << 20, (148, 74, 37, 18, 0))
    cases = [
        (H200, 64, (224, 224), 0.0, 16),
        (H200, 64, (256, 340), 0.0, 16),
        (H200, 64, (257, 340), 0.0, None),
        (H200, 64, (256, 340), 0.3, None),
        (H200, 1, (480, 640), 0.0, None),
        (less, 64, (224, 224), 0.0, None),
        (less, 64, (192, 256), 0.0, 8),
        (H200, 256, (96, 64), 0.0, 1),
        (H200, 256, (97, 64), 0.0, 2),
        (H200, 256, (48, 64), 0.3, 1),
        (H200, 1, (97, 64), 0.0, 16),
        (H200, 1, (16, 16), 0.0, 2),  # two pieces
        (H200, 1, (8, 16), 0.0, 1),
    ]
    for gpu, pairs, size, gamma, blocks in cases:
        (plan,) = serial.plan(gpu, [(pairs, *size, TVL1Params(nscales=1, gamma=gamma))], "cluster")
        assert [launch.blocks for launch in launches_of(plan)] == ([] if blocks is None else [blocks])


def test_a_refused_launch_becomes_a_smaller_one(serial: Serial) -> None:
    """The fastest that the driver takes; in the end no blocks wait for each other."""
    one, many = ((pairs, 256, 340, TVL1Params()) for pairs in (1, 64))
    for most in (200, 120, 33, 5):
        refusing = replace(DEVICES["A100"], blocks=264, max_blocks=most)
        (launch,) = launches_of(serial.plan(refusing, [one], "groups/1")[0])
        assert most / 2 < launch.groups * launch.blocks <= most
        for launch in launches_of(serial.plan(refusing, [many])[0]):
            # A few blocks that wait for each other are slower than many that do not.
            assert (launch.groups, launch.blocks) == (64, 1) or 33 < launch.groups * launch.blocks <= most
    alone = serial.plan(replace(DEVICES["A100"], max_blocks=1), [many])[0]
    assert {(launch.groups, launch.blocks) for launch in launches_of(alone)} == {(64, 1)}
    (large,) = launches_of(
        serial.plan(replace(DEVICES["A100"], max_blocks=1), [(256, 1080, 1920, TVL1Params())], "groups/1")[0]
    )
    assert large.groups * large.floats * 4 < 2**32  # bytes
    alone = serial.plan(replace(DEVICES["A100"], cooperative=False), [many])[0]
    assert {launch.blocks for launch in launches_of(alone)} == {1}


def test_a_refused_launch_becomes_a_cluster(serial: Serial) -> None:
    """Where one can hold its levels, before blocks that are alone."""
    refusing = replace(H200, max_blocks=1)
    (small,), large = serial.plan(
        refusing, [(8, 224, 224, TVL1Params()), (8, 480, 640, TVL1Params())], "groups/1"
    )
    assert small
    assert small.clusters
    assert [(launch.clusters, launch.blocks) for launch in launches_of(large)] == [(False, 1)]


def test_a_refused_cluster_becomes_a_smaller_one_or_groups(serial: Serial) -> None:
    """Groups only if the user has not asked for clusters."""
    params = TVL1Params(nscales=1)
    small, large = (1, 97, 64, params), (8, 224, 224, params)
    refusing = replace(H200, max_cluster=4)
    for design in ("cluster", "auto"):
        (plan,) = serial.plan(refusing, [small], design)
        assert all(not launch.clusters or launch.blocks <= 4 for launch in launches_of(plan))
    (plan,) = serial.plan(refusing, [small], "cluster")
    assert [launch.blocks for launch in launches_of(plan)] == [4]
    assert serial.plan(refusing, [large], "cluster") == [[None]]
    # What cannot run at all is not even planned.
    without = replace(H200, clusters=(132, 66, 33, 0, 0))
    assert serial.plan(without, [large], "cluster") == [[]]
    (plan,) = serial.plan(without, [large], "auto")
    assert [launch.clusters for launch in launches_of(plan)] == [False]


def test_designs_by_name(serial: Serial) -> None:
    for design in ("groups", "cluster", "mixed", "auto", "groups/1", "auto/9"):
        assert serial.knows(design)
    for design in ("blocks", "groups/", "groups/0", "groups/12", "groups/x", "/2", "Groups"):
        assert not serial.knows(design)


def test_skips_say_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(pytest.skip.Exception, match=r"g\+\+ is not installed"):
        build(tmp_path)
