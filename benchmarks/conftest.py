"""What every benchmark shares: the alternated measurement and the machine in the record."""

from __future__ import annotations

import contextlib
import importlib.metadata
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor

from benchmarks import gpu_timing
from benchmarks.flow_peers import Solver
from fasti3d.inspect.roofline import floor_seconds
from fasti3d.ops.conv3d_bn_relu import tables
from fasti3d.runtime import extension

Call = Callable[[], object]


def _version(*packages: str) -> str | None:
    """Of the first of these that is installed."""
    for package in packages:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            return importlib.metadata.version(package)
    return None


def _tuned_configurations() -> int:
    """The measured configurations of convolutions that are in use."""
    found = tables.tuned(torch.device("cuda", torch.cuda.current_device())).tables
    return len({problem for _, table in found for problem in table.entries})


def pytest_benchmark_update_machine_info(machine_info: dict[str, Any]) -> None:
    machine_info.pop("node", None)  # a host's name says nothing about its speed
    cuda = torch.cuda.is_available()
    machine_info["fasti3d"] = {
        "threads": torch.get_num_threads(),
        "isa": extension.instruction_set(),
        "torch isa": torch.backends.cpu.get_cpu_capability(),
        "torch": torch.__version__,
        "openvino": _version("openvino"),
        "onnxruntime": _version("onnxruntime"),
        "opencv": _version("opencv-contrib-python-headless", "opencv-contrib-python"),
        "scikit-image": _version("scikit-image"),
        "extension": extension.build_info(),
        "gpu": torch.cuda.get_device_name() if cuda else None,
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version() if cuda else None,
        "triton": _version("triton"),
        "clocks": gpu_timing.clocks() if cuda else None,
        "tuned": _tuned_configurations() if cuda else 0,
    }


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> Iterator[None]:
    """Leaves out what an interrupt cut short, which pytest-benchmark could make no record of."""
    rows: list[Any] = session.config._benchmarksession.benchmarks  # type: ignore[attr-defined]
    rows[:] = [row for row in rows if row.stats.data]
    yield


def _seconds(call: Call) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def rounds_within(seconds: float, call: Call, *, least: int = 5, most: int = 30) -> int:
    """How many runs of ``call`` fill ``seconds``, within bounds; runs it once."""
    return max(least, min(most, int(seconds / _seconds(call))))


class Race:
    """Times a candidate through pytest-benchmark, with a run of fasti3d just before every round.

    Shared machines change speed from one second to the next: only neighbouring runs compare. The
    ratio (candidate's time over fasti3d's: above 1, fasti3d is faster) is taken round by round.
    """

    def __init__(self, benchmark: BenchmarkFixture) -> None:
        self.benchmark = benchmark

    def __call__(
        self, candidate: Call, ours: Call | None, *, rounds: int, flop: int = 0, moved_bytes: int = 0
    ) -> None:
        """Measures ``rounds`` of ``candidate``, in turns with ``ours`` if given, into the row's extra_info.

        Args:
            flop: floating-point operations of one run, reported as GFLOP/s.
            moved_bytes: bytes that one run has to read and write, reported as GB/s.
        """
        seconds: list[float] = []

        def run_ours() -> None:
            assert ours is not None
            seconds.append(_seconds(ours))

        self.benchmark.pedantic(candidate, setup=run_ours if ours else None, rounds=rounds)
        if self.benchmark.stats is None:  # --benchmark-disable
            return
        stats, info = self.benchmark.stats.stats, self.benchmark.extra_info
        if ours:
            ratios = [theirs / mine for theirs, mine in zip(stats.data, seconds, strict=True)]
            info["ratio"] = statistics.median(ratios)
            info["ratio_min"], info["ratio_max"] = min(ratios), max(ratios)
            info["fasti3d_seconds"] = statistics.median(seconds)
        if flop:
            info["gflop_per_s"] = flop / stats.median / 1e9
        if moved_bytes:
            info["gb_per_s"] = moved_bytes / stats.median / 1e9


@pytest.fixture
def race(benchmark: BenchmarkFixture) -> Race:
    return Race(benchmark)


class DeviceClock:
    """Times what is launched on a GPU by its clock, into the row's extra_info, beside what it reaches."""

    def __init__(self, benchmark: BenchmarkFixture) -> None:
        self.benchmark = benchmark

    def __call__(self, run: Call, *, flop: int = 0, moved_bytes: int = 0) -> None:
        """Measures ``run``, which may be captured in a CUDA graph; pytest-benchmark's own time is one call's.

        Args:
            flop: floating-point operations of one run.
            moved_bytes: bytes that it has to read and write.
        """
        self.benchmark.pedantic(gpu_timing.synchronised(run), warmup_rounds=1, rounds=3)
        if self.benchmark.stats is None:  # --benchmark-disable
            return
        seconds, best = gpu_timing.device_seconds(run), gpu_timing.ceilings()
        info = self.benchmark.extra_info
        info["device_seconds"] = seconds
        info["floor_seconds"] = floor_seconds(flop, moved_bytes, best)
        if flop:
            info["gflop_per_s"] = flop / seconds / 1e9
            info["matmul_percent"] = 100 * flop / seconds / best.flop_per_s
        if moved_bytes:
            info["gb_per_s"] = moved_bytes / seconds / 1e9
            info["copy_percent"] = 100 * moved_bytes / seconds / best.bytes_per_s

    def failed(self, verdict: str) -> None:
        """A row for what has no speed, with the reason."""
        self.benchmark.pedantic(lambda: None)
        self.benchmark.extra_info["verdict"] = verdict


@pytest.fixture
def device_clock(benchmark: BenchmarkFixture) -> DeviceClock:
    return DeviceClock(benchmark)


class PairRace:
    """Times a flow solver pair by pair through pytest-benchmark, with a run of fasti3d just before each.

    Pairs take very different times, so that rates and ratios are those of all pairs together: the sum of
    the candidate's times over the sum of fasti3d's.
    """

    def __init__(self, benchmark: BenchmarkFixture) -> None:
        self.benchmark = benchmark

    def __call__(
        self,
        solve: Callable[[Tensor, Tensor], object],
        pairs: Sequence[tuple[Tensor, Tensor]],
        *,
        ours: Solver | None = None,
        our_batch: Callable[[], object] | None = None,
    ) -> None:
        """Measures ``solve`` once on each of ``pairs``, into the row's extra_info.

        Args:
            ours: fasti3d on one pair; ``ratio_single`` with the least and the greatest of a pair.
            our_batch: fasti3d on all pairs at once, run before every sixth pair; ``ratio_batch`` with the
                least and the greatest of its runs.
        """
        singles: list[float] = []
        batches: list[float] = []
        waiting = iter(pairs)

        def turn() -> tuple[tuple[Tensor, Tensor], dict[str, Any]]:
            pair = next(waiting)
            if our_batch and len(singles) % 6 == 0:
                batches.append(_seconds(our_batch))
            if ours:
                singles.append(_seconds(lambda: ours(*pair)))
            return pair, {}

        self.benchmark.pedantic(solve, setup=turn, rounds=len(pairs))
        if self.benchmark.stats is None:  # --benchmark-disable
            return
        theirs: list[float] = self.benchmark.stats.stats.data
        info = self.benchmark.extra_info
        info["pairs"], info["pairs_per_s"] = len(pairs), len(pairs) / sum(theirs)
        if ours:
            each = [a / b for a, b in zip(theirs, singles, strict=True)]
            info["ratio_single"] = sum(theirs) / sum(singles)
            info["ratio_single_min"], info["ratio_single_max"] = min(each), max(each)
        if our_batch:
            info["ratio_batch"] = sum(theirs) / statistics.median(batches)
            info["ratio_batch_min"] = sum(theirs) / max(batches)
            info["ratio_batch_max"] = sum(theirs) / min(batches)


@pytest.fixture
def pair_race(benchmark: BenchmarkFixture) -> PairRace:
    return PairRace(benchmark)
