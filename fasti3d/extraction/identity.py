"""What finished work is recognized by, beside its settings: the weights and the state of the video."""

from __future__ import annotations

import hashlib
import json

import torch
from torch import nn

from fasti3d.utils.parsing import Json


def weights_digest(model: nn.Module) -> str:
    """Return the SHA-256 over the names, dtypes, shapes and values of a network's weights."""
    found = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        if name.endswith("num_batches_tracked"):
            continue  # the same weights in another format may bring another count
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        found.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return found.hexdigest()


def digest(recipe: Json, source: Json | None) -> str:
    """Return the SHA-256 of a recipe (settings and weights) and a video's state, None if it is missing."""
    text = json.dumps([recipe, source], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()
