"""The network's walk in training mode, node by node."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from torch import Tensor

from fasti3d.inputs import without_autocast
from fasti3d.train.step.mixed import MixedNode
from fasti3d.train.step.parts import Mixed, Part, Unit
from fasti3d.train.step.units import PoolNode, UnitNode, as_map


def walk(
    parts: Mapping[str, Part], x: Tensor, wanted: Collection[str], *, recompute: bool
) -> dict[str, Tensor]:
    """The wanted maps of a clip in the dtype that is computed in, no further than needed.

    Args:
        parts: those of the trunk, in order, as ``describe`` gives them.
        x: (N, C, T, H, W), floating.
        wanted: names of parts.
        recompute: whether the backward pass computes ReLU outputs again, in place of keeping them.
    """
    maps: dict[str, Tensor] = {}
    with without_autocast(x.device):
        x = as_map(x)
        for name, part in parts.items():
            if maps.keys() >= set(wanted):
                break
            if isinstance(part, Unit):
                x = UnitNode.apply(x, *part.tensors, part, recompute)
            elif isinstance(part, Mixed):
                x = MixedNode.apply(x, part, recompute, *(t for unit in part for t in unit.tensors))
            else:
                x = PoolNode.apply(x, part, recompute)
            if name in wanted:
                maps[name] = x
    return maps
