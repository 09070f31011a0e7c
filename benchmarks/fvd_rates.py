"""One side of FVD, from 8-bit clips on the device to their mean feature on the host, by who can do it there.

A candidate takes uint8 clips (N, T, H, W, 3) and returns the mean of their logits, float64 (400,).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

import fasti3d
from benchmarks import peers
from fasti3d.metrics.presets import PRESETS, prepare

OURS = "fasti3d"
REFERENCE = "reference network"
TF32 = "reference network, TF32"

# Frames in a pass of the reference: as many as fasti3d takes on a GPU.
_FRAMES = 512

Embed = Callable[[Tensor], Tensor]


class Case(NamedTuple):
    """How many clips of which shape (T, H, W), and in what the network runs where."""

    clips: int
    shape: tuple[int, int, int]
    dtype: torch.dtype
    device: str = "cpu"

    def __str__(self) -> str:
        dtype = str(self.dtype).removeprefix("torch.")
        return f"{self.clips} clips of {'x'.join(map(str, self.shape))} {dtype} {self.device}"


def not_for(name: str, case: Case) -> str | None:
    """Why a candidate has nothing to do with a case; None if it has."""
    if name == TF32 and (case.device, case.dtype) != ("cuda", torch.float32):
        return "TF32 is float32 on a GPU"
    return None


def tolerance(name: str, case: Case) -> float:
    """The largest relative error of the mean; TF32 has the mantissa of float16."""
    return peers.LOGITS_TOLERANCE[torch.float16 if name == TF32 else case.dtype]


def expected(clips: Tensor) -> Tensor:
    """The mean by the reference in float32 on the CPU."""
    x = prepare(clips.permute(0, 1, 4, 2, 3), 0, 255, PRESETS["tf"])
    with torch.no_grad():
        return peers.random_reference()(x).double().mean(dim=0)


def _ours(case: Case, path: Path) -> Embed:
    torch.backends.cudnn.benchmark = True
    dtype = str(case.dtype).removeprefix("torch.")
    metric = fasti3d.FrechetVideoDistance(weights=path, device=case.device, dtype=dtype)

    def embed(clips: Tensor) -> Tensor:
        metric.reset()
        metric.update(clips, real=True)
        return metric.state_dict()["real"]["mean"]

    return embed


def _reference(case: Case, *, tf32: bool = False) -> Embed:
    """Features of all clips, then numpy's mean and covariance."""
    torch.backends.cudnn.benchmark = True
    network = peers.random_reference().to(case.device, case.dtype)

    def embed(clips: Tensor) -> Tensor:
        features = []
        with torch.no_grad(), torch.backends.cudnn.flags(enabled=True, benchmark=True, allow_tf32=tf32):
            for part in clips.permute(0, 1, 4, 2, 3).split(_FRAMES // case.shape[0]):
                x = prepare(part, 0, 255, PRESETS["tf"]).to(case.dtype)
                features.append(network(x).double().cpu().numpy())
        every = np.concatenate(features)
        np.cov(every, rowvar=False)
        return torch.from_numpy(every.mean(axis=0))

    return embed


CANDIDATES: dict[str, Callable[[Case, Path], Embed]] = {
    OURS: _ours,
    REFERENCE: lambda case, path: _reference(case),
    TF32: lambda case, path: _reference(case, tf32=True),
}
