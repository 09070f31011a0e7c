"""Fixtures of the operators' tests: instruction sets and numbers of threads."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import torch

from fasti3d.runtime import extension


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Gives kernels time; leaves a test its first and last case, if asked to: enough for another Triton."""
    for item in items:
        if item.path.stem.endswith(("_triton", "_toolchain")):
            item.add_marker(pytest.mark.timeout(1200))
    if os.environ.get("FASTI3D_FEW_CASES") != "1":
        return
    cases: dict[str, list[pytest.Item]] = {}
    for item in items:
        cases.setdefault(item.nodeid.partition("[")[0], []).append(item)
    kept = {id(item) for its in cases.values() for item in (its[0], its[-1])}
    config.hook.pytest_deselected(items=[item for item in items if id(item) not in kept])
    items[:] = [item for item in items if id(item) in kept]


@pytest.fixture(scope="session", autouse=True)
def _fast_interpreter() -> None:
    """Checking every sum of integers for an overflow takes Triton's interpreter as long as all else."""
    if os.environ.get("TRITON_INTERPRET") == "1":
        from interpreting import check_sums

        check_sums(False)


_ARM = platform.machine() in ("aarch64", "arm64")
_ISAS = ("baseline", "neon") if _ARM else ("baseline", "avx2", "avx512")
# What adds kernels for bfloat16 to a set and leaves the others as they are: one run covers both.
_WITH_BFLOAT16 = {"avx512": "avx512_bf16", "neon": "neon_bf16"}


@contextmanager
def _limited(isa: str) -> Iterator[None]:
    """Inside, kernels run in an instruction set; the test is skipped where this CPU has not got it."""
    if extension.CORE is None:
        pytest.skip("the extension was not built")
    before = extension.CORE.isa()
    extension.CORE.limit_isa(_WITH_BFLOAT16.get(isa, isa))
    try:
        if not extension.CORE.isa().startswith(isa):
            pytest.skip(f"this CPU, or FASTI3D_ISA, offers no {isa}")
        yield
    finally:
        extension.CORE.limit_isa(before)


@pytest.fixture(params=_ISAS)
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    """Runs the test once with each instruction set this CPU has."""
    with _limited(request.param):
        yield request.param


@pytest.fixture(params=["reference", *_ISAS])
def kernels(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As ``isa``, and once with the references of the operator that the test's module is named after."""
    if request.param == "reference":
        name = request.module.__name__.removeprefix("test_")
        monkeypatch.setattr(f"fasti3d.ops.{name}.op._CPU_DTYPES", ())
        yield
        return
    with _limited(request.param):
        yield


@pytest.fixture
def set_threads() -> Iterator[Callable[[int], None]]:
    """``torch.set_num_threads``, undone after the test."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)
