"""Frames whose motion is known, small enough to solve quickly."""

from __future__ import annotations

import torch
from torch import Tensor

from fasti3d.flow import TVL1Params

HEIGHT, WIDTH = 48, 64
# Where only the plumbing is looked at.
QUICK = TVL1Params(nscales=2, warps=2, inner_iterations=4, outer_iterations=2)


def moving(
    frames: int, step: tuple[float, float] = (1.0, -0.5), height: int = HEIGHT, width: int = WIDTH
) -> Tensor:
    """uint8 (frames, height, width): a smooth texture that moves by ``step`` pixels, (x, y), a frame."""
    generator = torch.Generator().manual_seed(0)
    waves = torch.rand((24, 4), generator=generator)
    time = torch.arange(frames)[:, None, None]
    x = torch.arange(width) - step[0] * time
    y = torch.arange(height)[:, None] - step[1] * time
    texture = torch.zeros((frames, height, width))
    for along_x, along_y, phase, weight in waves.tolist():
        texture += weight * torch.sin((along_x - 0.5) * x + (along_y - 0.5) * y + 6.3 * phase)
    return (texture / texture.abs().max() * 127 + 128).to(torch.uint8)
