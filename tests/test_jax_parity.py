"""The network against stored outputs of an independent implementation (see jax_logits.py for how)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import jax_logits
import numpy as np
import pytest
import torch

import fasti3d
from fasti3d import network, reference, weights

# Largest difference over the largest logit. JAX's own float32 rounding is up to 1.4e-6 of it,
# measured against the reference in float64 ...
JAX_ROUNDING = 2e-6
# ... and a float32 network rounds as much once more, in its own order of summation.
FLOAT32 = 2 * JAX_ROUNDING
# Maps have fewer roundings behind them than logits: 6e-7 measured.
MAPS = 2e-6


@pytest.fixture(scope="module")
def stored() -> Mapping[str, np.ndarray]:
    with np.load(jax_logits.STORED) as file:
        return dict(file)


@pytest.fixture(scope="module")
def checkpoint(kinetics_weights: Path) -> dict[str, torch.Tensor]:
    return weights.load(kinetics_weights).state_dict


@pytest.fixture(scope="module")
def plain(checkpoint: dict[str, torch.Tensor]) -> reference.I3D:
    model = reference.I3D().eval()
    model.load_state_dict(checkpoint)
    return model


@pytest.fixture(scope="module")
def drop_in(checkpoint: dict[str, torch.Tensor]) -> fasti3d.I3D:
    model = fasti3d.I3D().eval()
    model.load_state_dict(checkpoint)
    return model


def clip(name: str) -> torch.Tensor:
    return torch.from_numpy(jax_logits.make(jax_logits.CLIPS[name]))


def difference(ours: torch.Tensor, theirs: np.ndarray) -> float:
    return float(np.abs(ours.double().numpy() - theirs).max() / np.abs(theirs).max())


@torch.no_grad()
def test_reference_in_float64(checkpoint: dict[str, torch.Tensor], stored: Mapping[str, np.ndarray]) -> None:
    """With our own rounding out of the way, what is left is JAX's."""
    name = "odd size, 2x2 head positions"
    model = reference.I3D().eval()
    model.load_state_dict(checkpoint)
    assert difference(model.double()(clip(name).double()), stored[f"{name}/logits"]) < JAX_ROUNDING


@torch.no_grad()
@pytest.mark.parametrize("name", jax_logits.CLIPS)
def test_every_endpoint(name: str, plain: reference.I3D, stored: Mapping[str, np.ndarray]) -> None:
    maps = plain.forward_endpoints(clip(name), [*network.TRUNK, "Logits"])
    for endpoint in network.TRUNK:
        ours = maps[endpoint]
        assert tuple(ours.shape) == tuple(stored[f"{name}/{endpoint}/shape"])
        off = np.abs(jax_logits.summary(ours.numpy()) - stored[f"{name}/{endpoint}"]).max()
        assert off / float(ours.max()) < MAPS, endpoint
    assert difference(maps["Logits"], stored[f"{name}/logits"]) < FLOAT32


@torch.no_grad()
@pytest.mark.parametrize("name", jax_logits.CLIPS)
def test_drop_in(name: str, drop_in: fasti3d.I3D, stored: Mapping[str, np.ndarray]) -> None:
    logits = drop_in(clip(name))
    assert difference(logits, stored[f"{name}/logits"]) < FLOAT32
    assert logits.argmax(dim=1).tolist() == stored[f"{name}/logits"].argmax(axis=1).tolist()
