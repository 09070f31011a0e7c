"""fasti3d: the I3D video network (Carreira & Zisserman, CVPR 2017) on custom kernels."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fasti3d.lazy import lazily
from fasti3d.registration import register_operators
from fasti3d.version import __version__

if TYPE_CHECKING:
    from fasti3d import compat, dense, exporting, extraction, flow, inflate, ops, reference, video, weights
    from fasti3d.catalog import create_model, list_models
    from fasti3d.classification.classify import classify
    from fasti3d.classification.result import Classification
    from fasti3d.exporting.api import export
    from fasti3d.extraction import Extraction, extract
    from fasti3d.flow import TVL1Params, tvl1, tvl1_video
    from fasti3d.fusion.fuse import fuse
    from fasti3d.i3d import I3D
    from fasti3d.i3d_resnet import I3DResNet
    from fasti3d.inspect.plan_report import plan
    from fasti3d.metrics import FrechetVideoDistance, fvd
    from fasti3d.two_stream import TwoStreamI3D

__all__ = [
    "I3D",
    "Classification",
    "Extraction",
    "FrechetVideoDistance",
    "I3DResNet",
    "TVL1Params",
    "TwoStreamI3D",
    "__version__",
    "classify",
    "compat",
    "create_model",
    "dense",
    "export",
    "exporting",
    "extract",
    "extraction",
    "flow",
    "fuse",
    "fvd",
    "inflate",
    "list_models",
    "ops",
    "plan",
    "reference",
    "tvl1",
    "tvl1_video",
    "video",
    "weights",
]

# Loaded when first used: the command line need not wait for torch, nor the network for decoders.
_HOMES = {
    "I3D": "fasti3d.i3d",
    "I3DResNet": "fasti3d.i3d_resnet",
    "Classification": "fasti3d.classification.result",
    "Extraction": "fasti3d.extraction",
    "FrechetVideoDistance": "fasti3d.metrics",
    "TVL1Params": "fasti3d.flow",
    "TwoStreamI3D": "fasti3d.two_stream",
    "classify": "fasti3d.classification.classify",
    "compat": None,
    "create_model": "fasti3d.catalog",
    "dense": None,
    "export": "fasti3d.exporting.api",
    "exporting": None,
    "extract": "fasti3d.extraction",
    "extraction": None,
    "flow": None,
    "fuse": "fasti3d.fusion.fuse",
    "fvd": "fasti3d.metrics",
    "inflate": None,
    "list_models": "fasti3d.catalog",
    "ops": None,
    "plan": "fasti3d.inspect.plan_report",
    "reference": None,
    "tvl1": "fasti3d.flow",
    "tvl1_video": "fasti3d.flow",
    "video": None,
    "weights": None,
}

__getattr__, __dir__ = lazily(__name__, _HOMES, then=register_operators)
register_operators()
