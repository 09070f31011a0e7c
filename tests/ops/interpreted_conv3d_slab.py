"""Where slabs run and where Triton, and that both get one convolution: run by test_conv3d_slab_triton.py.

On the CPU the operator is its reference; the kernel's own arithmetic is in test_conv3d_slab.py.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from interpreting import clip, weights
from tolerances import assert_close
from torch import Tensor

from fasti3d.inspect import tune
from fasti3d.ops.conv3d_bn_relu import packed, plain
from fasti3d.ops.conv3d_bn_relu.geometry import Geometry
from fasti3d.ops.conv3d_bn_relu.packed import PackedConv3d, SlabConv3d, TritonConv3d, pack_triton
from fasti3d.ops.conv3d_bn_relu.tables import Entry, Gpu, Slab, Table, Tuned
from fasti3d.ops.conv3d_slab import config, describe, launch, race
from fasti3d.proof.guard import collected
from fasti3d.proving import prove
from fasti3d.runtime import builds
from fasti3d.runtime.gpu import GpuTraits

CPU = torch.device("cpu")
HALF = torch.float16
ONE, THREE = (1, 1, 1), (3, 3, 3)
# Channels in and out, kernel, stride, size and padding.
CONVS: dict[str, tuple[Any, ...]] = {
    "three": (24, 16, THREE, ONE, (5, 9, 8), None),
    "stem": (3, 16, (7, 7, 7), (2, 2, 2), (5, 7, 8), None),
    "resnet stem": (3, 16, (5, 7, 7), (1, 2, 2), (3, 4, 7), (2, 3, 3)),
    "rows": (16, 24, (3, 1, 1), ONE, (5, 4, 7), (1, 0, 0)),
    "not padded": (16, 8, THREE, ONE, (6, 7, 7), (0, 0, 0)),
}


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A GPU for slabs. Every convolution by taps is noted; a race takes the times that are given here."""
    state: dict[str, Any] = {"by_taps": 0, "raced": 0, "times": [1.0, 2.0], "capturing": False}

    def by_taps(*call: Any) -> None:
        state["by_taps"] += 1
        plain.conv3d_into(*call)

    def milliseconds(run: Callable[[], None]) -> float:
        run()
        run()
        state["raced"] += 1
        return state["times"][(state["raced"] - 1) % 2]

    monkeypatch.setattr(launch.triton, "gpu_traits", lambda device: GpuTraits((9, 0), 132))
    monkeypatch.setattr(launch.triton, "conv3d", by_taps)
    monkeypatch.setattr(race, "milliseconds", milliseconds)
    monkeypatch.setattr(race, "is_capturing", lambda: state["capturing"])
    monkeypatch.setattr(race, "_wins", {})
    return state


def convolution(name: str, dtype: torch.dtype = HALF) -> tuple[Any, ...]:
    """What ``launch.conv3d`` takes: a piece from within a clip, into a slice."""
    channels, out_channels, kernel, stride, size, padding = CONVS[name]
    weight, bias = weights(out_channels, channels, kernel)
    x = clip(1, channels, size)
    if dtype == torch.uint8:
        x = (x.float() * 60 + 128).clamp(0, 255).to(dtype)
    geometry = Geometry(kernel, stride, padding, True)
    shape = (1, *geometry.output_size(size), out_channels + 16)
    out = torch.zeros(shape, dtype=HALF).permute(0, 4, 1, 2, 3)[:, 8 : 8 + out_channels, 1:3]
    slab = describe.pack(weight, geometry, HALF)
    return x, pack_triton(weight, stride, HALF), slab, bias, geometry, out, 1


def wanted(call: tuple[Any, ...], residual: Tensor | None = None) -> Tensor:
    x, weight, _, bias, geometry, out, start = call
    expected = torch.empty_like(out)
    plain.conv3d_into(x, weight, bias, geometry, expected, start, residual)
    return expected


@pytest.mark.parametrize(
    ("name", "dtype"),
    [*((name, HALF) for name in CONVS), *((name, torch.uint8) for name in CONVS if "stem" in name)],
    ids=str,
)
def test_slabs_get_the_convolution(machine: dict[str, Any], name: str, dtype: torch.dtype) -> None:
    call = convolution(name, dtype)
    launch.conv3d(*call)
    assert machine["raced"] == 2
    assert machine["by_taps"] == 2, "they ran in the race alone"
    assert_close("conv3d_forms", call[5], wanted(call))


def test_cells_that_a_graph_begins_with(machine: dict[str, Any]) -> None:
    """As a clip whose channels are rows of them: slabs are of the cells beneath."""
    x, weight, slab, bias, geometry, out, start = call = convolution("stem")
    conv = SlabConv3d(weight, bias, len(bias), geometry, slab)
    cells = conv.new_cells(x)
    conv.fold(x, cells)
    its = conv.over_cells()
    with collected() as found:
        launch.conv3d(conv.windows(cells), weight, slab, bias, its.geometry, out, start)
    assert prove(found.popitem()[1], CPU) == ("good", "")
    launch.conv3d(conv.windows(cells), weight, slab, bias, its.geometry, out.zero_(), start)
    assert machine["raced"] == 2
    assert_close("conv3d_forms", out, wanted(call))


def test_a_race_is_run_once_and_decides(machine: dict[str, Any]) -> None:
    machine["times"] = [2.0, 1.0]
    call = convolution("three")
    for runs in (3, 4):
        launch.conv3d(*call)
        assert (machine["raced"], machine["by_taps"]) == (2, runs)
    machine["times"] = [1.0, 2.0]
    other = convolution("rows")
    launch.conv3d(*other)
    assert (machine["raced"], machine["by_taps"]) == (4, 6)


def test_nothing_is_timed_while_a_graph_is_captured(machine: dict[str, Any]) -> None:
    machine["capturing"] = True
    call = convolution("three")
    launch.conv3d(*call)
    assert (machine["raced"], machine["by_taps"]) == (0, 1)
    machine["capturing"] = False
    launch.conv3d(*call)
    assert (machine["raced"], machine["by_taps"]) == (2, 3)


def test_a_race_takes_no_memory_that_is_not_there(
    machine: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    call = convolution("three")
    with monkeypatch.context() as full:
        full.setattr(torch, "empty_like", lambda like: (_ for _ in ()).throw(torch.OutOfMemoryError("full")))
        launch.conv3d(*call)
    assert (machine["raced"], machine["by_taps"]) == (0, 1)
    launch.conv3d(*call)
    assert machine["raced"] == 2, "it was put off"


def recorded(call: tuple[Any, ...], residual: Tensor | None = None) -> tune.Convolution:
    """A call as ``tune`` finds it in a plan."""
    x, weight, slab, bias, geometry, out, start = call
    added = None if residual is None else tune.Geometry.of(residual)
    rest = {"bias": bias, "geometry": geometry, "start": start}
    return tune.Convolution(
        "", tune.Geometry.of(x), (tune.Geometry.of(out),), added, weight, slab, rest, flop=1
    )


@pytest.mark.parametrize(
    ("name", "adds"), [*((name, False) for name in CONVS), ("three", True), ("stem", True)], ids=str
)
def test_the_tile_that_is_tuned_gets_the_convolution(name: str, adds: bool) -> None:
    """Beside the candidates of Triton's, and as these are checked: with its own weights alone it is right."""
    call = convolution(name)
    its = recorded(call, call[5] if adds else None)
    work = its.prepare()
    *others, tile = its.candidates(work)
    assert isinstance(tile.config, config.Config)
    assert [type(other.config) for other in others] == [type(one) for one in tune.candidates(work.problem)]
    expected = tune.reference(work)
    work.out.fill_(torch.nan)
    tile.run()
    assert tune.fault(work, expected) is None
    wrong = replace(its, slab_weight=-call[2]).candidates(work)[-1]
    wrong.run()
    assert str(tune.fault(work, expected)).startswith("wrong by")


def test_a_tile_that_is_not_proved_is_not_tuned() -> None:
    its = recorded(convolution("three"))
    work = its.prepare()
    with collected() as found:  # in place of kernels that are refused
        candidates = its.candidates(work)
    assert [subject.operator for subject in found.values()] == ["conv3d_slab"]
    assert not any(isinstance(one.config, config.Config) for one in candidates)


@pytest.mark.parametrize("name", ["three", "stem"])
@pytest.mark.parametrize(
    ("slab", "races", "by_taps"),
    [
        ({"seconds": 1e-4}, 0, 0),
        ({"seconds": 3e-4}, 0, 1),
        ({"seconds": None}, 0, 1),
        ({"seconds": 3e-4, "stages": 9}, 2, 2),
        (None, 2, 2),
    ],
    ids=["faster", "slower", "wrong", "another tile", "not measured"],
)
def test_a_table_decides_without_a_race(
    machine: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    slab: dict[str, Any] | None,
    races: int,
    by_taps: int,
) -> None:
    """What ``tune`` measured is what first use asks for: of a clip or its cells, also while captured."""
    x, weight, packed_slab, bias, geometry, out, start = call = convolution(name)
    its = recorded(call)
    work = its.prepare()
    tile = its.candidates(work)[-1]
    assert isinstance(tile.config, config.Config)
    stages = (slab or {}).get("stages", tile.config.stages)
    measured = slab and Slab(replace(tile.config, stages=stages), slab["seconds"])
    entry = Entry(tune.candidates(work.problem)[0], 2e-4, 2e-4, measured)
    table = Table(Gpu("", (9, 0), 132), {}, {work.problem: entry})
    monkeypatch.setattr(launch, "tuned", lambda device: Tuned(((Path("a.json"), table),)))
    expected = wanted(call)
    with collected() as found:
        launch.conv3d(*call)
    assert bool(found) == (by_taps != 1), "only what may run is proved"
    machine["by_taps"] = 0
    launch.conv3d(*call)
    assert (machine["raced"], machine["by_taps"]) == (races, by_taps)
    assert_close("conv3d_forms", out, expected)
    if slab is None or races:
        return
    machine["capturing"] = True
    if name == "stem":
        conv = SlabConv3d(weight, bias, len(bias), geometry, packed_slab)
        cells = conv.new_cells(x)
        conv.fold(x, cells)
        x, geometry = conv.windows(cells), conv.over_cells().geometry
    launch.conv3d(x, weight, packed_slab, bias, geometry, out.zero_(), start)
    assert (machine["raced"], machine["by_taps"]) == (0, 2 * by_taps)
    assert_close("conv3d_forms", out, expected)


@pytest.mark.parametrize("seconds", [1e-4, None])
def test_nothing_is_timed_while_kernels_are_recorded(
    machine: dict[str, Any], monkeypatch: pytest.MonkeyPatch, seconds: float | None
) -> None:
    """Triton's kernels are not launched then, so a race would be of slabs with nothing; nor are slabs."""
    if seconds:
        monkeypatch.setattr(launch, "_measured", lambda *call: True)
    monkeypatch.setattr(launch, "run", lambda *call: pytest.fail("launched"))
    call = convolution("three")
    builds.recorded(lambda: launch.conv3d(*call))
    assert (machine["raced"], machine["by_taps"]) == (0, 1)


def test_a_race_leaves_a_residual_in_place_alone() -> None:
    """Which is the output itself, and would be added as often as the race runs."""
    call = convolution("three")
    out = call[5]
    out.copy_(clip(1, 16, (2, 9, 8), seed=5))
    expected = wanted(call, residual=out.clone())
    launch.conv3d(*call, out)
    assert_close("conv3d_forms", out, expected)


def test_triton_runs_what_copies_cannot_read(machine: dict[str, Any]) -> None:
    """Channels that are not multiples of 16 bytes, or clips that are not aligned to them."""
    x, weight, slab, bias, geometry, out, start = convolution("three")
    beside = torch.zeros(1, *x.shape[2:], 25, dtype=HALF).permute(0, 4, 1, 2, 3)[:, 1:].copy_(x)
    launch.conv3d(beside, weight, slab, bias, geometry, out, start)
    assert (machine["raced"], machine["by_taps"]) == (0, 1)


@pytest.mark.parametrize("name", CONVS)
def test_proof(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The subject of a call is a convolution that its form computes, and a wrong one is found."""
    call = convolution(name)
    with collected() as found:
        launch.conv3d(*call)
    (subject,) = found.values()
    assert subject.operator == "conv3d_slab"
    assert prove(subject, CPU) == ("good", "")
    monkeypatch.setattr(
        describe, "pack", lambda weight, *others, pack=describe.pack: pack(weight.flip(4), *others)
    )
    assert prove(subject, CPU)[0] == ("good" if call[4].kernel[2] == 1 else "wrong")


def test_a_packed_convolution_has_both_forms(monkeypatch: pytest.MonkeyPatch) -> None:
    weight, bias = weights(16, 24, THREE)
    monkeypatch.setattr(packed, "has_kernel", lambda *device, **options: True)
    monkeypatch.setattr(describe, "takes_slabs", lambda device, dtype, channels, *others: channels == 24)
    its = PackedConv3d.pack(weight, bias, ONE, relu=True, dtype=HALF)
    assert isinstance(its, SlabConv3d)
    other = PackedConv3d.pack(weight[:, :16], bias, ONE, relu=True, dtype=torch.float32)
    assert not isinstance(other, SlabConv3d)
    assert its.nbytes > TritonConv3d.of(weight, bias, its.geometry, HALF).nbytes
    x = clip(1, 24, (4, 6, 7))
    exact = plain.conv3d(x, its.weight, bias, its.geometry, (0, 4), torch.float32)
    assert_close("conv3d_forms", its(x), exact)


@pytest.mark.parametrize(
    ("change", "takes"),
    [
        ({}, True),
        ({"channels": 3, "geometry": Geometry((7, 7, 7), (2, 2, 2), None, True)}, True),
        ({"geometry": Geometry(THREE, (1, 2, 2), None, True)}, False),
        ({"geometry": Geometry(ONE, ONE, None, True)}, False),
        ({"out_channels": 20}, False),
        ({"device": CPU}, False),
        ({"dtype": torch.float32}, False),
        ({"capability": (9, 1)}, False),
        ({"capability": (8, 0)}, False),
        ({"compiled": False}, False),
    ],
    ids=str,
)
def test_where_slabs_may_run(change: dict[str, Any], takes: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    its: dict[str, Any] = {"compiled": True, "capability": (9, 0), "device": torch.device("cuda", 0)}
    its |= {"channels": 16, "out_channels": 16, "geometry": Geometry(THREE, ONE, None, True), "dtype": HALF}
    its |= change
    monkeypatch.setattr(describe, "COMPILED", its["compiled"])
    monkeypatch.setattr(describe, "gpu_traits", lambda device: GpuTraits(its["capability"], 132))
    names = ("device", "dtype", "channels", "out_channels", "geometry")
    found = describe.takes_slabs(*(its[name] for name in names))
    assert found is takes
