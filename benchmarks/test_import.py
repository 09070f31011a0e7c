"""What ``import fasti3d`` costs above ``import torch``, in fresh interpreters, turn about."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

from pytest_benchmark.fixture import BenchmarkFixture

ROUNDS = 7


def _import(module: str) -> None:
    subprocess.run([sys.executable, "-c", f"import {module}"], check=True)


def test_import(benchmark: BenchmarkFixture) -> None:
    _import("torch")  # from disk into the page cache
    torch_seconds: list[float] = []

    def import_torch() -> None:
        start = time.perf_counter()
        _import("torch")
        torch_seconds.append(time.perf_counter() - start)

    benchmark.group = "import"
    benchmark.extra_info |= {"candidate": "fasti3d", "case": "import fasti3d"}
    benchmark.pedantic(_import, args=("fasti3d",), setup=import_torch, rounds=ROUNDS)
    if benchmark.stats is None:  # --benchmark-disable
        return
    extra = [ours - theirs for ours, theirs in zip(benchmark.stats.stats.data, torch_seconds, strict=True)]
    benchmark.extra_info |= {
        "torch_seconds": statistics.median(torch_seconds),
        "extra_seconds": statistics.median(extra),
        "extra_seconds_min": min(extra),
        "extra_seconds_max": max(extra),
    }
