"""What an exported file says of itself, as JSON under one key."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from fasti3d.extraction.identity import weights_digest
from fasti3d.i3d import I3D
from fasti3d.inputs import RGB_CHANNELS
from fasti3d.network import TIME_STRIDE
from fasti3d.two_stream import TwoStreamI3D
from fasti3d.version import __version__

# Of ONNX's metadata_props, of AOTInductor's metadata; with .json the extra file of torch.export.
KEY = "fasti3d"
_RGB = "RGB in [-1, 1]: byte / 127.5 - 1"
_FLOW = "TV-L1 flow, x first: pixels clipped to 20, / 20"


def record_of(
    model: nn.Module,
    inputs: Sequence[str],
    channels: Sequence[int],
    outputs: Sequence[str],
    size: tuple[int, int, int],
    dtype: torch.dtype,
    fixed_time: bool,
) -> dict[str, Any]:
    """The classes, the preprocessing and the hash of the weights of a network that is exported so."""
    frames, height, width = size
    labels = getattr(model, "labels", None)
    record: dict[str, Any] = {
        "fasti3d": __version__,
        "torch": torch.__version__,
        "network": type(model).__name__,
        "weights_sha256": weights_digest(model),
        "classes": None if labels is None else list(labels),
        "inputs": {
            name: {
                "shape": ["N", c, frames if fixed_time else f"multiple of {TIME_STRIDE}", height, width],
                "dtype": str(dtype).removeprefix("torch."),
            }
            for name, c in zip(inputs, channels, strict=True)
        },
        "outputs": list(outputs),
    }
    if isinstance(model, I3D | TwoStreamI3D):
        record["preprocessing"] = {
            "frames_per_second": 25,
            "short_side": 256,
            "crop": [height, width],
            "layout": "NCTHW",
            "values": {
                name: "RGB bytes" if dtype == torch.uint8 else _RGB if c == RGB_CHANNELS else _FLOW
                for name, c in zip(inputs, channels, strict=True)
            },
        }
    return record
