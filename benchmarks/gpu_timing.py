"""Times what runs on a GPU by its own clock, from CUDA graphs, and what the GPU reaches at its best."""

from __future__ import annotations

import functools
import statistics
import subprocess
from collections.abc import Callable
from typing import TypeVar

import torch

from fasti3d.inspect.roofline import Chip

T = TypeVar("T")

ROUNDS = 15
# Of a round, so that neither the clock's steps nor the gap between two graphs count.
_ROUND_SECONDS = 2e-3
_MOST_RUNS = 200
# A product of this size takes a millisecond and a half of an H200; a copy as many.
_MATRIX = 8192
_COPY_BYTES = 3 << 30
_CLOCKS = ("driver_version", "clocks.sm", "clocks.mem", "clocks.max.sm", "clocks.max.mem", "power.limit")


def captured(run: Callable[[], T], times: int = 1) -> Callable[[], T]:
    """So many runs from a CUDA graph, as launches from Python take longer than most kernels.

    What is returned does not wait for the GPU, and gives the last run's result, in the graph's memory.
    """
    torch.cuda.synchronize()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for _ in range(3):  # compiles, and lets cuDNN try its algorithms
            run()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        for _ in range(times):
            result = run()

    def replay() -> T:
        graph.replay()
        return result

    return replay


def synchronised(run: Callable[[], T]) -> Callable[[], T]:
    """The run, and the wait for its end."""

    def wait() -> T:
        result = run()
        torch.cuda.synchronize()
        return result

    return wait


def device_seconds(run: Callable[[], object]) -> float:
    """What a run takes of the GPU's time: the median of graphs of many runs, one right behind the other.

    What fits the second-level cache is there already, as most of what a layer reads is when it has just been
    written.
    """
    times = max(1, min(_MOST_RUNS, round(_ROUND_SECONDS / _elapsed(captured(run)))))
    replay = captured(run, times)
    return statistics.median(_elapsed(replay) for _ in range(ROUNDS)) / times


def _elapsed(replay: Callable[[], object]) -> float:
    """The second of two replays: the GPU is busy with the first until it is queued."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    replay()
    start.record()
    replay()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / 1e3


@functools.cache
def ceilings() -> Chip:
    """What this GPU reaches: a large product of random float16 matrices; a large copy, read and written."""
    a, b, c = (torch.randn(_MATRIX, _MATRIX, device="cuda", dtype=torch.float16) for _ in range(3))
    product = device_seconds(lambda: torch.mm(a, b, out=c))
    source = torch.randint(256, (_COPY_BYTES,), device="cuda", dtype=torch.uint8)
    target = torch.empty_like(source)
    copy = device_seconds(lambda: target.copy_(source))
    return Chip(torch.cuda.get_device_name(), 2 * _MATRIX**3 / product, 2 * _COPY_BYTES / copy)


def clocks() -> dict[str, str] | None:
    """The driver and the clocks, as nvidia-smi reads them while the GPU multiplies; None where it cannot."""
    try:
        uuid = torch.cuda.get_device_properties(torch.cuda.current_device()).uuid
        query = [f"--id=GPU-{uuid}", f"--query-gpu={','.join(_CLOCKS)}"]
        a = torch.randn(_MATRIX, _MATRIX, device="cuda", dtype=torch.float16)
        for _ in range(500):  # two thirds of a second of an H200, in which nvidia-smi starts and reads
            torch.mm(a, a)
        command = ["nvidia-smi", *query, "--format=csv,noheader"]
        answer = subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout
        torch.cuda.synchronize()
    except (OSError, subprocess.SubprocessError, RuntimeError):  # the last after an error of a kernel
        return None
    return dict(zip(_CLOCKS, (value.strip() for value in answer.split(",")), strict=False))
