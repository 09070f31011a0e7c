"""fasti3d::tvl1 on the CPU: to the bit its reference, whatever the instruction set, threads and batch."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from tvl1_making import arguments, frames, reference, solve
from waiting import PATIENCE

from fasti3d.flow.params import TVL1Params
from fasti3d.runtime import extension

# With epsilon 0 the number of iterations is fixed: no sum decides over them, and every bit is laid down.
FIXED: dict[str, Any] = {"epsilon": 0.0, "inner_iterations": 4, "outer_iterations": 2, "warps": 2}
FORMS: list[dict[str, Any]] = [
    {},
    {"mode": "opencv-cuda"},
    {"median_filtering": 3},
    {"median_filtering": 0},
    {"gamma": 0.4},
    {"mode": "opencv-cuda", "gamma": 0.4},
    {"scale_step": 0.5},
    {"scale_step": 0.98},  # of 16 pixels it makes 16 again
    {"lambda_": 0.03, "theta": 0.7, "tau": 0.1, "nscales": 2},
]
# Sides of whole vectors, of less, of a pixel more; single groups of rows; bands of uneven height.
SIZES = [(3, 3), (5, 70), (20, 48), (37, 33)]


def assert_same(actual: tuple[torch.Tensor, ...], expected: tuple[torch.Tensor, ...]) -> None:
    for a, e in zip(actual, expected, strict=True):
        torch.testing.assert_close(a, e, rtol=0, atol=0)


@cache
def expected(size: tuple[int, int], parameters: tuple[Any, ...]) -> tuple[torch.Tensor, torch.Tensor]:
    """The reference's result, for all instruction sets."""
    return reference(frames(3, *size), None, None, *parameters)


@pytest.mark.parametrize("form", FORMS, ids=str)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_equals_the_reference(isa: str, form: dict[str, Any], size: tuple[int, int]) -> None:
    clip = frames(3, *size)
    parameters = arguments(TVL1Params(**FIXED | form))
    assert_same(torch.ops.fasti3d.tvl1(clip, None, None, *parameters), expected(size, parameters))


@pytest.mark.parametrize("mode", ["opencv-cpu", "opencv-cuda"])
def test_initial_flow_equals_the_reference(isa: str, mode: str) -> None:
    clip = frames(3, 29, 40, speed=3.0)
    # Far outside the image too, where every sample is border.
    start = torch.randn((2, 2, 29, 40), generator=torch.Generator().manual_seed(1)) * 8
    start[:, :, :4] = 1e9
    start[:, :, -4:] = -1e9
    parameters = arguments(TVL1Params(**FIXED, mode=mode, nscales=3))
    expected = reference(clip[:-1], clip[1:], start, *parameters)
    actual = torch.ops.fasti3d.tvl1(clip[:-1].contiguous(), clip[1:].contiguous(), start, *parameters)
    assert_same(actual, expected)
    without = torch.ops.fasti3d.tvl1(clip, None, None, *parameters)
    assert (actual[0] != without[0]).any()


# The last one stops sooner than its sweeps expect, which begin with the median.
@pytest.mark.parametrize("form", [*FORMS, {"epsilon": 0.05, "warps": 3}], ids=str)
def test_stops_where_the_reference_stops(form: dict[str, Any]) -> None:
    clip = frames(3, 27, 36)
    parameters = arguments(TVL1Params(**{"warps": 2} | form))
    flow, iterations = torch.ops.fasti3d.tvl1(clip, None, None, *parameters)
    expected_flow, expected_iterations = reference(clip, None, None, *parameters)
    # The sums are added up in another order, in float64: only a tie in its last digits could differ.
    torch.testing.assert_close(iterations, expected_iterations, rtol=0, atol=0)
    torch.testing.assert_close(flow, expected_flow, rtol=0, atol=0)
    assert len(iterations.unique()) > 3  # each pair, level and warp has a stop of its own


def test_threads_change_nothing(isa: str, set_threads: Callable[[int], None]) -> None:
    """Neither with more pairs than threads, nor with one pair for all of them, nor with too small a level."""
    for size in [(61, 35), (17, 40), (150, 30)]:
        clip = frames(6, *size)
        for count in (1, 5):
            set_threads(1)
            expected = solve(clip[: count + 1], warps=3)
            for threads in (2, 3, 7):
                set_threads(threads)
                assert_same(solve(clip[: count + 1], warps=3), expected)


def test_batch_is_its_pairs() -> None:
    clip = frames(6, 40, 56)
    flow, iterations = solve(clip)
    for i in range(5):
        pair = solve(clip[i : i + 1], clip[i + 1 : i + 2])
        assert_same(pair, (flow[i : i + 1], iterations[i : i + 1]))


def test_instruction_sets_agree() -> None:
    if extension.CORE is None:
        pytest.skip("the extension was not built")
    clip = frames(4, 90, 113)
    before = extension.CORE.isa()
    expected = solve(clip)
    try:
        for name in extension.CORE.build_info()["instruction_sets"]:
            extension.CORE.limit_isa(name)
            assert_same(solve(clip), expected)
    finally:
        extension.CORE.limit_isa(before)


def test_two_threads_at_once() -> None:
    clips = [frames(3, 70, 90, seed=seed) for seed in range(4)]
    expected = [solve(clip) for clip in clips]
    results: list[Any] = [None] * len(clips)

    def work(index: int) -> None:
        for _ in range(3):
            results[index] = solve(clips[index])

    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(clips))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    for result, right in zip(results, expected, strict=True):
        assert_same(result, right)


def test_python_runs_meanwhile() -> None:
    """The solver holds no lock of Python's."""
    clip = frames(3, 160, 240)
    done = threading.Event()
    ticks = 0

    def work() -> None:
        solve(clip, epsilon=0.0)
        done.set()

    thread = threading.Thread(target=work)
    thread.start()
    while not done.wait(0.002):
        ticks += 1
    thread.join()
    assert ticks > 10


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
@pytest.mark.parametrize("with_second", [True, False])
def test_opcheck(dtype: torch.dtype, with_second: bool) -> None:
    clip = frames(3, 20, 24)
    clip = clip if dtype == torch.uint8 else clip / 255
    second = clip.flip(0) if with_second else None
    start = torch.zeros((3, 2, 20, 24)) if with_second else None
    parameters = arguments(TVL1Params(warps=1, outer_iterations=1))
    torch.library.opcheck(torch.ops.fasti3d.tvl1, (clip, second, start, *parameters))


def test_floats_are_bytes_over_255() -> None:
    clip = frames(3, 30, 40)
    torch.testing.assert_close(solve(clip / 255)[0], solve(clip)[0], rtol=0, atol=1e-3)


# Leaves room for the result, but not for what it takes to solve the pairs.
OUT_OF_MEMORY = """
import resource, torch
from tvl1_making import frames, solve
torch.set_num_threads(2)
clip, changes = frames(4, 1080, 1920), {"warps": 1, "nscales": 2, "epsilon": 0.5}
solve(clip[:, :32, :32].contiguous())
with open("/proc/self/statm") as file:
    used = int(file.read().split()[0]) * resource.getpagesize()
for room in (20, 150):
    resource.setrlimit(resource.RLIMIT_AS, (used + (room << 20), resource.RLIM_INFINITY))
    try:
        solve(clip, **changes)
    except RuntimeError as error:
        print(error)
resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
print(tuple(solve(clip, **changes)[0].shape))
"""


@pytest.mark.skipif(extension.CORE is None, reason="the reference has torch's own errors")
@pytest.mark.skipif(sys.platform != "linux", reason="the limit is Linux's")
def test_too_little_memory_is_an_error() -> None:
    """Not a thread that waits for ever for one that has given up."""
    command = [sys.executable, "-c", OUT_OF_MEMORY]
    folder = Path(__file__).resolve().parent
    # By default glibc keeps up to 64 MB of freed memory, which would make room beyond the limit.
    environment = {**os.environ, "MALLOC_TRIM_THRESHOLD_": "131072"}
    result = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert result.returncode == 0, result.stderr
    small, large, ready = result.stdout.splitlines()
    assert small.startswith("tvl1: out of memory: cannot allocate 3 x 2 x 1080 x 1920 values")
    assert "a pair of 1080 x 1920 frames takes about 18" in large
    assert "torch.set_num_threads" in large
    assert ready == "(3, 2, 1080, 1920)"


@pytest.mark.skipif(extension.CORE is None, reason="these checks are the compiled operator's")
@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: solve(frames(2, 1, 40)), "frame0 must have sides of at least 3 pixels, got 1"),
        (lambda: solve(frames(2, 20, 20).int()), "frame0 must be uint8 or float32"),
        (lambda: solve(frames(2, 20, 20)[0]), r"frame0 must be \(N, H, W\)"),
        (lambda: solve(frames(2, 20, 20).transpose(1, 2)), "frame0 must be contiguous"),
        (lambda: solve(frames(2, 20, 20), frames(2, 20, 21)), "frame1 must have frame0's shape, got 21"),
        (lambda: solve(frames(2, 20, 20), frames(2, 20, 20) / 255), "frame1 must have frame0's dtype"),
        (
            lambda: solve(frames(2, 20, 20), None, torch.zeros(1, 2, 20, 19)),
            r"initial_flow must be \(1, 2, 20",
        ),
    ],
)
def test_wrong_tensors(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(RuntimeError, match=message):
        call()
