"""Fixtures of the operators' tests: instruction sets, numbers of threads, and runs in the background."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import older_triton
import pytest
import torch
from background import RUNS, Outcome, Runs, interpreted

from fasti3d.runtime import extension


def _run_of(item: pytest.Item) -> str | None:
    """The name of the run that a test waits for, if it does."""
    marker = item.get_closest_marker("background")
    return marker.args[0] if marker else None


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts the tests that wait for runs in the background behind all others."""
    items.sort(key=lambda item: _run_of(item) is not None)
    for item in items:
        if _run_of(item):
            item.add_marker(pytest.mark.timeout(1200))


def pytest_collection_finish(session: pytest.Session) -> None:
    """Starts these runs at once."""
    names = dict.fromkeys(filter(None, map(_run_of, session.items)))
    jobs = {name: interpreted(name) for name in names if name != older_triton.OLDER}
    if older_triton.OLDER in names and not older_triton.why_not():
        jobs[older_triton.OLDER] = older_triton.job()
    if jobs and not session.config.option.collectonly:
        session.config.stash[RUNS] = Runs(jobs)


def pytest_unconfigure(config: pytest.Config) -> None:
    if RUNS in config.stash:
        config.stash[RUNS].stop()


@pytest.fixture
def outcome(request: pytest.FixtureRequest) -> Outcome:
    """Of the run in the background that the test is marked with."""
    name = _run_of(request.node)
    assert name is not None
    return request.config.stash[RUNS].outcome(name)


@pytest.fixture(params=["baseline", "avx2", "avx512"])
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    """Runs the test once with each instruction set this CPU has."""
    if extension.CORE is None:
        pytest.skip("the extension was not built")
    before = extension.CORE.isa()
    # AVX512_BF16 adds kernels for bfloat16 and leaves the others as they are: one run covers both.
    extension.CORE.limit_isa("avx512_bf16" if request.param == "avx512" else request.param)
    try:
        if not extension.CORE.isa().startswith(request.param):
            pytest.skip(f"this CPU, or FASTI3D_ISA, offers no {request.param}")
        yield request.param
    finally:
        extension.CORE.limit_isa(before)


@pytest.fixture
def set_threads() -> Iterator[Callable[[int], None]]:
    """``torch.set_num_threads``, undone after the test."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)
