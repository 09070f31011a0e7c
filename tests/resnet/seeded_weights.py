"""Weights and clips that any machine draws alike, whatever the names of a network's tensors."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

STEM_CHANNELS = 16
CLASSES = 20


def seeded_weights(state: Mapping[str, Tensor], seed: str) -> dict[str, Tensor]:
    """Values of the scale that a trained network has, and no batch norm that is the identity.

    Maps stay so small that scores of attention differ without one of them taking it all.
    """
    generator = torch.Generator().manual_seed(sum(map(ord, seed)))
    drawn = {}
    for key in sorted(state):
        like = state[key]
        if not like.is_floating_point():
            drawn[key] = torch.zeros_like(like)
        elif like.ndim > 1:
            noise = torch.randn(like.shape, generator=generator)
            # Embeddings of attention, alone among convolutions to have a bias: products of three of them.
            embeds = like.ndim == 5 and key.replace("weight", "bias") in state
            drawn[key] = noise * math.sqrt(2 / like[0].numel()) * (0.3 if embeds else 1)
        elif key.endswith("running_var"):
            drawn[key] = 0.7 + 0.6 * torch.rand(like.shape, generator=generator)
        elif key.endswith("weight"):
            drawn[key] = 0.2 + 0.6 * torch.rand(like.shape, generator=generator)
        else:
            drawn[key] = 0.2 * torch.randn(like.shape, generator=generator)
    return drawn


def seeded_clip(project: str) -> Tensor:
    """One that leaves several frames at the end, and fills the head where that has a window."""
    size = {"pytorchvideo": (8, 200, 208), "mmaction2": (32, 72, 88)}[project]
    generator = torch.Generator().manual_seed(len(project))
    return torch.randn(1, 3, *size, generator=generator)
