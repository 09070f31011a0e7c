"""The I3D-ResNet that users import: an ordinary PyTorch module that runs fused in eval mode."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from fasti3d.engine.describe.description import Description
from fasti3d.engine.describe.resnet import describe, known_stem, watch
from fasti3d.engine.describe.watch import Watch
from fasti3d.fused import FusedNetwork, Kept
from fasti3d.inputs import check_clip
from fasti3d.network import SCORES
from fasti3d.resnet import reference
from fasti3d.widths import out_width

_LAST = "res5"


class I3DResNet(FusedNetwork, reference.I3DResNet):
    """I3D-ResNet (Wang et al., "Non-local Neural Networks", CVPR 2018): a drop-in PyTorch backbone."""

    _reference: ClassVar[type[nn.Module]] = reference.I3DResNet
    _ordinary: ClassVar[Any] = reference.I3DResNet.forward_endpoints
    _classifier: ClassVar[str] = "fc"

    @property
    def num_classes(self) -> int | None:
        """Classes of the classifier that is there; None where that does not say."""
        return out_width(getattr(self, "fc", None))

    def _outputs(self) -> Sequence[str]:
        return self.endpoints

    def _maps(self) -> tuple[str, ...]:
        return tuple(self._trunk())

    def _last(self) -> str:
        return _LAST

    def _described(self, names: tuple[str, ...]) -> Description:
        return describe(self, self._trunk())

    def _watch(self, names: tuple[str, ...]) -> Watch:
        return watch(self, self._trunk())

    def _check(self, x: Tensor, wanted: set[str], kept: Kept | None) -> torch.dtype:
        channels: int | None = None
        dtype: torch.dtype | None = None
        if (stem := known_stem(self)) is not None:
            channels, dtype = stem.weight.shape[1], stem.weight.dtype
        check_clip(x, channels, dtype)
        if wanted.intersection(SCORES) and getattr(self, "fc", None) is None:
            raise ValueError("this network has no classifier: ask for Features, or for maps of the trunk")
        if x.is_floating_point():
            return x.dtype
        return next((p.dtype for p in self.parameters() if p.is_floating_point()), torch.float32)

    def _as_floats(self, x: Tensor, dtype: torch.dtype) -> Tensor:
        if x.dtype != torch.uint8:
            return x.to(dtype)
        its = self.table.preprocessing
        mean, std = (torch.tensor(v, device=x.device).view(3, 1, 1, 1) for v in (its.mean, its.std))
        return ((x.to(torch.float32) - mean) / std).to(dtype)

    def _as_planned(self, x: Tensor, dtype: torch.dtype) -> Tensor:
        return self._as_floats(x, dtype)
