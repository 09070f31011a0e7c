"""The clips of universome/fvd-comparison, and the script that ran them into ``data/fvd_random_logits.npz``.

They are numpy's ``RandomState(seed).rand(n, 16, 224, 224, 3)`` in float32, seed 2 for the real side and 1 for
the generated one, in [0, 1) and given to the network as they are. The stored logits of 128 a side came from
fasti3d on an x86-64 CPU in float32; the score they give is TensorFlow's to 1e-5, which nothing but the right
logits does. To make the file again, which takes minutes::

    python tests/metrics/random_clips.py

Logits are stored as a mean and 16-bit deviations from it, to 2.3e-5.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fasti3d.metrics.embedding import Embedding
from fasti3d.metrics.presets import PRESETS

STORED = Path(__file__).parents[1] / "data" / "fvd_random_logits.npz"
SEEDS = {"real": 2, "generated": 1}
# As they are: 0 to 1 is what the network is given.
VALUE_RANGE = (-1.0, 1.0)


def make(side: str, count: int) -> Iterator[Tensor]:
    """The first clips of a side, one at a time: float32 (1, 16, 224, 224, 3)."""
    random = np.random.RandomState(SEEDS[side])
    for _ in range(count):
        yield torch.from_numpy(random.rand(1, 16, 224, 224, 3).astype(np.float32))


def compute(side: str, count: int) -> Tensor:
    """The logits of the first clips of a side, float64 (count, 400)."""
    embedding = Embedding(PRESETS["tf"], "kinetics400-rgb", device="cpu")
    return torch.cat([embedding(clip.permute(0, 1, 4, 2, 3), *VALUE_RANGE) for clip in make(side, count)])


def stored(side: str) -> Tensor:
    """The stored logits of a side, float64 (128, 400)."""
    with np.load(STORED) as file:
        return torch.from_numpy(file[f"{side}/mean"] + file[f"{side}/step"] * file[f"{side}/steps"])


def main() -> None:
    arrays = {}
    for side in SEEDS:
        logits = compute(side, 128).numpy()
        mean = logits.mean(axis=0)
        step = np.abs(logits - mean).max() / 32767
        arrays |= {f"{side}/mean": mean, f"{side}/step": step}
        arrays[f"{side}/steps"] = np.rint((logits - mean) / step).astype(np.int16)
        print(side, "step", step)
    np.savez_compressed(STORED, **arrays)


if __name__ == "__main__":
    main()
