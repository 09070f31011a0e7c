"""The head in plain PyTorch."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from fasti3d.inputs import without_autocast
from fasti3d.network import HEAD_POOL


def i3d_head_reference(x: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """The pool, its mean over rows and columns, and the classifier on the mean over time: it is linear, so
    that gives the mean of its outputs.
    """
    if x.numel():
        features = F.avg_pool3d(x.float(), HEAD_POOL, stride=1).mean(dim=(3, 4))
    else:  # of which torch's pool refuses those without channels
        features = x.new_empty((*x.shape[:2], x.shape[2] - HEAD_POOL[0] + 1), dtype=torch.float32)
    with without_autocast(x.device):
        return features, F.linear(features.mean(dim=2), weight, bias)
