"""Fixtures of the operators' tests: instruction sets and numbers of threads, and a second Triton's run."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import older_triton
import pytest
import torch

from fasti3d import extension


def pytest_collection_finish(session: pytest.Session) -> None:
    """Starts at once what test_older_toolchain.py waits for: it takes minutes, and a core is often idle."""
    wanted = any("older_run" in getattr(item, "fixturenames", ()) for item in session.items)
    if wanted and not older_triton.why_not() and not session.config.option.collectonly:
        session.config.stash[older_triton.RUN] = older_triton.Run()


def pytest_unconfigure(config: pytest.Config) -> None:
    if older_triton.RUN in config.stash:
        config.stash[older_triton.RUN].stop()


@pytest.fixture(params=["baseline", "avx2", "avx512"])
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    """Runs the test once with each instruction set this CPU has."""
    if extension.CORE is None:
        pytest.skip("the extension was not built")
    before = extension.CORE.isa()
    extension.CORE.limit_isa(request.param)
    try:
        if extension.CORE.isa() != request.param:
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
