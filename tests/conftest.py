"""Fixtures shared by all tests: where data and weights are, and a network to look at."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from i3d_making import SHORT, make_i3d, narrowed
from torch import Tensor

from fasti3d import I3D
from fasti3d.engine.plan import Plan

ROOT = Path(__file__).resolve().parent.parent


def pytest_configure() -> None:
    # A shell that starts the tests in the background has them, and all that they start, ignore Ctrl-C.
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real clips, which does not travel with the project."""
    folder = Path(os.environ.get("FASTI3D_TEST_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no test data at {folder}: set FASTI3D_TEST_DATA")
    return folder


@pytest.fixture(scope="session")
def kinetics_weights() -> Path:
    """The public Kinetics-400 RGB weights, fetched once into the user's cache."""
    from fasti3d import weights

    try:
        return weights.get("kinetics400-rgb")
    except weights.WeightsError as error:
        pytest.skip(f"kinetics400-rgb cannot be downloaded: {error}")


@pytest.fixture(scope="module")
def model() -> I3D:
    """One RGB network that no test changes."""
    return make_i3d()


@pytest.fixture(scope="module")
def narrow() -> Iterator[None]:
    """The network has few channels while the tests of a module run, which costs little."""
    with narrowed():
        yield


@pytest.fixture(scope="module")
def short() -> Iterator[None]:
    """The same with few blocks, for a module that compiles it."""
    with narrowed(SHORT):
        yield


@pytest.fixture
def no_graphs() -> Iterator[None]:
    """For a test that compiles: torch keeps no graphs of others, and none of its own for others."""
    torch.compiler.reset()
    yield
    torch.compiler.reset()


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[torch.dtype]:
    """The compute dtype of every fused run."""
    seen: list[torch.dtype] = []
    run = Plan.run

    def recorded(self: Plan, *args: Any) -> dict[str, Tensor]:
        seen.append(self.dtype)
        return run(self, *args)

    monkeypatch.setattr(Plan, "run", recorded)
    return seen
