"""Optical flow: the TV-L1 solver and its parameters, flow as files, pictures and input of I3D."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from fasti3d.flow.colour import flow_to_rgb
from fasti3d.flow.encoding import (
    decode_denseflow,
    encode_denseflow,
    encode_mediapipe,
    encode_readme,
    to_flow_clip,
    to_grey,
)
from fasti3d.flow.error import average_endpoint_error
from fasti3d.flow.params import PRESETS, TVL1Params
from fasti3d.flow.solve import tvl1, tvl1_video

if TYPE_CHECKING:
    from fasti3d.flow.files import read_flo, read_kitti_png, write_flo, write_kitti_png
    from fasti3d.flow.folder import FlowFolder

__all__ = [
    "PRESETS",
    "FlowFolder",
    "TVL1Params",
    "average_endpoint_error",
    "decode_denseflow",
    "encode_denseflow",
    "encode_mediapipe",
    "encode_readme",
    "flow_to_rgb",
    "read_flo",
    "read_kitti_png",
    "to_flow_clip",
    "to_grey",
    "tvl1",
    "tvl1_video",
    "write_flo",
    "write_kitti_png",
]

# Loaded when first used, so that computing flow does not wait for decoders: in which module each is.
_FILES = dict.fromkeys(("read_flo", "read_kitti_png", "write_flo", "write_kitti_png"), "files")
_FILES["FlowFolder"] = "folder"


def __getattr__(name: str) -> Any:
    if name not in _FILES:
        raise AttributeError(f"module 'fasti3d.flow' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"fasti3d.flow.{_FILES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_FILES})
