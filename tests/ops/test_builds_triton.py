"""Kernels compiled in processes of their own, for a GPU that is not there: Triton's launches find them."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

pytest.importorskip("triton", reason="triton is not installed")

from triton import knobs

from benchmarks.stub_gpu import Driver, h200
from fasti3d.ops.max_pool3d_same import launch as pool_launch
from fasti3d.ops.pooled_conv3d import launch as pooled_launch
from fasti3d.runtime import builds
from fasti3d.runtime.builds import Build

THREE, ONE = (3, 3, 3), (1, 1, 1)


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Driver]:
    """Without anything compiled, in memory or on disk."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    with h200() as its:
        for kernel in (pool_launch._max_pool3d_same_kernel, pooled_launch._pooled_conv3d_kernel):
            kernel.device_caches.clear()
        yield its


def clip(channels: int) -> Tensor:
    return torch.zeros(1, 4, 6, 6, channels, dtype=torch.float16).permute(0, 4, 1, 2, 3)


def work() -> None:
    """Three launches of two kernels, one of them in two configurations."""
    weight, bias = torch.zeros(16, 1, 24, dtype=torch.float16), torch.zeros(16)
    pool_launch.max_pool3d(clip(24), THREE, ONE, clip(24))
    pool_launch.max_pool3d(clip(24), (1, 3, 3), ONE, clip(24))
    pooled_launch.pooled_conv3d(clip(24), weight, bias, True, clip(16))


def test_a_launch_finds_what_a_process_compiled(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    # As in a data loader's, whose processes may have no children of multiprocessing.
    monkeypatch.setitem(multiprocessing.current_process()._config, "daemon", True)  # type: ignore[attr-defined]
    found = builds.recorded(work)
    assert sorted(build.name for build in found) == 2 * ["_max_pool3d_same_kernel"] + [
        "_pooled_conv3d_kernel"
    ]
    assert driver.launched == []
    assert not any(map(builds.is_on_disk, found))
    assert builds.compile_beside(found, 2) == 3
    assert all(map(builds.is_on_disk, found))
    hits: list[bool] = []
    monkeypatch.setattr(knobs.compilation, "listener", lambda *, cache_hit, **_: hits.append(cache_hit))
    work()
    assert hits == [True] * 3
    assert len(driver.launched) == 3
    # Another configuration is another build.
    monkeypatch.setattr(pool_launch, "WARPS", 2 * pool_launch.WARPS)
    pool_launch.max_pool3d(clip(24), THREE, ONE, clip(24))
    assert hits == [True] * 3 + [False]


def test_what_is_compiled_in_this_process_is_not_recorded(driver: Driver) -> None:
    pool_launch.max_pool3d(clip(24), THREE, ONE, clip(24))
    assert len(builds.recorded(work)) == 2
    assert len(driver.launched) == 2


def test_other_threads_and_hooks_go_on(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []

    def hook(*, fn: Any, **rest: Any) -> bool:
        seen.append(fn.name)
        return False

    monkeypatch.setattr(knobs.runtime, "jit_cache_hook", hook)
    before = knobs.runtime.jit_cache_hook

    def meanwhile() -> None:
        with ThreadPoolExecutor(1) as pool:
            pool.submit(pool_launch.max_pool3d, clip(24), THREE, ONE, clip(24)).result()
        work()

    assert len(builds.recorded(meanwhile)) == 2
    assert seen == ["_max_pool3d_same_kernel"]
    assert driver.launched == 2 * ["_max_pool3d_same_kernel"]
    assert knobs.runtime.jit_cache_hook is before


@pytest.mark.parametrize("failing", ["start", "kernel", "process"])
def test_what_fails_is_left_to_the_launch(
    failing: str, driver: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second, *_ = builds.recorded(work)
    if failing == "start":
        monkeypatch.setattr(builds.sys, "executable", "/nowhere/python")
    elif failing == "process":
        monkeypatch.setattr(builds, "_START", "raise SystemExit(1)")
    else:
        first = first._replace(module="nowhere")
    assert builds.compile_beside([first, second], 1) == (1 if failing == "kernel" else 0)


def test_few_are_left_to_the_launches(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[Build]] = []
    monkeypatch.setattr(builds, "compile_beside", asked.append)
    builds.prepare(work)
    assert asked == []
    monkeypatch.setattr(builds, "_FEW", 2)
    builds.prepare(work)
    assert [len(found) for found in asked] == [3]

    def fails() -> None:
        raise ValueError("a shape that the network does not take")

    builds.prepare(fails)
    assert len(asked) == 1
