"""What of a network is trained: all of it, all but batch norm's statistics, or the classifier alone."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from fasti3d.i3d import I3D
from fasti3d.train.settings import Freeze


class Learner(nn.Module):
    """A network, to be trained as ``freeze`` says.

    With ``freeze="trunk"`` the trunk runs in eval mode without gradients, which is the fused path, and only
    the classifier after the dropout is part of the graph.

    Args:
        model: the network, which is changed in place.
        freeze: ``trunk``, ``bn`` (batch norm's statistics) or ``none``.
    """

    def __init__(self, model: I3D, freeze: Freeze) -> None:
        super().__init__()
        self.model = model
        self._freeze = freeze
        for parameter in model.parameters():
            parameter.requires_grad_(freeze != "trunk")
        for parameter in model.logits.parameters():
            parameter.requires_grad_(True)
        self.train()

    @property
    def trained(self) -> list[nn.Parameter]:
        """The parameters that training changes."""
        return [parameter for parameter in self.model.parameters() if parameter.requires_grad]

    def train(self, mode: bool = True) -> Learner:
        """Put the network into training mode, but for what is frozen."""
        super().train(mode)
        if self._freeze == "trunk":
            self.model.eval()
        elif self._freeze == "bn":
            for norm in batch_norms(self.model):
                norm.eval()
        return self

    def forward(self, clips: Tensor) -> Tensor:
        """(N, C, T, H, W) -> logits (N, classes)."""
        if self._freeze != "trunk":
            return self.model(clips)
        with torch.no_grad():
            features = self.model.extract_features(clips)
        dropped = nn.functional.dropout(features, self.model.dropout.p, self.training)
        return self.model.logits(dropped[..., None, None]).mean(dim=(2, 3, 4))


def batch_norms(model: nn.Module) -> list[_BatchNorm]:
    """Return a network's batch norms, in order."""
    return [part for part in model.modules() if isinstance(part, _BatchNorm)]


def set_momentum(norms: Iterable[_BatchNorm], momentum: float) -> None:
    """Set how much of its running statistics a batch norm takes from each batch."""
    for norm in norms:
        norm.momentum = momentum
