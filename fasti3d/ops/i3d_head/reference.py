"""The head in plain PyTorch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from fasti3d.inputs import without_autocast


def average_head_reference(
    x: Tensor, weight: Tensor, bias: Tensor, window: Sequence[int] | None
) -> tuple[Tensor, Tensor]:
    """The pool, its mean over rows and columns, and the classifier on the mean over time: it is linear, so
    that gives the mean of its outputs.
    """
    if not x.numel():  # of which torch's pool refuses those without channels
        steps = 1 if window is None else x.shape[2] - window[0] + 1
        features = x.new_empty((*x.shape[:2], steps), dtype=torch.float32)
    elif window is None:
        features = x.mean(dim=(2, 3, 4), dtype=torch.float32).unsqueeze(2)
    else:
        features = F.avg_pool3d(x.float(), list(window), stride=1).mean(dim=(3, 4))
    with without_autocast(x.device):
        return features, F.linear(features.mean(dim=2), weight, bias)
