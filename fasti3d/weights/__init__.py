"""Public I3D weights by name, local ones by path, all under one set of names."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fasti3d.lazy import lazily
from fasti3d.utils.cache_dir import cache_dir
from fasti3d.weights.entry import Entry
from fasti3d.weights.errors import WeightsError
from fasti3d.weights.labels import KINETICS_400_LABELS
from fasti3d.weights.paths import Spec
from fasti3d.weights.published import registry

if TYPE_CHECKING:
    from fasti3d.weights.cache import get, verify
    from fasti3d.weights.checkpoint import Checkpoint, load_into
    from fasti3d.weights.loading import convert, load, load_partial, load_resnet, load_video_resnet
    from fasti3d.weights.resnet_checkpoint import ResNetCheckpoint
    from fasti3d.weights.video_resnet_checkpoint import VideoResNetCheckpoint

__all__ = [
    "KINETICS_400_LABELS",
    "Checkpoint",
    "Entry",
    "ResNetCheckpoint",
    "Spec",
    "VideoResNetCheckpoint",
    "WeightsError",
    "cache_dir",
    "convert",
    "get",
    "load",
    "load_into",
    "load_partial",
    "load_resnet",
    "load_video_resnet",
    "registry",
    "verify",
]

# Loaded when first used, so that the names of weights can be told without torch.
__getattr__, __dir__ = lazily(
    __name__,
    {
        "Checkpoint": "fasti3d.weights.checkpoint",
        "convert": "fasti3d.weights.loading",
        "get": "fasti3d.weights.cache",
        "load": "fasti3d.weights.loading",
        "load_into": "fasti3d.weights.checkpoint",
        "load_partial": "fasti3d.weights.loading",
        "ResNetCheckpoint": "fasti3d.weights.resnet_checkpoint",
        "load_resnet": "fasti3d.weights.loading",
        "load_video_resnet": "fasti3d.weights.loading",
        "VideoResNetCheckpoint": "fasti3d.weights.video_resnet_checkpoint",
        "verify": "fasti3d.weights.cache",
    },
)
