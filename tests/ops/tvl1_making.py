"""Frames that move, and the operator called with named parameters."""

from __future__ import annotations

from dataclasses import astuple
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fasti3d.flow.params import TVL1Params
from fasti3d.ops.tvl1.reference import tvl1_reference


def frames(count: int, height: int, width: int, *, seed: int = 0, speed: float = 1.3) -> Tensor:
    """A textured scene that moves by ``speed`` pixels a frame, with some noise: (count, H, W) uint8."""
    generator = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width].astype(np.float64)
    waves = generator.uniform(0.1, 0.7, (6, 2)), generator.uniform(0, 6.28, 6)
    result = np.empty((count, height, width), np.uint8)
    for i in range(count):
        scene = sum(
            np.sin(k[0] * (x - speed * i) + k[1] * (y - 0.6 * speed * i) + phase)
            for k, phase in zip(*waves, strict=True)
        )
        noise = generator.normal(0, 2, (height, width))
        result[i] = np.clip(127 + 20 * scene + noise, 0, 255)
    return torch.from_numpy(result)


def arguments(params: TVL1Params) -> tuple[Any, ...]:
    """The operator's arguments after the tensors, in its order: the mode first."""
    *numbers, mode = astuple(params)
    return mode, *numbers


def reference(*given: Any) -> tuple[Tensor, Tensor]:
    """``tvl1_reference`` on one thread: its tensors are too small to share."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return tvl1_reference(*given)
    finally:
        torch.set_num_threads(threads)


def solve(
    frame0: Tensor, frame1: Tensor | None = None, initial_flow: Tensor | None = None, **changes: Any
) -> tuple[Tensor, Tensor]:
    """``fasti3d::tvl1``: flow and iterations."""
    return torch.ops.fasti3d.tvl1(frame0, frame1, initial_flow, *arguments(TVL1Params(**changes)))
