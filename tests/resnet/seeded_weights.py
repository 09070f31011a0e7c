"""Weights and clips that any machine draws alike, whatever the names of a network's tensors."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor


def seeded_weights(state: Mapping[str, Tensor], seed: str) -> dict[str, Tensor]:
    """Values of the scale that a trained network has; batch norms are none of them the identity."""
    generator = torch.Generator().manual_seed(sum(map(ord, seed)))
    drawn = {}
    for key in sorted(state):
        like = state[key]
        if not like.is_floating_point():
            drawn[key] = torch.zeros_like(like)
        elif like.ndim > 1:
            noise = torch.randn(like.shape, generator=generator)
            drawn[key] = noise * math.sqrt(2 / like[0].numel())
        elif key.endswith(("running_var", "weight")):
            drawn[key] = 0.4 + 0.6 * torch.rand(like.shape, generator=generator)
        else:
            drawn[key] = 0.2 * torch.randn(like.shape, generator=generator)
    return drawn


def seeded_clip(seed: str) -> Tensor:
    """The least clip that fills the head."""
    generator = torch.Generator().manual_seed(len(seed))
    return torch.randn(1, 3, 8, 200, 208, generator=generator)


def seeded_small_clip(seed: str) -> Tensor:
    """For networks that average over whatever map there is."""
    generator = torch.Generator().manual_seed(len(seed))
    return torch.randn(1, 3, 5, 40, 48, generator=generator)
