"""Metrics without the network, and weights for those with it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from clip_making import Colours
from i3d_making import make_i3d

from fasti3d.metrics import metric


@pytest.fixture
def colours(monkeypatch: pytest.MonkeyPatch) -> None:
    """Metrics look at colours only."""
    monkeypatch.setattr(metric, "Embedding", Colours)


@pytest.fixture(scope="session")
def random_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of 5 classes, whose maps keep their size as those of a trained network do."""
    path = tmp_path_factory.mktemp("weights") / "rgb.pt"
    torch.save(make_i3d(5).state_dict(), path)
    return path
