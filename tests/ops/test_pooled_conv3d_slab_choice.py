"""Where a pool and convolution runs over slabs, and where by Triton's kernels; PyTorch stands in for these.

On the CPU the operator is its reference; the kernel's own arithmetic is in test_pooled_conv3d_slab.py.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tolerances import assert_close
from torch import Tensor, nn

pytest.importorskip("triton", reason="triton is not installed")

from fasti3d import I3D
from fasti3d.engine import plan as plans
from fasti3d.engine.describe.inception import graph_of
from fasti3d.engine.graph import Conv, Graph, Pool, PoolConv
from fasti3d.engine.plan import Plan
from fasti3d.inspect import tune
from fasti3d.ops.conv3d_bn_relu import plain
from fasti3d.ops.conv3d_bn_relu.geometry import Geometry
from fasti3d.ops.conv3d_bn_relu.packed import PackedConv3d, TritonConv3d, pack_triton
from fasti3d.ops.conv3d_bn_relu.tables import Gpu, Pooled, Table, Tuned, read
from fasti3d.ops.conv3d_slab import pack, race
from fasti3d.ops.conv3d_slab.pack import pack_slab
from fasti3d.ops.pooled_conv3d import config as fused
from fasti3d.ops.pooled_conv3d import op
from fasti3d.ops.pooled_conv3d import plain as fused_plain
from fasti3d.ops.pooled_conv3d.op import PoolSlabConv3d
from fasti3d.ops.pooled_conv3d_slab import launch
from fasti3d.proof.guard import collected
from fasti3d.proving import prove
from fasti3d.runtime import builds, gpu
from fasti3d.runtime.gpu import GpuTraits

CPU = torch.device("cpu")
HALF = torch.float16
ONE, THREE = (1, 1, 1), (3, 3, 3)


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A GPU for slabs. What Triton's kernels would do is noted; a race takes the times given here."""
    state: dict[str, Any] = {"fused": 0, "apart": 0, "raced": 0, "times": [1.0, 2.0], "capturing": False}

    def one_kernel(*call: Any) -> None:
        state["fused"] += 1
        fused_plain.pooled_conv3d_into(*call)

    def convolution(*call: Any) -> None:
        state["apart"] += 1
        plain.conv3d_into(*call)

    def milliseconds(run: Callable[[], None]) -> float:
        run()
        run()
        state["raced"] += 1
        return state["times"][(state["raced"] - 1) % 2]

    monkeypatch.setattr(launch.convolution, "gpu_traits", lambda device: GpuTraits((9, 0), 1))
    monkeypatch.setattr(launch.triton, "pooled_conv3d", one_kernel)
    monkeypatch.setattr(launch.convolution, "conv3d", convolution)
    monkeypatch.setattr(race, "milliseconds", milliseconds)
    monkeypatch.setattr(race, "is_capturing", lambda: state["capturing"])
    monkeypatch.setattr(race, "_wins", {})
    return state


def counts(state: dict[str, Any]) -> tuple[int, int, int]:
    return state["raced"], state["fused"], state["apart"]


def convolution(channels: int = 24) -> tuple[Any, ...]:
    """What ``launch.pooled_conv3d`` takes, into a slice."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(2, 4, 6, 7, channels, generator=generator).relu().to(HALF).permute(0, 4, 1, 2, 3)
    weight = torch.randn(16, channels, 1, 1, 1, generator=generator).to(HALF)
    out = torch.zeros(2, 4, 6, 7, 32, dtype=HALF).permute(0, 4, 1, 2, 3)[:, 8:24]
    bias = torch.randn(16, generator=generator)
    return x, pack_triton(weight, ONE, HALF), pack_slab(weight), bias, True, out


def assert_right(call: tuple[Any, ...]) -> None:
    x, weight, _, bias, _, out = call
    filters = weight.float().reshape(16, -1, 1, 1, 1)
    assert_close("conv3d_forms", out, F.conv3d(F.max_pool3d(x.float(), 3, 1, 1), filters, bias).relu())


@pytest.mark.parametrize(("pays", "expected"), [(True, (2, 2, 0)), (False, (2, 0, 2))])
def test_slabs_get_the_convolution(
    machine: dict[str, Any], monkeypatch: pytest.MonkeyPatch, pays: bool, expected: tuple[int, int, int]
) -> None:
    """After a race with one kernel of Triton's, or with two where these are expected to be faster."""
    monkeypatch.setattr(fused, "pays", lambda problem: pays)
    call = convolution()
    for _ in range(2):
        launch.pooled_conv3d(*call)
        assert counts(machine) == expected, "they ran in the race alone, and that once"
    assert_right(call)


@pytest.mark.parametrize("pays", [True, False])
def test_who_loses_the_race_does_not_run(
    machine: dict[str, Any], monkeypatch: pytest.MonkeyPatch, pays: bool
) -> None:
    monkeypatch.setattr(fused, "pays", lambda problem: pays)
    machine["times"] = [2.0, 1.0]
    call = convolution()
    for runs in (3, 4):
        launch.pooled_conv3d(*call)
        assert counts(machine) == ((2, runs, 0) if pays else (2, 0, runs))
        assert_right(call)


@pytest.mark.parametrize(
    ("seconds", "stages", "expected"),
    [(1e-5, 0, (0, 0, 0)), (3e-4, 0, (0, 1, 0)), (None, 0, (0, 1, 0)), (3e-4, 1, (2, 2, 0))],
    ids=["faster", "slower", "wrong", "another tile"],
)
def test_a_table_decides_without_a_race(
    machine: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    seconds: float | None,
    stages: int,
    expected: tuple[int, int, int],
) -> None:
    monkeypatch.setattr(fused, "pays", lambda problem: True)
    call = convolution()
    problem = launch.describe(call[0], call[1], call[-1]).problem
    tile = launch.choose(problem)
    assert tile is not None
    measured = Pooled(replace(tile, stages=tile.stages + stages), seconds, 1e-4)
    table = Table(Gpu("", (9, 0), 1), {}, {}, {problem: measured})
    monkeypatch.setattr(launch, "tuned", lambda device: Tuned(((Path("a.json"), table),)))
    with collected() as found:
        launch.pooled_conv3d(*call)
    assert bool(found) == (expected != (0, 1, 0)), "only what may run is proved"
    machine |= {"fused": 0}
    launch.pooled_conv3d(*call)
    assert counts(machine) == expected
    assert_right(call)


def recorded() -> tuple[tune.PooledConvolution, tuple[Any, ...]]:
    """A call as ``tune`` finds it in a plan, and the call."""
    x, weight, slab_weight, bias, relu, out = call = convolution()
    places = tune.Geometry.of(x), tune.Geometry.of(out)
    return tune.PooledConvolution("", *places, weight, slab_weight, bias, relu, flop=1), call


@pytest.mark.parametrize("wrong", [False, True])
def test_both_forms_are_tuned(machine: dict[str, Any], wrong: bool) -> None:
    """And checked as other convolutions are."""
    its, _ = recorded()
    its = replace(its, slab_weight=-its.slab_weight) if wrong else its
    work = its.prepare()
    assert work.x.min() >= 0
    assert work.x.stride() == its.x.strides
    (triton, by_triton), (tile, over_slabs) = its.candidates(work)
    assert (type(triton), type(tile)) == (tune.ByTriton, launch.Config)
    expected = tune.reference(work._replace(slab_weight=recorded()[0].slab_weight))
    for run, fails in ((by_triton, False), (over_slabs, wrong)):
        work.out.fill_(torch.nan)
        run()
        assert (tune.fault(work, expected) is not None) == fails


def test_a_tile_that_is_not_proved_is_not_tuned() -> None:
    its, _ = recorded()
    with collected():  # in place of kernels that are refused
        assert its.candidates(its.prepare()) == []


def test_tuning_measures_the_pools_of_a_plan(on_hopper: None, narrow: None, tmp_path: Path) -> None:
    """Those of one size once; a table keeps what was found, and says it to who asks."""
    plan = Plan(graph_of(I3D().eval()), HALF, CPU)
    x = torch.zeros(1, 3, 9, 193, 193, dtype=HALF)
    pools = [its for its in tune.convolutions(plan, x) if isinstance(its, tune.PooledConvolution)]
    assert {its.layer.partition(".")[2] for its in pools} == {"b3b"}
    times = {"Triton's kernels": 2e-4}
    results = list(
        tune._measure_all(
            pools[:1] * 2, lambda work, its: [times.get(i.config.short, 1e-4) for i in its], None
        )
    )
    (result,) = results
    assert [it.short for it in result.right] == [result.trials[1].config.short, "Triton's kernels"]
    assert [it.gain for it in result.right] == [2.0, 1.0]
    its = Gpu("NVIDIA H200", (9, 0), result.problem.multiprocessors)
    path = tmp_path / "table.json"
    path.write_text(tune.to_table(results, its, HALF, path).dumps())
    # What was measured before stays.
    path.write_text(tune.to_table([], its, HALF, path).dumps())
    used = Tuned(((path, read(path, its)),))
    assert used.pools_over_slabs(result.problem, result.trials[1].config) is True


def test_nothing_is_timed_while_a_graph_is_captured(machine: dict[str, Any]) -> None:
    machine["capturing"] = True
    launch.pooled_conv3d(*convolution())
    assert machine["raced"] == 0
    machine["capturing"] = False
    launch.pooled_conv3d(*convolution())
    assert machine["raced"] == 2


def test_a_race_takes_no_memory_that_is_not_there(
    machine: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fused, "pays", lambda problem: True)
    call = convolution()
    with monkeypatch.context() as full:
        full.setattr(torch, "empty_like", lambda like: (_ for _ in ()).throw(torch.OutOfMemoryError("full")))
        launch.pooled_conv3d(*call)
    assert counts(machine) == (0, 1, 0)
    assert_right(call)


def test_nothing_is_timed_while_kernels_are_recorded(
    machine: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Triton's kernels are not launched then, so a race would be of slabs with nothing; nor are slabs."""
    monkeypatch.setattr(launch, "run", lambda *call: pytest.fail("launched"))
    builds.recorded(lambda: launch.pooled_conv3d(*convolution()))
    assert machine["raced"] == 0


def test_triton_runs_what_copies_cannot_read(machine: dict[str, Any]) -> None:
    """Clips that are not aligned to 16 bytes, or whose channels are not adjacent."""
    x, *rest = convolution()
    beside = torch.zeros(*x.shape[:1], *x.shape[2:], 33, dtype=HALF).permute(0, 4, 1, 2, 3)[:, 1:25].copy_(x)
    for other in (beside, x.contiguous()):
        launch.pooled_conv3d(other, *rest)
        assert_right((x, *rest))
    assert machine["raced"] == 0


def test_proof(monkeypatch: pytest.MonkeyPatch) -> None:
    """The subject of a call is a convolution that its form computes, and a wrong one is found."""
    with collected() as found:
        launch.pooled_conv3d(*convolution())
    (subject,) = found.values()
    assert subject.operator == "pooled_conv3d_slab"
    assert prove(subject, CPU) == ("good", "")
    with monkeypatch.context() as wrong:
        wrong.setattr(pack, "pack_slab", lambda weight: pack_slab(weight.flip(1)))
        assert prove(subject, CPU)[0] == "wrong"
    run = launch.run
    monkeypatch.setattr(launch, "run", lambda config, x, *rest: run(config, x - 1, *rest))
    assert prove(subject, CPU)[0] == "wrong", "as of padding that is not the least of all values"


def _pack(
    weight: Tensor, bias: Tensor, stride: Any, *, relu: bool, dtype: torch.dtype, padding: Any = None
) -> PackedConv3d:
    kernel = (weight.shape[2], weight.shape[3], weight.shape[4])
    return TritonConv3d.of(weight, bias, Geometry(kernel, stride, padding, relu), dtype)


@pytest.fixture
def on_hopper(monkeypatch: pytest.MonkeyPatch) -> None:
    """Plans as for a GPU whose slabs may run."""
    monkeypatch.setattr(PackedConv3d, "pack", staticmethod(_pack))
    monkeypatch.setattr(op, "takes_slabs", lambda weight, out_channels: True)
    monkeypatch.setattr(gpu, "gpu_traits", lambda device: GpuTraits((9, 0), 132))


def test_the_plan_of_the_network_pools_over_slabs(on_hopper: None, narrow: None) -> None:
    plan = Plan(graph_of(I3D().eval()), HALF, CPU)
    over_slabs = {name for name, conv in plan.convs().items() if isinstance(conv, PoolSlabConv3d)}
    blocks = ("3b", "3c", "4b", "4c", "4d", "4e", "4f", "5b", "5c")
    assert over_slabs == {f"Mixed_{block}.b3b" for block in blocks}
    _, steps = plan.schedule(frozenset({"Logits"}))
    joined = [step for step in steps if isinstance(step.node, PoolConv)]
    assert [isinstance(step.convs[0], PoolSlabConv3d) for step in joined] == [True] * 9
    assert joined[0].convs[0].form == "direct/slab"
    less = TritonConv3d.nbytes.fget(joined[0].convs[0])  # type: ignore[attr-defined]
    assert joined[0].convs[0].nbytes == less + joined[0].convs[0].slab_weight.nbytes


@pytest.mark.parametrize("relu", [True, False])
def test_a_map_that_may_be_negative_is_not_pooled_over_slabs(on_hopper: None, relu: bool) -> None:
    def conv(out: int, x: int, its_relu: bool) -> Conv:
        weight = torch.randn(8, 8, 1, 1, 1)
        return Conv(out, x, weight, None, ONE, None, its_relu, name=f"conv{out}")

    nodes = (conv(1, 0, relu), Pool(2, 1, THREE, ONE, None, name="pool"), conv(3, 2, True))
    plan = Plan(Graph(nodes, {"y": 3}), HALF, CPU)
    assert isinstance(plan.convs()["conv3"], PoolSlabConv3d) == relu
    assert not isinstance(plan.convs()["conv1"], PoolSlabConv3d)


@pytest.mark.parametrize(
    ("change", "takes"),
    [
        ({}, True),
        ({"out_channels": 20}, False),
        ({"out_channels": 136}, False),
        ({"device": "cpu"}, False),
        ({"dtype": torch.float32}, False),
        ({"capability": (10, 0)}, False),
        ({"compiled": False}, False),
    ],
    ids=str,
)
def test_where_slabs_may_run(change: dict[str, Any], takes: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    its = {
        "compiled": True,
        "capability": (9, 0),
        "device": "cuda",
        "dtype": HALF,
        "out_channels": 64,
    } | change
    monkeypatch.setattr(op, "COMPILED", its["compiled"])
    monkeypatch.setattr(gpu, "gpu_traits", lambda device: GpuTraits(its["capability"], 132))
    weight = nn.Parameter(torch.empty(0, dtype=its["dtype"]))
    monkeypatch.setattr(Tensor, "device", torch.device(its["device"]))
    assert op.takes_slabs(weight, its["out_channels"]) is takes


@pytest.mark.parametrize(("batch", "size", "pays"), [(8, (16, 14, 14), True), (1, (8, 7, 7), False)])
def test_one_step_takes_slabs_where_they_are_expected_to_be_faster(
    on_hopper: None, batch: int, size: tuple[int, int, int], pays: bool
) -> None:
    conv = _pack(torch.randn(64, 480, 1, 1, 1), torch.zeros(64), ONE, relu=True, dtype=HALF)
    x = torch.empty(batch, 480, *size, device="meta")
    assert op.pool_pays(op.behind_pool(conv), x, CPU) == pays
    assert plans.behind_pool is op.behind_pool
