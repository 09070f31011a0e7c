"""Which of two kernels is the faster, measured at the first use of a shape and kept by the process."""

from __future__ import annotations

from collections.abc import Callable, Hashable

import torch

# Runs in a row that are timed together, and how often: a race takes a few milliseconds.
_RUNS, _ROUNDS = 3, 3

_wins: dict[Hashable, bool] = {}


def wins(key: Hashable, first: Callable[[], None], second: Callable[[], None]) -> bool:
    """Whether ``first`` takes less time than ``second`` on the current CUDA device.

    The two run at the first call of a ``key``, and not while a CUDA graph is captured: then ``second`` is
    taken for the faster, for this once.
    """
    found = _wins.get(key)
    if found is None:
        if is_capturing():
            return False
        times = milliseconds(first), milliseconds(second)
        found = _wins[key] = times[0] < times[1]
    return found


def is_capturing() -> bool:
    """Whether the current stream is captured into a graph, where nothing can be timed."""
    return torch.cuda.is_current_stream_capturing()


def milliseconds(run: Callable[[], None]) -> float:
    """The time of the fastest round on the GPU, after one that compiles and loads."""
    run()
    return min(_round(run) for _ in range(_ROUNDS))


def _round(run: Callable[[], None]) -> float:
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    start.record()
    for _ in range(_RUNS):
        run()
    end.record()
    end.synchronize()
    return start.elapsed_time(end)
