"""Proof before use: what is asked, remembered, warned of and run instead, with stand-ins for the GPU."""

from __future__ import annotations

import dataclasses
import json
import os
import threading
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from test_graphs import HALF, Machine, clip, double
from typer.testing import CliRunner

import fasti3d
from fasti3d import proving as cases
from fasti3d.cli import app
from fasti3d.engine import cuda_graphs
from fasti3d.engine.cuda_graphs import Captured, Graphs
from fasti3d.flow import solve, tvl1
from fasti3d.inspect import doctor
from fasti3d.inspect import prove as network
from fasti3d.proof import guard, verdicts
from fasti3d.proof.guard import Guard, SelfCheckWarning
from fasti3d.proof.subject import Layout, Subject, few_tiles
from fasti3d.proof.verdicts import Environment, Verdict, Verdicts
from fasti3d.proof.worker import Worker, WorkerError
from fasti3d.runtime import gpu

CPU = torch.device("cpu")
H200 = Environment("NVIDIA H200", "9.0", "580.1", "2.13.0", "3.9.0", "0.1.0", "abc")
CONV, POOL = Subject.of("conv3d", "a convolution", size=3), Subject.of("max_pool3d", "a pool", size=[1, 2])


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FASTI3D_HOME", str(tmp_path))
    monkeypatch.delenv("FASTI3D_SELF_CHECK", raising=False)
    return tmp_path


class Prover(Guard):
    """Answers from a list instead of a process, and counts what is asked."""

    def __init__(self, **answers: tuple[str, str]) -> None:
        super().__init__(CPU, H200)
        self.answers = answers
        self.asked: list[str] = []

    def _ask(self, subject: Subject) -> tuple[str, str]:
        self.asked.append(subject.operator)
        return self.answers.get(subject.operator, ("good", ""))


@pytest.fixture
def on_gpu(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Prover]:
    """Makes this CPU a GPU with that prover."""

    def install(**answers: tuple[str, str]) -> Prover:
        its = Prover(**answers)
        monkeypatch.setattr(guard, "concerns", lambda device: not guard.is_off())
        monkeypatch.setattr(guard, "guard_of", lambda device: its)
        return its

    return install


def run(subject: Subject = CONV, kernel: Callable[[], Any] = lambda: "kernel", **options: Any) -> Any:
    return guard.guarded(CPU, subject.key, lambda: subject, kernel, lambda: "plain", **options)


def test_a_kernel_is_proved_once_and_then_runs(on_gpu: Callable[..., Prover]) -> None:
    its = on_gpu()
    assert [run() for _ in range(3)] == ["kernel"] * 3
    assert its.asked == ["conv3d"]
    assert on_gpu().verdicts.get(CONV) == Verdict.on(CONV, "good")
    its = on_gpu()
    assert (run(), its.asked) == ("kernel", []), "another process knows it"


@pytest.mark.parametrize("kind", ["wrong", "crashed", "hung", "broken"])
def test_what_is_not_good_costs_one_warning(on_gpu: Callable[..., Prover], kind: str) -> None:
    its = on_gpu(conv3d=(kind, "by 0.5"), max_pool3d=(kind, "too"))
    with pytest.warns(SelfCheckWarning) as caught:
        assert [run(), run(), run(POOL), run(POOL)] == ["plain"] * 4
    (warning,) = caught
    for said in ("a convolution", "by 0.5", "NVIDIA H200", "driver 580.1", "torch 2.13.0", "triton 3.9.0"):
        assert said in str(warning.message)
    assert its.asked.count("conv3d") == its.asked.count("max_pool3d") == 1
    its = on_gpu()  # another process: what did not build is tried again, what was wrong is not
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        assert run() == ("kernel" if kind == "broken" else "plain")
    assert len(seen) == (kind != "broken")


def test_what_was_good_but_does_not_launch_here_is_left(on_gpu: Callable[..., Prover]) -> None:
    """As in a container without a C compiler, with the cache of a machine that has one."""
    its = on_gpu()

    def fails() -> None:
        raise RuntimeError("Failed to find C compiler.\nPlease specify via CC")

    with pytest.warns(SelfCheckWarning, match="Failed to find C compiler. Please specify via CC"):
        assert run(kernel=fails) == "plain"
    assert run() == "plain"
    with pytest.raises(RuntimeError, match="C compiler"):
        run(POOL, fails, compiles=False)
    assert its.triton_fault is None, "the simplest kernel runs"

    def full() -> None:
        raise torch.OutOfMemoryError("full")

    other = Subject.of("conv3d", "another", size=4)
    with pytest.raises(torch.OutOfMemoryError):
        run(other, full)
    assert run(other) == "kernel"


def test_where_triton_runs_nothing_all_of_it_is_off_at_once(
    on_gpu: Callable[..., Prover], monkeypatch: pytest.MonkeyPatch
) -> None:
    its = on_gpu(conv3d=("broken", "no cc"), triton=("broken", "no cc"))
    with pytest.warns(SelfCheckWarning):
        run()
    assert its.triton_fault == "no cc"
    assert run(POOL) == "plain"
    assert its.asked == ["conv3d", "triton"]
    assert run(Subject.of("tvl1", "TV-L1")) == "kernel", "nvcc compiled it"
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(gpu, "gpu_traits", lambda device: gpu.GpuTraits((9, 0), 132))
    monkeypatch.setattr(gpu, "_triton_error", lambda: None)
    device = torch.device("cuda", 0)
    assert gpu.why_not(device, HALF) is None
    monkeypatch.setitem(guard._guards, device, its)
    assert "triton runs no kernel on this machine (no cc)" in str(gpu.why_not(device, HALF))


def test_it_can_be_turned_off(on_gpu: Callable[..., Prover], monkeypatch: pytest.MonkeyPatch) -> None:
    assert not guard.concerns(CPU)
    assert guard.concerns(torch.device("cuda", 0))
    its = on_gpu(conv3d=("wrong", ""))
    monkeypatch.setenv("FASTI3D_SELF_CHECK", "0")
    assert (run(), its.asked) == ("kernel", [])


def test_without_room_for_a_proof_it_is_put_off(on_gpu: Callable[..., Prover]) -> None:
    its = on_gpu(conv3d=("unsure", ""))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert run() == "plain"
    its.answers.clear()
    assert run() == "kernel"
    assert its.asked == ["conv3d"] * 2


def test_threads_ask_once(on_gpu: Callable[..., Prover]) -> None:
    its, meet = on_gpu(), threading.Barrier(4)

    def both(_: int) -> Any:
        meet.wait()
        return run(), run(POOL)

    with ThreadPoolExecutor(4) as pool:
        assert set(pool.map(both, range(4))) == {("kernel", "kernel")}
    assert sorted(its.asked) == ["conv3d", "max_pool3d"]


def test_verdicts_of_two_processes_are_both_kept(home: Path) -> None:
    first, second = Verdicts(H200), Verdicts(H200)
    first.add(CONV, Verdict.on(CONV, "good"))
    second.add(POOL, Verdict.on(POOL, "wrong", "by 1"))
    assert {its.title for its in Verdicts(H200).all().values()} == {"a convolution", "a pool"}
    (path,) = (home / "proofs").iterdir()
    assert json.loads(path.read_text())["environment"]["driver"] == "580.1"
    for field in Environment._fields:
        assert Verdicts(H200._replace(**{field: "other"})).get(CONV) is None, field


@pytest.mark.parametrize(
    "text", ["", "[]", "{", '{"environment": 1}', '{"environment": null, "verdicts": 3}']
)
def test_a_damaged_file_is_written_anew(home: Path, text: str) -> None:
    path = home / "proofs" / H200.file_name
    path.parent.mkdir()
    path.write_text(text)
    Verdicts(H200).add(CONV, Verdict.on(CONV, "good"))
    assert Verdicts(H200).get(CONV) is not None


def test_a_cache_that_cannot_be_written_keeps_nothing_and_says_nothing(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (home / "proofs").write_text("a file in the folder's place")
    its = Verdicts(H200)
    its.add(CONV, Verdict.on(CONV, "good"))
    assert its.get(CONV) is not None
    assert Verdicts(H200).get(CONV) is None

    def unknown() -> Path:
        raise ImportError("platformdirs")

    monkeypatch.setattr(verdicts, "cache_dir", unknown)
    its.add(POOL, Verdict.on(POOL, "good"))
    assert its.get(POOL) is not None


START = """
import json, os, sys, time
print(json.dumps({"fault": sys.argv[2]}), flush=True)
for line in sys.stdin:
    operator, title, details = json.loads(line)
    if operator == "crash":
        os.abort()
    if operator == "hang":
        time.sleep(60)
    print(json.dumps({"kind": "good", "fault": os.environ["FASTI3D_SELF_CHECK"]}), flush=True)
"""


def test_verdicts_are_of_one_build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the sources in Python, and of the libraries that nvcc made."""
    monkeypatch.setattr(guard, "_PACKAGE", tmp_path)
    monkeypatch.setattr(fasti3d, "__path__", [str(tmp_path)])
    (tmp_path / "ops").mkdir()
    found = {guard._kernels.__wrapped__()}
    for name in ("ops/a.py", "_C_cuda.so"):
        for text in ("1", "12"):
            (tmp_path / name).write_text(text)
            found.add(guard._kernels.__wrapped__())
    assert len(found) == 5


def test_a_worker_answers_crashes_and_hangs() -> None:
    its = Worker("", patience=20, start=START)
    assert its.ask(CONV) == its.ask(POOL) == ("good", "0")
    kind, fault = its.ask(Subject.of("crash", "it"))
    assert (kind, its.alive) == ("crashed", False)
    assert "exit code -6" in fault or os.name != "posix"
    its = Worker("", patience=20, start=START)
    its._patience = 0.2
    began = time.monotonic()
    assert its.ask(Subject.of("hang", "it"))[0] == "hung"
    assert time.monotonic() - began < 30
    assert not its.alive


@pytest.mark.parametrize(
    ("device", "start"), [("no GPU", START), ("", "raise SystemExit(1)"), ("", "print(1")]
)
def test_a_worker_that_does_not_start(device: str, start: str) -> None:
    with pytest.raises(WorkerError):
        Worker(device, patience=20, start=start)


def test_a_real_worker_proves_on_its_device() -> None:
    """The solver of the CPU against itself, in another process."""
    its = Worker("cpu")
    assert its.ask(solve.subject(tvl1.__kwdefaults__["params"])) == ("good", "")
    kind, fault = its.ask(Subject.of("nothing", "it"))
    assert (kind, "KeyError" in fault) == ("broken", True)
    its.close()
    with pytest.raises(WorkerError):
        Worker("cuda:77")


def test_without_a_worker_it_is_proved_here(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(device: str) -> Worker:
        starts.append(device)
        raise WorkerError("no")

    starts: list[str] = []
    monkeypatch.setattr(guard, "Worker", none)
    monkeypatch.setitem(cases.CASES, "conv3d", lambda device, size: "wrong" if size == 4 else None)
    its = Guard(CPU, H200)
    assert its._ask(CONV) == ("good", "")
    assert its._ask(Subject.of("conv3d", "it", size=4)) == ("wrong", "wrong")
    assert len(starts) == 1
    assert its._ask_here(Subject.of("conv3d", "it"))[0] == "broken"


def test_a_proof_without_memory_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(device: torch.device) -> None:
        raise torch.OutOfMemoryError("full")

    monkeypatch.setitem(cases.CASES, "conv3d", full)
    state = torch.random.get_rng_state()
    assert cases.prove(Subject.of("conv3d", "it"), CPU) == ("unsure", "")
    assert torch.equal(state, torch.random.get_rng_state())


def test_tvl1_that_is_wrong_runs_on_the_cpu(
    on_gpu: Callable[..., Prover], monkeypatch: pytest.MonkeyPatch
) -> None:
    subject = solve.subject(tvl1.__kwdefaults__["params"])
    real = torch.ops.fasti3d.tvl1
    calls: list[int] = []

    def off(*arguments: Any) -> Any:
        calls.append(1)
        flow, iterations = real(*arguments)
        return flow + (len(calls) - 1), iterations

    with monkeypatch.context() as patch:
        patch.setattr(torch.ops.fasti3d, "tvl1", off)
        kind, fault = cases.prove(subject, CPU)
    assert kind == "wrong"
    assert "1.41 pixels" in fault
    frames = torch.rand(2, 20, 20)
    expected = tvl1(frames[0], frames[1])
    its = on_gpu(tvl1=("wrong", fault))
    with pytest.warns(SelfCheckWarning, match="the TV-L1 solver .*1.41 pixels"):
        assert torch.equal(tvl1(frames[0], frames[1]), expected)
    assert its.asked == ["tvl1"]


@pytest.mark.parametrize(
    ("asked", "kernels"), [(None, ["groups"]), ("cluster/1", ["cluster"]), ("auto", ["groups", "cluster"])]
)
def test_tvl1_is_proved_in_one_launch_and_in_two(
    asked: str | None, kernels: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In each design that may be chosen, and any of them may be wrong."""
    real = torch.ops.fasti3d.tvl1
    seen: list[str | None] = []
    wrong: list[str] = []

    def recorded(*arguments: Any) -> Any:
        seen.append(os.environ.get("FASTI3D_TVL1_CUDA_DESIGN"))
        flow, iterations = real(*arguments)
        return (flow * float("nan") if seen[-1] in wrong else flow), iterations

    if asked is None:
        monkeypatch.delenv("FASTI3D_TVL1_CUDA_DESIGN", raising=False)
    else:
        monkeypatch.setenv("FASTI3D_TVL1_CUDA_DESIGN", asked)
    monkeypatch.setattr(torch.ops.fasti3d, "tvl1", recorded)
    subject = solve.subject(tvl1.__kwdefaults__["params"])
    designs = [f"{kernel}/{launches}" for kernel in kernels for launches in (1, 2)]
    assert cases.prove(subject, CPU) == ("good", "")
    assert seen == [asked, *designs]
    assert os.environ.get("FASTI3D_TVL1_CUDA_DESIGN") == asked
    for design in designs:
        wrong[:] = [design]
        assert cases.prove(subject, CPU)[0] == "wrong"


def test_a_graph_that_replays_something_else_is_given_up() -> None:
    machine = Machine()
    record = machine.record

    def broken(*arguments: Any) -> Captured:
        captured = record(*arguments)

        def replay() -> None:
            for y in captured.maps.values():
                y.fill_(7)

        captured.replay = replay
        return captured

    machine.record = broken  # type: ignore[method-assign]
    graphs = Graphs(machine)
    for said in ("no steps run beside each other in CUDA graphs on cpu", "CUDA graphs are not used on cpu"):
        for _ in range(2):
            graphs.run(double, clip(4), {"a"}, HALF)
        with pytest.warns(SelfCheckWarning, match=said):
            maps = graphs.run(double, clip(4), {"a"}, HALF)
        assert torch.equal(maps["a"], (2 * clip(4)).half())
    machine.log.clear()
    for frames in (4, 5, 5, 5):
        graphs.run(double, clip(frames), {"a"}, HALF)
    assert machine.log == []


def test_a_graph_is_compared_three_times() -> None:
    calls: list[int] = []

    def work(*arguments: Any) -> Any:
        calls.append(1)
        return double(*arguments)

    graphs = Graphs(Machine())
    counts = []
    for _ in range(7):
        before = len(calls)
        graphs.run(work, clip(4), {"a"}, HALF)
        counts.append(len(calls) - before)
    # Plain; once more and captured; replayed, which the stand-in does by running, and compared; replayed.
    assert counts == [1, 2, 2, 2, 2, 1, 1]


def test_graphs_are_proved_with_the_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine()

    class Planned:
        def __init__(self, *arguments: Any) -> None:
            self.graphs = Graphs(machine)

        def run(self, x: torch.Tensor, wanted: set[str], dtype: torch.dtype) -> Any:
            return self.graphs.run(double, x, wanted, dtype)

    monkeypatch.setattr(network, "Plan", Planned)
    monkeypatch.setattr(network, "graph_of", lambda model: None)
    monkeypatch.setattr(gpu, "why_not", lambda device, dtype: None)
    shapes = [(1, 3, 4, 2, 2), (2, 3, 4, 2, 2)]
    found = list(network.graph_verdicts(CPU, shapes))
    assert [(its.title, its.kind) for its in found] == [
        ("the CUDA graph of 1x3x4x2x2", "good"),
        ("the CUDA graph of 2x3x4x2x2", "good"),
    ]
    assert machine.log.count("replay") == 2 * 3
    machine.short = True
    assert list(network.graph_verdicts(CPU, shapes[:1])) == []
    machine.short = False
    monkeypatch.setattr(cuda_graphs, "_agree", lambda maps, expected: False)
    with pytest.warns(SelfCheckWarning):
        (verdict,) = network.graph_verdicts(CPU, shapes[:1])
    assert verdict.kind == "wrong"


def test_problems_of_few_tiles() -> None:
    assert few_tiles((8, 32, 56, 56), (1, 4, 8, 8)) == (3, 9, 17, 17)
    assert few_tiles((1, 1, 1, 100352), (1, 1, 1, 256)) == (1, 1, 1, 513)
    assert few_tiles((1, 32, 7, 7), (1, 1, 1, 128)) == (1, 6, 7, 7)
    assert few_tiles((2, 3, 4, 5), (1, 1, 1, 256)) == (2, 3, 4, 5)


def test_layouts_keep_order_gaps_and_alignment() -> None:
    wide = torch.empty(2, 8, 20, 30, 48, dtype=HALF).permute(0, 4, 1, 2, 3)
    layout = Layout.of(wide[:, 8:24]).smaller((1, 16, 2, 3, 4))
    assert layout.strides == (48 * 24, 1, 48 * 12, 48 * 4, 48)
    x, memory = layout.memory(CPU, 5.0)
    assert x.shape == (1, 16, 2, 3, 4)
    x.zero_()
    assert memory.count_nonzero() == memory.numel() - x.numel()
    odd = Layout.of(wide[:, 3:24])
    assert odd.offset == 3
    planes = Layout.of(torch.empty(2, 3, 4, 5, 6)).smaller((1, 3, 2, 2, 6))
    assert planes.strides[1:] == (24, 12, 6, 1)


def test_doctor_lists_verdicts_and_proves(monkeypatch: pytest.MonkeyPatch) -> None:
    runner = CliRunner(env={"COLUMNS": "300", "NO_COLOR": "1"})
    if not torch.cuda.device_count():
        done = runner.invoke(app, ["doctor", "--prove"])
        assert (done.exit_code, "no GPU to prove kernels on" in done.stderr) == (1, True)
    Verdicts(H200).add(CONV, Verdict.on(CONV, "wrong", "by 1"))
    with monkeypatch.context() as patch:
        patch.setattr(torch.cuda, "device_count", lambda: 1)
        patch.setattr(guard, "environment", lambda device: H200)
        its = Prover()
        patch.setattr(network, "guard_of", lambda device: its)
        patch.setattr(network, "subjects", lambda device: [CONV, POOL])
        patch.setattr(network, "graph_verdicts", lambda device: [])
        (found,) = doctor._proofs()
        assert (found.device, found.kernel, found.kind) == ("cuda:0", "a convolution", "wrong")
        assert [verdict.kind for verdict in network.prove_all(torch.device("cuda", 0))] == ["good", "good"]
        assert [proof.kind for proof in doctor._proofs()] == ["good", "good"]
    proofs = (found, doctor.Proof("cuda:0", "a pool", "good", "", ""))
    cards = (doctor.GpuReport("cuda:0", "NVIDIA H200", "9.0", 1 << 30),)
    diagnosis = dataclasses.replace(doctor.diagnose(), gpus=cards, proofs=proofs)
    monkeypatch.setattr(doctor, "diagnose", lambda: diagnosis)
    out = runner.invoke(app, ["doctor"]).stdout
    assert "wrong: a convolution (by 1): PyTorch's own runs in its place" in out
    assert "good: a pool" in out
