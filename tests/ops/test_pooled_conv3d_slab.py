"""The pool and convolution over slabs without a GPU: its index arithmetic and schedule, run on the CPU,
against torch.

What is left for a GPU is in test_pooled_conv3d_slab_cuda.py; what nvcc makes of it in
test_pooled_conv3d_slab_build.py.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import product
from typing import Any

import pytest
import torch
from pooled_conv3d_slab_making import (
    SHAPES,
    Case,
    Emulator,
    Fault,
    build,
    case,
    is_right,
    of_shape,
    random_case,
)
from slab_emulators import EmulatorError
from tolerances import assert_close

from fasti3d.ops.conv3d_slab.config import SHARED_BYTES
from fasti3d.ops.conv3d_slab.pack import pack_slab
from fasti3d.ops.pooled_conv3d_slab.config import (
    COLUMNS,
    Config,
    Problem,
    candidates,
    choose,
    nanoseconds,
    otherwise,
    shared_bytes,
    tiles,
)
from fasti3d.ops.tiling import Triple


def best(problem: Problem) -> Config:
    """The tile expected to be the fastest, whether it pays or not."""
    return min(candidates(problem), key=lambda one: nanoseconds(problem, one))


@pytest.fixture(scope="module")
def emulator(tmp_path_factory: pytest.TempPathFactory) -> Emulator:
    return build(tmp_path_factory.mktemp("slab"))


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def check(emulator: Emulator, its: Case, config: Config, blocks: int = 1, order: int = 0) -> None:
    assert is_right(its, emulator.run(its, config, blocks=blocks, order=order))


@pytest.mark.parametrize("batch", [1, 8])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_shapes_of_the_network(emulator: Emulator, shape: tuple[int, int, Triple], batch: int) -> None:
    """With the tile that each takes, on a few of them: the last does not fit."""
    channels, out_channels, size = shape
    config = best(of_shape(shape, batch))
    few = [min(n, b + 1) for n, b in zip(size, config.block, strict=True)]
    check(emulator, case(channels, out_channels, (few[0], few[1], few[2])), config)


@pytest.mark.parametrize("seed", range(40))
def test_odd_sizes(emulator: Emulator, seed: int) -> None:
    """With any tile that fits, in any order of what happens at the same time."""
    chance = random.Random(seed)
    its = random_case(chance)
    config = chance.choice(list(candidates(its.problem)))
    # Fewer stages than there is memory for, so that they go round.
    config = replace(config, stages=chance.randint(2, config.stages), strip=chance.randint(1, config.box[1]))
    check(emulator, its, config, blocks=chance.choice([1, 2]), order=chance.choice([0, 1, seed + 2]))


@pytest.mark.parametrize("order", [0, 1, 7])
@pytest.mark.parametrize("fault", [fault for fault in Fault if fault != Fault.NONE])
def test_a_fault_is_noticed(emulator: Emulator, fault: Fault, order: int) -> None:
    """So that the tests above mean something: a wrong stride between core matrices, a product beside its
    place, a wait, a fence or a meeting that is missing, channels beside their slice.
    """
    its = case(112, 64, (4, 6, 7))
    config = Config(56, 2, True, (1, 6, 7), 3, 2)
    check(emulator, its, config)
    try:
        found = emulator.run(its, config, order=order, fault=fault)
    except EmulatorError:
        return
    # Where all copies land at once, nothing is read too early.
    assert not is_right(its, found) or (fault == Fault.FULL and order == 1)


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("place", [(0, 0, 0), (1, 2, 5), (2, 4, 3)], ids=str)
def test_what_is_not_finite_reaches_its_windows_and_no_others(
    emulator: Emulator, place: Triple, value: float
) -> None:
    """As of torch's max_pool3d: a NaN makes its windows' maxima NaN, and so all channels of their results."""
    its = case(24, 32, (3, 5, 6), relu=False)
    t, h, w = place
    its.x[0, 3, t, h, w] = value
    found = emulator.run(its, Config(112, 1, False, (3, 5, 6), 5, 2))
    assert torch.equal(found.isfinite(), its.expected.isfinite())
    assert torch.equal(found.isnan(), its.expected.isnan())
    assert 0 < found[:, 0].isfinite().sum() < found[:, 0].numel()


def test_of_infinity_and_nan_the_maximum_is_nan(emulator: Emulator) -> None:
    its = case(16, 8, (1, 3, 9), relu=False)
    its.x[0, :, 0, 1, 2] = math.inf
    its.x[0, :, 0, 1, 3] = math.nan
    found = emulator.run(its, Config(56, 1, False, (1, 3, 9), 3, 2))
    assert torch.equal(found.isnan(), its.expected.isnan())
    assert found.isnan()[0, 0, 0, 0].tolist() == [False, True, True, True, True, False, False, False, False]


def test_the_padding_is_zeros_and_so_no_map_may_be_negative(emulator: Emulator) -> None:
    its = case(16, 8, (2, 3, 4))
    its.x.neg_().sub_(1)
    found = emulator.run(its, Config(56, 1, False, (2, 3, 4), 3, 2))
    assert not is_right(its, found)
    wrong = its.out.clone()
    torch.ops.fasti3d.pooled_conv3d_slab_(*(call_of(its) | {"out": wrong}).values())
    assert_close("conv3d_forms", found, wrong.float())


def call_of(its: Case) -> dict[str, Any]:
    """The operator's arguments, in order."""
    return {
        "x": its.x, "weight": pack_slab(its.weight), "bias": its.bias, "relu": its.relu, "out": its.out,
        "tile": [],
    }  # fmt: skip


@pytest.mark.parametrize("seed", range(4))
def test_the_operator_on_a_cpu(seed: int) -> None:
    """It is what a GPU's results are held against."""
    its = random_case(random.Random(seed))
    torch.ops.fasti3d.pooled_conv3d_slab_(*call_of(its).values())
    assert is_right(its, its.out)


def test_opcheck() -> None:
    its = case(16, 32, (2, 5, 6))
    torch.library.opcheck(torch.ops.fasti3d.pooled_conv3d_slab_.default, tuple(call_of(its).values()))


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("x", lambda x: x[0], "x must be"),
        ("x", lambda x: x.contiguous(), "x must be channels-last"),
        ("weight", lambda weight: weight[:, :, 1:], "weight must be what pack_slab makes"),
        ("weight", torch.Tensor.float, "weight must be what pack_slab makes"),
        ("bias", torch.Tensor.double, "bias must be float32"),
        ("bias", lambda bias: bias[1:], "out must be"),
        ("out", lambda out: out.contiguous(), "out must be channels-last"),
        ("out", torch.Tensor.float, "out must be"),
        ("out", lambda out: out[:, :, 1:], "out must be"),
    ],
)
def test_the_operator_refuses(name: str, change: Callable[[Any], Any], message: str) -> None:
    given = call_of(case(16, 32, (2, 5, 6)))
    given[name] = change(given[name])
    with pytest.raises(RuntimeError, match=message):
        torch.ops.fasti3d.pooled_conv3d_slab_(*given.values())


def test_choice_and_kernel_agree_on_every_tile(emulator: Emulator) -> None:
    """What config.py computes to choose is what plan.h computes to run."""
    lines = []
    for shape, batch in product(SHAPES, (1, 8)):
        problem = of_shape(shape, batch)
        lines += [(problem, config) for config in list(candidates(problem))[::7]]
    assert len(lines) > 500
    for (problem, config), plan in zip(lines, emulator.plans(lines), strict=True):
        assert plan == [
            shared_bytes(problem, config),
            config.slab_bytes,
            config.shares,
            problem.chunks,
            tiles(problem, config),
        ]


def test_refuses_what_cannot_run(emulator: Emulator) -> None:
    problem = of_shape(SHAPES[0], 8)
    good = best(problem)
    assert good.box == (4, 7, 7)
    bad = [
        replace(good, columns=good.columns - 1),
        replace(good, columns=192),
        replace(good, along=3),
        replace(good, strip=8),
        replace(good, strip=0),
        replace(good, stages=1),
        replace(good, stages=4),
        replace(good, box=(0, 7, 7)),
    ]
    answers = emulator.plans([(problem, config) for config in [good, *bad]])
    assert [bool(answer) for answer in answers] == [True] + [False] * len(bad)
    assert emulator.plans([(replace(problem, out_channels=72), good)]) == [[]], "too many sums"
    assert emulator.plans([(replace(problem, batch=2**24), replace(good, box=(1, 1, 7), strip=1))]) == [[]]


@pytest.mark.parametrize("batch", [1, 8])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_choice(shape: tuple[int, int, Triple], batch: int) -> None:
    problem = of_shape(shape, batch)
    config = choose(problem)
    if config is None:
        assert nanoseconds(problem, best(problem)) > otherwise(problem)
        return
    assert config.columns in COLUMNS[problem.row_blocks]
    assert shared_bytes(problem, config) <= SHARED_BYTES
    assert math.prod(config.box) <= config.columns


def test_no_choice_where_no_slab_fits() -> None:
    problem = of_shape(SHAPES[0], 8)
    assert choose(problem) is not None
    assert choose(replace(problem, out_channels=60)) is None
    assert choose(replace(problem, out_channels=136)) is None
    assert choose(replace(problem, batch=0)) is None
    assert choose(replace(problem, size=(8, 56, 2000))) is None
