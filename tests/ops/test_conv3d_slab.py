"""The kernel for slabs without a GPU: its index arithmetic and schedule, run on the CPU, against torch.

What is left for a GPU is in test_conv3d_slab_cuda.py; what nvcc makes of it in test_conv3d_slab_build.py.
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
from conv3d_slab_making import (
    K311,
    K333,
    SHAPES,
    Case,
    Emulator,
    Fault,
    Shape,
    build,
    case,
    is_right,
    of_shape,
    random_case,
)
from slab_emulators import EmulatorError
from tolerances import assert_close

from fasti3d.ops.conv3d_slab.config import (
    POSITIONS,
    SHARED_BYTES,
    Config,
    Problem,
    Slab,
    by_taps,
    candidates,
    choose,
    nanoseconds,
    packed_shape,
    shared_bytes,
    work,
)
from fasti3d.ops.conv3d_slab.pack import pack_slab, unpack_slab
from fasti3d.ops.tiling import Triple, count


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


def check(emulator: Emulator, its: Case, config: Config, clusters: int = 1, order: int = 0) -> None:
    found = emulator.run(its, config, clusters=clusters, order=order)
    assert is_right(its, found)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_shapes_of_the_networks(emulator: Emulator, shape: Shape) -> None:
    """With the tile that each takes, on a few of them: the last does not fit."""
    channels, out_channels, (t, h, w), kernel = shape
    config = best(of_shape(shape, batch=8))
    bt, bh, bw = config.block
    size = (min(t, bt + 1), min(h, bh + 1) if bh < h else h, min(w, bw + 1) if bw < w else w)
    check(emulator, case(channels, out_channels, size, kernel), config)


@pytest.mark.parametrize("order", [0, 1, 7])
@pytest.mark.parametrize(
    ("cells", "kernel"), [(24, (4, 4, 4)), (24, (3, 4, 4)), (16, (5, 4, 4)), (8, (2, 6, 2))]
)
def test_stems(emulator: Emulator, cells: int, kernel: Triple, order: int) -> None:
    """Over cells of space-to-depth, which hold their own padding."""
    columns = 112 if order == 0 else 13
    out = (3, 5, columns)
    size = (out[0] + kernel[0] - 1, out[1] + kernel[1] - 1, out[2] + kernel[2] - 1)
    its = case(cells, 64, size, kernel, before=(0, 0, 0), out=out)
    real = Problem(1, cells, 64, (35, 115, columns + 3), (32, 112, columns), kernel, (0, 0, 0), 132)
    config = best(real if order == 0 else its.problem)
    assert its.problem.reduction.by_columns == (cells % 16 == 8)
    check(emulator, its, config, order=order)


@pytest.mark.parametrize("seed", range(40))
def test_odd_sizes(emulator: Emulator, seed: int) -> None:
    """With any tile that fits, in any order of what happens at the same time."""
    chance = random.Random(seed)
    its = random_case(chance)
    config = chance.choice(list(candidates(its.problem)))
    # Fewer stages and slabs than there is memory for, so that they go round.
    buffers = chance.choice([1, config.buffers])
    config = replace(config, stages=chance.randint(2, config.stages), buffers=buffers)
    check(emulator, its, config, clusters=chance.choice([1, 2]), order=chance.choice([0, 1, seed + 2]))


@pytest.mark.parametrize("fault", [fault for fault in Fault if fault != Fault.NONE])
def test_a_fault_is_noticed(emulator: Emulator, fault: Fault) -> None:
    """So that the tests above mean something: a wrong stride between core matrices, a tap beside its place,
    a wait that is missing, channels beside their slice.
    """
    its = case(64, 64, (4, 6, 7))
    config = Config(64, 1, 1, False, (1, 6, 7), 1, 2, 2)
    check(emulator, its, config)
    try:
        found = emulator.run(its, config, fault=fault)
    except EmulatorError:
        return
    assert not is_right(its, found)


def test_a_value_reaches_what_its_windows_reach_and_no_more(emulator: Emulator) -> None:
    """Through the zeros that rows and frames share nothing leaks: not even an infinity."""
    its = case(16, 32, (3, 5, 6), relu=False)
    its.x[0, :, 1, 2, 5] = math.inf
    config = Config(128, 1, 1, False, (3, 5, 6), 1, 1, 2)
    found = emulator.run(its, config)
    assert torch.equal(found.isfinite(), its.expected.isfinite())
    assert not found.isfinite().all()


@pytest.mark.parametrize("kernel", [K333, K311, (4, 4, 4), (2, 3, 2)])
@pytest.mark.parametrize(("channels", "out_channels"), [(24, 64), (16, 32), (100, 72)])
def test_packed_weights(kernel: Triple, channels: int, out_channels: int) -> None:
    weight = torch.randn(out_channels, channels, *kernel)
    packed = pack_slab(weight)
    assert packed.shape == packed_shape(out_channels, channels, kernel)
    assert torch.equal(unpack_slab(packed, out_channels, channels, kernel), weight)
    assert packed.count_nonzero() == weight.count_nonzero()


def call_of(its: Case) -> dict[str, Any]:
    """The operator's arguments, in order."""
    p = its.problem
    return {
        "x": its.x, "weight": pack_slab(its.weight), "bias": its.bias, "kernel": list(p.kernel),
        "before": list(p.before), "relu": its.relu, "out": its.out, "tile": [],
        "residual": its.out if its.given else None,
    }  # fmt: skip


@pytest.mark.parametrize("seed", range(8))
def test_the_operator_on_a_cpu(seed: int) -> None:
    """It is what a GPU's results are held against."""
    its = random_case(random.Random(seed))
    expected = its.expected
    torch.ops.fasti3d.conv3d_slab_(*call_of(its).values())
    assert_close("conv3d_forms", its.out, expected)


def test_opcheck() -> None:
    its = case(16, 32, (2, 5, 6))
    torch.library.opcheck(torch.ops.fasti3d.conv3d_slab_.default, tuple(call_of(its).values()))


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("x", lambda x: x[0], "x must be"),
        ("x", lambda x: x.contiguous(), "x must be channels-last"),
        ("weight", lambda weight: weight[:, 1:], "weight must be what pack_slab makes"),
        ("weight", torch.Tensor.float, "weight must be what pack_slab makes"),
        ("bias", torch.Tensor.double, "bias must be float32"),
        ("bias", lambda bias: bias[1:], "out must be"),
        ("kernel", lambda kernel: [3, 3, 17], "kernel must be"),
        ("before", lambda before: [1, 1], "before must be"),
        ("out", lambda out: out.contiguous(), "out must be channels-last"),
        ("out", torch.Tensor.float, "out must be"),
        ("residual", lambda residual: torch.zeros(1, 32, 2, 5, 7).half(), "residual must be"),
    ],
)
def test_the_operator_refuses(name: str, change: Callable[[Any], Any], message: str) -> None:
    given = call_of(case(16, 32, (2, 5, 6)))
    given[name] = change(given[name])
    with pytest.raises(RuntimeError, match=message):
        torch.ops.fasti3d.conv3d_slab_(*given.values())


def test_choice_and_kernel_agree_on_every_tile(emulator: Emulator) -> None:
    """What config.py computes to choose is what plan.h computes to run."""
    lines = []
    for shape, batch in product(SHAPES, (1, 8)):
        problem = of_shape(shape, batch)
        lines += [(problem, config) for config in list(candidates(problem))[::17]]
    assert len(lines) > 500
    for (problem, config), plan in zip(lines, emulator.plans(lines), strict=True):
        slab = Slab.of(problem, config)
        assert plan == [
            shared_bytes(problem, config),
            slab.pitch,
            slab.rows,
            slab.positions,
            problem.reduction.units,
            problem.reduction.unit_blocks,
            problem.batch * math.prod(map(count, problem.out, config.block)),
            count(count(problem.out_channels, 64), config.across),
            work(problem, config),
        ]


def test_refuses_what_cannot_run(emulator: Emulator) -> None:
    problem = of_shape((64, 192, (8, 56, 56), K333), 1)
    good = best(problem)
    bad = [
        replace(good, positions=good.positions - 1),
        replace(good, positions=64),
        replace(good, across=2, along=2),
        replace(good, units=5),
        replace(good, stages=1),
        replace(good, buffers=3),
        replace(good, box=(1, 56, 56)),
        replace(good, box=(0, 4, 56)),
    ]
    answers = emulator.plans([(problem, config) for config in [good, *bad]])
    assert [bool(answer) for answer in answers] == [True] + [False] * len(bad)
    endless = replace(problem, batch=2**24), replace(good, box=(1, 1, 14))
    assert emulator.plans([endless]) == [[]], "more blocks than are counted"


@pytest.mark.parametrize("batch", [1, 8])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_choice(shape: Shape, batch: int) -> None:
    problem = of_shape(shape, batch)
    config = choose(problem)
    if config is None:
        assert nanoseconds(problem, best(problem)) > by_taps(problem)
        return
    assert config.positions in POSITIONS
    assert shared_bytes(problem, config) <= SHARED_BYTES
    assert Slab.of(problem, config).columns(config.box) <= config.positions


def test_no_choice_where_no_slab_fits() -> None:
    problem = of_shape((64, 192, (8, 56, 56), K333), 1)
    assert choose(replace(problem, out_channels=60)) is None
    assert choose(replace(problem, batch=0)) is None
    assert choose(replace(problem, size=(8, 56, 2000), out=(8, 56, 2000))) is None
    assert choose(replace(problem, in_channels=8, kernel=(3, 3, 10))) is None, "5 products per stage"
    pointwise = replace(problem, kernel=(1, 1, 1), before=(0, 0, 0))
    assert choose(pointwise) is None
