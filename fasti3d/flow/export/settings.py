"""Everything that the bytes of a flow output depend on."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import torch

from fasti3d.flow.checks import BOUND
from fasti3d.flow.jpeg import QUALITY
from fasti3d.flow.params import TVL1Params
from fasti3d.utils.parsing import Json
from fasti3d.video.state import video_state

Kind = Literal["flo", "kitti", "colour", "denseflow", "npz", "mp4", "cache"]


@dataclass(frozen=True)
class Options:
    """How flow is computed and shown.

    Attributes:
        params: The parameters of TV-L1.
        fps, resize: As for ``fasti3d.video.read_frames``.
        device: Where flow is computed.
        max_magnitude: The motion in pixels that has the full colour, in pictures.
        bound: The largest motion that denseflow's images hold, in pixels.
    """

    params: TVL1Params
    fps: float | None
    resize: int | None
    device: torch.device
    max_magnitude: float
    bound: float = BOUND


def settings_of(video: Path, kind: Kind, options: Options) -> Json:
    """Return what the flow of a video is made from and how, in JSON's types.

    Raises:
        VideoError: The video is not there, or is a folder without images.
    """
    state = video_state(video)
    settings: Json = {
        "video": video.name,
        "bytes": state["bytes"],
        "modified": state["modified_ns"],
        "kind": kind,
        "fps": options.fps,
        "resize": options.resize,
        "device": options.device.type,
        "params": asdict(options.params),
    }
    if kind in ("colour", "mp4"):
        settings["max_magnitude"] = options.max_magnitude
    if kind == "denseflow":
        settings |= {"bound": options.bound, "quality": QUALITY}
    return settings
