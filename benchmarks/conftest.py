"""What every benchmark shares: the alternated measurement and the machine in the record."""

from __future__ import annotations

import importlib.metadata
import statistics
import time
from collections.abc import Callable
from typing import Any

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture

from fasti3d import extension

Call = Callable[[], object]


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def pytest_benchmark_update_machine_info(machine_info: dict[str, Any]) -> None:
    machine_info.pop("node", None)  # a host's name says nothing about its speed
    cuda = torch.cuda.is_available()
    machine_info["fasti3d"] = {
        "threads": torch.get_num_threads(),
        "isa": extension.instruction_set(),
        "torch isa": torch.backends.cpu.get_cpu_capability(),
        "torch": torch.__version__,
        "openvino": _version("openvino"),
        "extension": extension.build_info(),
        "gpu": torch.cuda.get_device_name() if cuda else None,
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version() if cuda else None,
        "triton": _version("triton"),
    }


def rounds_within(seconds: float, call: Call, *, least: int = 5, most: int = 30) -> int:
    """How many runs of ``call`` fill ``seconds``, within bounds; runs it once."""
    start = time.perf_counter()
    call()
    return max(least, min(most, int(seconds / (time.perf_counter() - start))))


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
            start = time.perf_counter()
            assert ours is not None
            ours()
            seconds.append(time.perf_counter() - start)

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
