"""What an exported file says of itself, as JSON under one key."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from fasti3d.extraction.identity import weights_digest
from fasti3d.i3d import I3D
from fasti3d.i3d_resnet import I3DResNet
from fasti3d.inputs import RGB_CHANNELS
from fasti3d.network import TIME_STRIDE
from fasti3d.preprocessing import PREPROCESSINGS
from fasti3d.two_stream import TwoStreamI3D
from fasti3d.version import __version__

# Of ONNX's metadata_props, of AOTInductor's metadata; with .json the extra file of torch.export.
KEY = "fasti3d"
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
    if isinstance(model, I3D | I3DResNet | TwoStreamI3D):
        its = model.table.preprocessing if isinstance(model, I3DResNet) else PREPROCESSINGS["i3d"]
        rgb = f"RGB: (byte - {_per_channel(its.mean)}) / {_per_channel(its.std)}"
        record["preprocessing"] = {
            "name": its.name,
            "frames_per_second": its.fps,
            "frame_step": its.step,
            "short_side": its.short_side,
            "crop": [height, width],
            "layout": "NCTHW",
            "values": {
                name: "RGB bytes" if dtype == torch.uint8 else rgb if c == RGB_CHANNELS else _FLOW
                for name, c in zip(inputs, channels, strict=True)
            },
        }
    return record


def _per_channel(values: tuple[float, ...]) -> str:
    """One number where the channels have the same."""
    return str(values[0]) if len(set(values)) == 1 else str(list(values))
