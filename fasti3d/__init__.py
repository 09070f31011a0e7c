"""fasti3d: the I3D video network (Carreira & Zisserman, CVPR 2017) on custom kernels."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from fasti3d import ops, reference
from fasti3d.i3d import I3D
from fasti3d.version import __version__

if TYPE_CHECKING:
    from fasti3d import compat, dense, extraction, flow, inflate, video, weights
    from fasti3d.classification import Classification, classify
    from fasti3d.extraction import Extraction, extract
    from fasti3d.flow import TVL1Params, tvl1, tvl1_video
    from fasti3d.fusion import fuse
    from fasti3d.metrics import FrechetVideoDistance, fvd
    from fasti3d.two_stream import TwoStreamI3D

__all__ = [
    "I3D",
    "Classification",
    "Extraction",
    "FrechetVideoDistance",
    "TVL1Params",
    "TwoStreamI3D",
    "__version__",
    "classify",
    "compat",
    "dense",
    "extract",
    "extraction",
    "flow",
    "fuse",
    "fvd",
    "inflate",
    "ops",
    "reference",
    "tvl1",
    "tvl1_video",
    "video",
    "weights",
]

# Loaded when first used, so that importing the network does not wait for decoders and file formats.
_LAZY = {
    "Classification": "fasti3d.classification",
    "Extraction": "fasti3d.extraction",
    "FrechetVideoDistance": "fasti3d.metrics",
    "TVL1Params": "fasti3d.flow",
    "TwoStreamI3D": "fasti3d.two_stream",
    "classify": "fasti3d.classification",
    "compat": None,
    "dense": None,
    "extract": "fasti3d.extraction",
    "extraction": None,
    "flow": None,
    "fuse": "fasti3d.fusion",
    "fvd": "fasti3d.metrics",
    "inflate": None,
    "tvl1": "fasti3d.flow",
    "tvl1_video": "fasti3d.flow",
    "video": None,
    "weights": None,
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'fasti3d' has no attribute {name!r}")
    home = _LAZY[name]
    value = (
        importlib.import_module(f"fasti3d.{name}")
        if home is None
        else getattr(importlib.import_module(home), name)
    )
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY})
