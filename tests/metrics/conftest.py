"""Metrics without the network, and weights for those with it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from clip_making import Colours
from i3d_making import make_i3d, narrowed

from fasti3d.metrics import metric


@pytest.fixture(autouse=True, scope="module")
def _narrow(request: pytest.FixtureRequest) -> Iterator[None]:
    """Networks have few channels, except with the published weights and on a GPU."""
    whole = request.module.__name__ in ("test_published", "test_fvd_cuda")
    with contextlib.nullcontext() if whole else narrowed():
        yield


@pytest.fixture
def colours(monkeypatch: pytest.MonkeyPatch) -> None:
    """Metrics look at colours only."""
    monkeypatch.setattr(metric, "Embedding", Colours)


@pytest.fixture(scope="session")
def random_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A narrow network of 5 classes, whose maps keep their size as those of a trained one do."""
    path = tmp_path_factory.mktemp("weights") / "rgb.pt"
    with narrowed():
        torch.save(make_i3d(5).state_dict(), path)
    return path
