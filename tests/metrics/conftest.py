"""A cheap stand-in for the network, and weights for the real one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

import fasti3d
from fasti3d.metrics import metric


class Colours:
    """In the place of the network: the mean and spread of each colour, in 0 to 1."""

    width = 6
    device, dtype = torch.device("cpu"), torch.float32

    def __init__(self, preset: object, source: object, **options: Any) -> None:
        self.weights = {"source": str(source), "sha256": f"hash of {source}"}
        self._batch = options["batch"]

    def batch_size(self, frames: int) -> int:
        return self._batch or 3

    def __call__(self, clips: Tensor, low: float, high: float) -> Tensor:
        values = ((clips.double() - low) / (high - low)).transpose(1, 2).flatten(2)
        return torch.cat((values.mean(dim=2), values.std(dim=2)), dim=1)


@pytest.fixture
def colours(monkeypatch: pytest.MonkeyPatch) -> None:
    """Metrics look at colours only."""
    monkeypatch.setattr(metric, "Embedding", Colours)


@pytest.fixture(scope="session")
def random_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of 5 classes."""
    path = tmp_path_factory.mktemp("weights") / "rgb.safetensors"
    torch.manual_seed(0)
    save_file(fasti3d.I3D(5).state_dict(), path)
    return path
