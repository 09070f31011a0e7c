"""Optical flow: the TV-L1 solver and its parameters, and flow as files, pictures and I3D's input."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fasti3d.flow.params import PRESETS, TVL1Params
from fasti3d.lazy import lazily

if TYPE_CHECKING:
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
    from fasti3d.flow.files import read_flo, read_kitti_png, write_flo, write_kitti_png
    from fasti3d.flow.folder import FlowFolder
    from fasti3d.flow.solve import tvl1, tvl1_video

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

# Loaded when first used: parameters need no torch, and computing flow no decoders.
__getattr__, __dir__ = lazily(
    __name__,
    {
        "FlowFolder": "fasti3d.flow.folder",
        "average_endpoint_error": "fasti3d.flow.error",
        "decode_denseflow": "fasti3d.flow.encoding",
        "encode_denseflow": "fasti3d.flow.encoding",
        "encode_mediapipe": "fasti3d.flow.encoding",
        "encode_readme": "fasti3d.flow.encoding",
        "flow_to_rgb": "fasti3d.flow.colour",
        "read_flo": "fasti3d.flow.files",
        "read_kitti_png": "fasti3d.flow.files",
        "to_flow_clip": "fasti3d.flow.encoding",
        "to_grey": "fasti3d.flow.encoding",
        "tvl1": "fasti3d.flow.solve",
        "tvl1_video": "fasti3d.flow.solve",
        "write_flo": "fasti3d.flow.files",
        "write_kitti_png": "fasti3d.flow.files",
    },
)
