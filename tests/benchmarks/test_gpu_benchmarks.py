"""The logic of the GPU benchmarks where there is no GPU: peers, cases, clocks, tables and counters."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks import conftest as measuring
from benchmarks import gpu_timing, memory, merge_records, peers, profile_steps, report, test_i3d_forward
from benchmarks.conftest import DeviceClock
from benchmarks.folded_network import FoldedConv, FoldedPool, folded
from benchmarks.plan_steps import planned_steps
from fasti3d import I3D
from fasti3d.engine.describe.inception import graph_of
from fasti3d.engine.plan import Plan
from fasti3d.inspect.roofline import Chip
from fasti3d.ops.conv3d_bn_relu import tables
from fasti3d.ops.conv3d_bn_relu.config import Problem, choose
from fasti3d.reference import MaxPool3dSame, Unit3D

ROOT = Path(report.__file__).resolve().parent.parent


# What stands in for the peers that need a GPU.


@pytest.mark.usefixtures("narrow_peers")
@pytest.mark.parametrize("size", [193, 224])
def test_the_folded_network_is_the_reference(size: int) -> None:
    """Windows that hang over one edge, over both, and over none."""
    x = peers.clip(peers.Case((1, 3, 9, size, size), torch.float32))
    model = folded(peers.random_reference())
    kinds = {type(module) for module in model.modules()}
    assert {FoldedConv, FoldedPool} <= kinds
    assert not kinds & {Unit3D, MaxPool3dSame}
    with torch.no_grad():
        logits = model(x.contiguous(memory_format=torch.channels_last_3d))
        expected = peers.random_reference()(x)
    assert peers.relative_error(logits, expected) < peers.LOGITS_TOLERANCE[torch.float32]


@pytest.mark.parametrize(
    ("size", "kernel", "stride"),
    [
        ((5, 8, 9), (3, 3, 3), (1, 1, 1)),
        ((4, 8, 8), (1, 3, 3), (1, 2, 2)),
        ((4, 8, 9), (3, 3, 3), (2, 2, 2)),
        ((5, 7, 8), (2, 2, 2), (2, 2, 2)),
        ((5, 7, 8), (2, 2, 2), (1, 1, 1)),
    ],
)
def test_folded_pools_are_the_references(size: Any, kernel: Any, stride: Any) -> None:
    pool = MaxPool3dSame(kernel, stride)
    x = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(0)) - 3  # a zero would win
    assert torch.equal(FoldedPool(pool)(x), pool(x))


@pytest.mark.usefixtures("narrow_peers")
def test_the_tuned_peer_is_a_graph_of_the_folded_network(monkeypatch: pytest.MonkeyPatch) -> None:
    FakeGpu().install(monkeypatch)
    case = peers.Case((2, 3, 9, 193, 193), torch.float32)
    logits = peers.CANDIDATES[peers.TUNED](case)()
    assert peers.relative_error(logits, peers.expected_logits(case)) < peers.LOGITS_TOLERANCE[case.dtype]
    fused = next(name for name in peers.GPU_CANDIDATES if "ReLU in" in name)
    with pytest.raises(peers.UnavailableError, match="cuDNN has no such kernel"):
        peers.CANDIDATES[fused](case)


def test_device_memory_is_beyond_the_weights_and_the_clip(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a later pass: with what stays reserved of the first, and without what was only cached."""
    reserved = {"now": 70_000_000, "peak": 0, "cached": 0}

    def take(held: int, cached: int) -> None:
        reserved["now"] += held + cached
        reserved["cached"] += cached
        reserved["peak"] = max(reserved["peak"], reserved["now"])

    def empty() -> None:
        reserved["now"] -= reserved["cached"]
        reserved["cached"] = 0

    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    monkeypatch.setattr(torch.cuda, "empty_cache", empty)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda: reserved.update(peak=reserved["now"]))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda: reserved["now"])
    monkeypatch.setattr(torch.cuda, "max_memory_reserved", lambda: reserved["peak"])
    case = peers.Case((8, 3, 64, 224, 224), torch.float16, "cuda")
    calls: list[int] = []

    def forward() -> Tensor:
        calls.append(1)
        take(0, 900_000_000 if len(calls) == 1 else 50_000_000)  # the first tries algorithms
        return torch.zeros(1)

    def build() -> peers.Forward:
        clip = 8 * 3 * 64 * 224 * 224 * 2
        take(clip + 24_553_344 + 200_000_000, 0)
        return forward

    built, megabytes = memory.device_mb(build, case)
    assert built is forward
    assert megabytes == pytest.approx(250, abs=1)


def test_who_runs_where() -> None:
    rows = {tuple(row.values) for row in test_i3d_forward.ROWS}
    gpu = {case for case, _ in rows if case.device == "cuda"}
    assert {(case.shape[0], case.shape[2], case.dtype) for case in gpu} == {
        (clips, frames, dtype)
        for clips in (1, 8, 32)
        for frames in (64, 16)
        for dtype in (torch.float16, torch.bfloat16)
    }
    for case in gpu:
        assert {(case, peers.OURS), (case, peers.TUNED)} <= rows
    everyone = {name for case, name in rows if case == test_i3d_forward.COMPILED_AT}
    assert everyone == set(peers.CANDIDATES) - {"OpenVINO", "ONNX Runtime"}
    compiled = {case for case, name in rows if case in gpu and peers.COMPILED in name}
    assert compiled == {test_i3d_forward.COMPILED_AT}
    assert not {name for case, name in rows if case.device == "cpu"} & set(peers.GPU_CANDIDATES)


# Time.


class FakeGpu:
    """A GPU on which a run takes 50 us: graphs count the runs that they hold."""

    def __init__(self) -> None:
        self.time = 0.0
        self.runs = 0
        self.graphs: list[int] = []

    def run(self) -> Tensor:
        self.runs += 1
        return torch.tensor(self.runs)

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        gpu = self

        class Stream:
            def __enter__(self) -> None: ...
            def __exit__(self, *_: object) -> None: ...

        class Event:
            def __init__(self, enable_timing: bool) -> None:
                assert enable_timing

            def record(self) -> None:
                self.at = gpu.time

            def synchronize(self) -> None: ...
            def elapsed_time(self, end: Event) -> float:
                return 1e3 * (end.at - self.at)

        class Graph:
            held = 0

            def replay(self) -> None:
                gpu.time += 50e-6 * self.held

        class capture:  # noqa: N801 - torch.cuda.graph
            def __init__(self, graph: Graph, stream: Stream) -> None:
                self.graph = graph

            def __enter__(self) -> None:
                self.before = gpu.runs

            def __exit__(self, *_: object) -> None:
                self.graph.held = gpu.runs - self.before
                gpu.graphs.append(self.graph.held)

        monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
        monkeypatch.setattr(torch.cuda, "stream", lambda stream: stream)
        for name, fake in (("Stream", Stream), ("Event", Event), ("CUDAGraph", Graph), ("graph", capture)):
            monkeypatch.setattr(torch.cuda, name, fake)


def test_device_seconds_are_those_of_one_run(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = FakeGpu()
    gpu.install(monkeypatch)
    assert gpu_timing.device_seconds(gpu.run) == pytest.approx(50e-6)
    assert gpu.graphs == [1, 40]  # of two milliseconds


def test_a_capture_gives_the_last_run(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = FakeGpu()
    gpu.install(monkeypatch)
    replay = gpu_timing.captured(gpu.run, 2)
    assert replay() == gpu.runs
    assert gpu.time == pytest.approx(100e-6)


class FakeBenchmark:
    """Of pytest-benchmark's fixture what ``DeviceClock`` uses."""

    def __init__(self) -> None:
        self.stats = object()
        self.extra_info: dict[str, Any] = {}

    def pedantic(self, run: Any, **_: Any) -> None:
        run()


def test_the_device_clock_holds_times_against_what_the_gpu_reaches(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = FakeGpu()
    gpu.install(monkeypatch)
    monkeypatch.setattr(gpu_timing, "ceilings", lambda: Chip("a GPU", 800e12, 4e12))
    clock = DeviceClock(FakeBenchmark())  # type: ignore[arg-type]
    clock(gpu.run, flop=20_000_000_000, moved_bytes=150_000_000)
    info = clock.benchmark.extra_info
    assert info["gflop_per_s"] == pytest.approx(400e3)
    assert info["matmul_percent"] == pytest.approx(50)
    assert info["gb_per_s"] == pytest.approx(3000)
    assert info["copy_percent"] == pytest.approx(75)
    assert info["floor_seconds"] == pytest.approx(37.5e-6)
    clock.failed("wrong by 1")
    assert info["verdict"] == "wrong by 1"


@pytest.mark.usefixtures("narrow_peers")
def test_a_plans_steps_one_by_one_give_its_logits() -> None:
    case = peers.Case((1, 3, 9, 193, 193), torch.float32)
    steps = planned_steps(case)
    with torch.no_grad():
        results = [step.run() for step in steps]
    for step, result in zip(steps[:-1], results[:-1], strict=True):
        assert isinstance(result, Tensor)
        assert tuple(result.shape) == step.report.shape
    _, logits = results[-1]
    assert peers.relative_error(logits, peers.expected_logits(case)) < 1e-5


# Tables.


def _row(group: str, **info: Any) -> dict[str, Any]:
    return {"group": group, "stats": {"median": 1e-3}, "extra_info": info}


@pytest.fixture
def record() -> dict[str, Any]:
    versions = {
        "threads": 16,
        "isa": "avx512",
        "torch": "2.11.0",
        "gpu": "A GPU",
        "cuda": "13.0",
        "cudnn": 91500,
    }
    clocks = {"driver_version": "1.2", "clocks.sm": "1980 MHz", "clocks.mem": "3201 MHz"}
    timed = {"device_seconds": 123.4e-6, "floor_seconds": 100e-6, "gflop_per_s": 512345.0, "gb_per_s": 2500.0}
    shares = {"matmul_percent": 64.6, "copy_percent": 58.2}
    conv = {"case": "Conv3d_2c_3x3 64x32x56x56 batch 8"}
    return {
        "machine_info": {
            "machine": "x86_64",
            "cpu": {},
            "fasti3d": versions | {"triton": "3.6.0", "openvino": None, "clocks": clocks, "tuned": 66},
        },
        "commit_info": {"id": "0123456789abcdef", "dirty": False},
        "datetime": "2026-01-02T03:04:05",
        "benchmarks": [
            _row("gpu_ceilings", candidate="A GPU", case="a product", gflop_per_s=789e3, gb_per_s=4.3e3),
            _row("gpu_step batch 8", candidate="Mixed_3b", case="batch 8", **timed, **shares),
            _row("gpu_layer x", candidate="fasti3d", **conv, **timed, **shares),
            _row("gpu_layer x", candidate="cuDNN", **conv, **timed, **shares),
            _row("gpu_question warps", candidate="8 warps", case="warps: 2c", verdict="wrong by 3"),
            _row("gpu_question warps", candidate="4 warps", case="warps: 2c", verdict="right", **timed),
        ],
    }


def test_report_script_draws_a_gpu(
    record: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, chart = tmp_path / "a.json", tmp_path / "a.png"
    source.write_text(json.dumps(record))
    monkeypatch.setattr(sys, "argv", ["report.py", str(source), "--gpu-plot", str(chart)])
    report.main()
    assert chart.read_bytes().startswith(b"\x89PNG")
    with pytest.raises(ValueError, match="no step or convolution"):
        report.plot_gpu(record | {"benchmarks": []}, chart)


def test_records_of_one_run_are_merged(record: dict[str, Any], tmp_path: Path) -> None:
    parts = [record | {"benchmarks": record["benchmarks"][i::2]} for i in range(2)]
    merged = merge_records.merge(parts)
    assert merged["machine_info"] == record["machine_info"]
    assert len(merged["benchmarks"]) == len(record["benchmarks"])
    other = json.loads(json.dumps(parts[1]))
    other["machine_info"]["fasti3d"]["torch"] = "2.13.0"
    paths = [tmp_path / name for name in ("a.json", "b.json", "all.json")]
    for path, part in zip(paths, (parts[0], other), strict=False):
        path.write_text(json.dumps(part))
    command = [sys.executable, merge_records.__file__, *map(str, paths[:2]), "--output", str(paths[2])]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 1
    assert "differ in torch" in result.stderr
    assert not paths[2].exists()
    with pytest.raises(ValueError, match="no record"):
        merge_records.merge([])


INTERRUPTED = """
from benchmarks.conftest import pytest_sessionfinish

def test_first(benchmark):
    benchmark.pedantic(int)

def test_second(benchmark):
    def interrupt():
        raise KeyboardInterrupt
    benchmark.pedantic(interrupt)
"""


def test_benchmarks_that_are_interrupted_keep_their_rows(tmp_path: Path) -> None:
    head, _, tests = INTERRUPTED.partition("\n\n")
    (tmp_path / "conftest.py").write_text(head)
    (tmp_path / "test_it.py").write_text(tests)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--benchmark-json=a.json"]
    # Of the tests' own worker it is none, in which no benchmark would be recorded.
    env = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_XDIST")}
    env["PYTHONPATH"] = f"{ROOT}"
    result = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)
    assert result.returncode == 2, result.stdout + result.stderr
    (row,) = json.loads((tmp_path / "a.json").read_text())["benchmarks"]
    assert row["name"] == "test_first"


# Counters.

# As ncu prints them: what the program says, columns, their units, kernels.
_TABLE = [
    (
        *("ID", "Kernel Name", "gpu__time_duration.sum", "launch__registers_per_thread"),
        "lts__throughput.avg.pct_of_peak_sustained_elapsed",
        "sm__inst_executed_pipe_tensor_op_gmma.avg.pct_of_peak_sustained_active",
        "sm__pipe_tensor_op_hmma_cycles_active.avg.pct_of_peak_sustained_active",
    ),
    ("", "", "nsecond", "register/thread", "%", "%", "%"),
    ("0", "_conv3d_descriptor_kernel", "1,234,500", "154", "41.5", "66.25", "n/a"),
    ("1", "_max_pool_kernel", "2,000", "32", "80.0", "0", "n/a"),
]
_LINES = [",".join(f'"{cell}"' for cell in row) for row in _TABLE]
COUNTED = "\n".join(["==PROF== Connected to process 1", *_LINES, "==PROF== Disconnected\n"])


def test_counters_of_kernels_are_read() -> None:
    conv, pool = profile_steps.kernels(COUNTED)
    assert conv["kernel"] == "_conv3d_descriptor_kernel"
    assert (conv["us"], conv["tensor %"], conv["L2 %"], conv["registers"]) == (
        "1234.5",
        "66.2",
        "41.5",
        "154.0",
    )
    assert (conv["DRAM %"], pool["us"], pool["tensor %"]) == ("", "2.0", "0.0")
    lines = profile_steps.table([conv, pool]).splitlines()
    assert lines[0].startswith("| kernel | us | tensor % |")
    assert len(lines) == 4
    with pytest.raises(ValueError, match="LibraryNotLoaded"):
        profile_steps.kernels("==ERROR== LibraryNotLoaded\n")


def test_a_step_is_profiled_by_a_process_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stub = tmp_path / "ncu"
    stub.write_text(f"#!/bin/sh\necho \"$@\" > {tmp_path}/asked\ncat <<'END'\n{COUNTED}END\n")
    stub.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert len(profile_steps.profiled(8, 3)) == 2
    asked = (tmp_path / "asked").read_text()
    assert "--clock-control none" in asked
    assert "benchmarks.profile_steps --batch 8 --only 3" in asked


# The machine.


def test_records_say_how_many_configurations_were_tuned(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = tables.Gpu("A GPU", (9, 0), 132)
    problems = [Problem(clips, 64, 64, (8, 8, 8), (1, 1, 1), (1, 1, 1), (9, 0), 132) for clips in (1, 2, 3)]
    entries = [
        {problem: tables.Entry(choose(problem), 1e-4, 1e-4) for problem in part}
        for part in (problems[:2], problems[1:])
    ]
    found = tables.Tuned(tuple((Path("a.json"), tables.Table(gpu, {}, part)) for part in entries))
    monkeypatch.setattr(tables, "tuned", lambda device: found)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    assert measuring._tuned_configurations() == 3


@pytest.mark.parametrize("wrong", [False, True])
def test_pools_over_slabs_are_right_before_they_are_timed(
    wrong: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pytest.importorskip("triton", reason="triton is not installed")
    from benchmarks import pooled_slabs
    from fasti3d.ops.pooled_conv3d import plain
    from fasti3d.ops.pooled_conv3d_slab import launch
    from fasti3d.ops.pooled_conv3d_slab.config import Problem as Pooled
    from fasti3d.runtime import gpu

    names = list(pooled_slabs.problems(132))
    assert names == [f"Mixed_{block}.b3b" for block in ("3b", "3c", "4b", "4c", "4f", "5b")]
    run, timed = launch.run, []
    monkeypatch.setattr(pooled_slabs, "DEVICE", torch.device("cpu"))
    monkeypatch.setattr(pooled_slabs, "BATCHES", (2,))
    monkeypatch.setattr(pooled_slabs, "COMPILED", True)
    monkeypatch.setattr(pooled_slabs, "problems", lambda sms: {"block": Pooled(1, 24, 16, (2, 5, 6), sms)})
    monkeypatch.setattr(gpu_timing, "device_seconds", lambda run: timed.append(run) or 2e-6)
    for module in (gpu, launch.convolution):
        monkeypatch.setattr(module, "gpu_traits", lambda device: gpu.GpuTraits((9, 0), 1))
    monkeypatch.setattr(launch.triton, "pooled_conv3d", plain.pooled_conv3d_into)
    said: list[str] = []
    if wrong:
        # As if its last column were not written.
        monkeypatch.setattr(launch, "run", lambda *call: (run(*call), call[-1][..., -1].fill_(torch.nan)))
        with pytest.raises(SystemExit, match="3 of 4 are wrong"):
            pooled_slabs.report(tmp_path, said.append)
    else:
        pooled_slabs.report(tmp_path, said.append)
    assert len(said) == 4
    assert len(timed) == (1 if wrong else 4)
    found = json.loads((tmp_path / "pooled.json").read_text())
    assert [row["us"] for row in found] == [2.0] + [None if wrong else 2.0] * 3


# What the model says of a pass.


class Noting:
    """Stands where a launcher has its kernel, and notes its name at a launch."""

    def __init__(self, name: str, launched: list[str]) -> None:
        self.name = name
        self.launched = launched

    def __getitem__(self, grid: tuple[int, ...]) -> Noting:
        return self

    def __call__(self, *arguments: object, **options: object) -> None:
        self.launched.append(self.name)


@pytest.mark.parametrize("batch", [1, 8])
def test_what_is_predicted_is_what_a_plan_launches(batch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """With slabs, which pool in the place of one kernel or two, where the model has them as faster."""
    pytest.importorskip("triton", reason="triton is not installed")
    from benchmarks import first_light, predicted, stub_gpu
    from fasti3d.ops.pooled_conv3d import op
    from fasti3d.ops.pooled_conv3d_slab import config, launch

    def faster(problem: config.Problem) -> config.Config | None:
        its = choose(problem)
        return its if its and config.nanoseconds(problem, its) < config.otherwise(problem) else None

    choose = config.choose
    shape = (batch, 3, 64, 224, 224)
    gpu = predicted.Gpu(stub_gpu.H200, stub_gpu.PIECE_BYTES)
    graph = graph_of(I3D().eval())
    expected = predicted.predict(graph, shape, gpu)
    launched: list[str] = []
    with stub_gpu.h200(), torch.no_grad():
        for module in stub_gpu.LAUNCHERS:
            for name in [name for name in vars(module) if re.fullmatch("_.+_kernel", name)]:
                monkeypatch.setattr(module, name, Noting(name, launched))
        monkeypatch.setattr(op, "takes_slabs", lambda weight, out_channels: True)
        monkeypatch.setattr(launch, "wins", lambda key, first, second: True)
        monkeypatch.setattr(launch, "run", lambda *call: launched.append("_pooled_conv3d_slab_kernel"))
        for module in (config, launch):
            monkeypatch.setattr(module, "choose", faster)
        plan = Plan(graph, torch.float16, torch.device("cpu"))
        plan.compute(torch.zeros(shape, dtype=torch.float16), {"Logits"}, torch.float16)
    rows = first_light.beside(expected, [(name, 1.0) for name in launched])
    assert len(rows) == len(launched) == len(expected) == {1: 57, 8: 112}[batch]
    assert all(one.seconds > 0 for one in expected)
    # Where another kernel runs than was predicted, there is nothing to be put beside it.
    assert len(first_light.beside(expected, [(name, 1.0) for name in launched[1:]])) == 0
