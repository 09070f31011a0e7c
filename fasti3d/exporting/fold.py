"""A copy of a network on torch's own layers, with batch norm folded into its convolutions."""

from __future__ import annotations

import copy

import torch
from torch import nn

from fasti3d.fusion.fuse import become
from fasti3d.fusion.layers import FoldedConv3d, FusedConv3d
from fasti3d.fusion.planned import Planned
from fasti3d.fusion.trace import find_chains


def folded_copy(network: nn.Module) -> nn.Module:
    """Copy an eval-mode network with each batch norm folded into the ``nn.Conv3d`` that it alone reads.

    Layers that ``fasti3d.fuse`` made compute with torch's convolution again.
    """
    with torch.inference_mode(False):
        plain = copy.deepcopy(network).requires_grad_(False)
        for part in plain.modules():
            if isinstance(vars(part).get("forward"), Planned):
                del part.forward
            if isinstance(part, FusedConv3d):
                become(part, FoldedConv3d.unfused(part))
        chains, _ = find_chains(plain, inside_network=True)
        parts = dict(plain.named_modules())
        for chain in chains:
            if chain.bn is not None:
                become(parts[chain.conv], FoldedConv3d(parts[chain.conv], parts[chain.bn], False))
                become(parts[chain.bn], nn.Identity())
    return plain
