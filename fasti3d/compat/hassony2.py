"""``I3D`` with the interface of hassony2/kinetics_i3d_pytorch, on fasti3d's network.

Change ``from src.i3dpt import I3D`` to ``from fasti3d.compat.hassony2 import I3D``.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from fasti3d import eligibility, i3d, network, reference
from fasti3d.compat.head import pooled_features

# That port leaves torch's default, a hundred times faster than the paper's.
BN_MOMENTUM = 0.1
MODALITIES = {"rgb": 3, "flow": 2}


class _Aliased(nn.Module):
    """A module that registers its children under the port's names and answers to fasti3d's too.

    State dicts, ``named_parameters`` and hooks are then the port's, while everything that walks
    the network by fasti3d's names (the fused plan, ``forward_endpoints``) finds the same modules.
    """

    aliases: ClassVar[dict[str, str]]

    def __getattr__(self, name: str) -> Any:
        path = self.aliases.get(name)
        return super().__getattr__(name) if path is None else self.get_submodule(path)


class _Unit(_Aliased, reference.Unit3D):
    aliases: ClassVar[dict[str, str]] = {"bn": "batch3d"}

    def __init__(self, unit: reference.Unit3D) -> None:
        nn.Module.__init__(self)
        self.kernel = unit.kernel
        self.stride = unit.stride
        self.conv3d = unit.conv3d
        self.batch3d = unit.bn


class _Mixed(_Aliased, reference.Mixed):
    aliases: ClassVar[dict[str, str]] = {
        "b0": "branch_0",
        "b1a": "branch_1.0",
        "b1b": "branch_1.1",
        "b2a": "branch_2.0",
        "b2b": "branch_2.1",
        "b3a": "branch_3.0",
        "b3b": "branch_3.1",
    }

    def __init__(self, block: reference.Mixed) -> None:
        nn.Module.__init__(self)
        self.branch_0 = _Unit(block.b0)
        self.branch_1 = nn.Sequential(_Unit(block.b1a), _Unit(block.b1b))
        self.branch_2 = nn.Sequential(_Unit(block.b2a), _Unit(block.b2b))
        self.branch_3 = nn.Sequential(block.b3a, _Unit(block.b3b))

    def forward(self, x: Tensor) -> Tensor:
        # Through the port's own containers, so that hooks on them fire.
        return torch.cat([self.branch_0(x), self.branch_1(x), self.branch_2(x), self.branch_3(x)], dim=1)


# What they compute is what the classes they extend compute, so the fused path may stand in for them.
eligibility.KNOWN |= {_Unit, _Mixed, nn.Sequential}


class I3D(_Aliased, i3d.I3D):
    """I3D that returns probabilities and logits, as hassony2's.

    Args:
        num_classes: classes of the head.
        modality: ``"rgb"`` (3 channels) or ``"flow"`` (2).
        dropout_prob: probability of dropping a feature before the classifier, in training mode.
        name: kept as an attribute, no more.

    Clips are ``(N, 3 or 2, T, H, W)`` in [-1, 1]. State dicts of the port load with
    ``strict=True``, and the other way round. Where a size is odd on the way down, the port pads
    and pools off the original network's grid; this one follows the original.

    Raises:
        ValueError: an unknown ``modality``.
    """

    aliases: ClassVar[dict[str, str]] = {
        **{name: name[0].lower() + name[1:] for name in network.TRUNK},
        "logits": "conv3d_0c_1x1",
    }

    def __init__(
        self, num_classes: int, modality: str = "rgb", dropout_prob: float = 0, name: str = "inception"
    ) -> None:
        if modality not in MODALITIES:
            raise ValueError(f"{modality} not among known modalities [rgb|flow]")
        super().__init__(num_classes, MODALITIES[modality], dropout=dropout_prob)
        self.name = name
        self.modality = modality
        self.avg_pool = nn.AvgPool3d(network.HEAD_POOL, stride=1)
        self.softmax = nn.Softmax(1)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm3d):
                module.momentum = BN_MOMENTUM

    def add_module(self, name: str, module: nn.Module | None) -> None:
        # How the trunk comes in from the base class; later replacements are left as they are.
        if type(module) is reference.Mixed:
            module = _Mixed(module)
        elif type(module) is reference.Unit3D and module.bn is not None:
            module = _Unit(module)
        super().add_module(self.aliases.get(name, name), module)

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(self.aliases.get(name, name), value)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        """(N, 3 or 2, T, H, W) in [-1, 1] -> probabilities and time-averaged logits, both (N, num_classes).

        Where Mixed_5c is larger than 7x7 the head's H'xW' positions stay: (N, num_classes, H', W').
        """
        logits = self.conv3d_0c_1x1(self.dropout(pooled_features(self, self.avg_pool, x)))
        logits = logits.squeeze(3).squeeze(3).mean(2)
        return self.softmax(logits), logits
