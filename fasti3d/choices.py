"""Names that users choose from, which the command line can read without importing torch."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Literal, get_args

from fasti3d.weights.published import registry

Stream = Literal["rgb", "flow"]
Streams = Literal["rgb", "flow", "both"]
FlowPreset = Literal["readme", "mediapipe"]
TVL1Preset = Literal["i3d", "opencv-cuda", "large-motion"]
FVDPreset = Literal["tf", "stylegan-v", "videogpt", "cd-fvd"]
ClipLayout = Literal["NTHWC", "NCTHW", "NTCHW"]
Dtype = Literal["float32", "bfloat16", "float16"]
# Which frames and pixels of a video it is tested on, and how the scores of streams are added.
Views = Literal["full", "1x1", "10x3"]
Fusion = Literal["logits", "probabilities"]
# How a 2-D network's filters are inflated.
Inflation = Literal["average", "centre"]

# Of extracted features.
Mode = Literal["windows", "dense"]
Format = Literal["npy", "npz", "safetensors"]
Layout = Literal["default", "video_features", "anomaly"]
Tail = Literal["drop", "pad", "loop"]
Crops = Literal[1, 3, 5, 10]
# A rate that the network decides.
AUTO = "auto"
# Names of features beside those of the network's endpoints: what each stands for.
POOLED, MAP = "pooled", "map"


def check_choice(name: str, value: object, choices: Iterable[object]) -> None:
    """Raise a ValueError for a value that is not one of the choices."""
    choices = tuple(choices)
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(map(str, choices))}, got {value!r}")


def check_inflation(mode: str) -> None:
    """Raise a ValueError for an unknown way to inflate."""
    check_choice("mode", mode, get_args(Inflation))


def check_streams(streams: str, flow: object, argument: str = "flow_model") -> None:
    """Raise a ValueError for unknown streams, and for flow weights (``argument``) missing or unexpected."""
    check_choice("streams", streams, get_args(Streams))
    if streams != "rgb" and flow is None:
        names = [name for name, entry in registry().items() if entry.stream == "flow"]
        raise ValueError(
            f"streams {streams!r} needs {argument}: a checkpoint's path, or one of {', '.join(names)}, which "
            f"are fetched when first used or with `fasti3d weights get {names[0]}`"
        )
    if streams == "rgb" and flow is not None:
        raise ValueError(f"{argument} is given, but streams is 'rgb': choose 'flow' or 'both'")


def check_preset(preset: str) -> None:
    """Raise a ValueError for an unknown preset."""
    if preset not in get_args(FlowPreset):
        raise ValueError(f"the flow preset must be one of {', '.join(get_args(FlowPreset))}, got {preset!r}")


def check_device(name: str) -> None:
    """Raise a ValueError for an invalid name of a device; torch checks that the device exists."""
    if not re.fullmatch(r"auto|cpu(:0)?|cuda(:[0-9]+)?", name):
        raise ValueError(f"device must be auto, cpu, cuda or cuda:N, got {name!r}")


def check_dtype(name: str) -> None:
    """Raise a ValueError for an invalid name of a compute dtype."""
    if name not in ("auto", *get_args(Dtype)):
        raise ValueError(f"dtype must be auto, {', '.join(get_args(Dtype))}, got {name!r}")
