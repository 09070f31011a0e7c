"""All that the bytes of an output depend on."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from fasti3d.flow.checks import BOUND
from fasti3d.flow.jpeg import QUALITY
from fasti3d.flow.params import TVL1Params
from fasti3d.video import VideoError
from fasti3d.video.errors import blamed
from fasti3d.video.source import images

Kind = Literal["flo", "kitti", "colour", "denseflow", "npz", "mp4"]
Settings = dict[str, Any]


@dataclass(frozen=True)
class Options:
    """How flow is made.

    Attributes:
        params: those of TV-L1.
        fps, resize: as for ``fasti3d.video.read_frames``.
        device: where flow is computed.
        max_magnitude: the length in pixels that gets the full colour, in pictures.
        bound: the largest motion that denseflow's pictures hold, in pixels.
    """

    params: TVL1Params
    fps: float | None
    resize: int | None
    device: torch.device
    max_magnitude: float
    bound: float = BOUND


def settings_of(video: Path, kind: Kind, options: Options) -> Settings:
    """What the flow of a video is made of and how, in JSON's types.

    Raises:
        VideoError: a video that is not there, or a folder without images.
    """
    files = images(video) if os.path.isdir(video) else [video]
    try:
        states = [file.stat() for file in files]
    except OSError as error:
        raise blamed(video, f"cannot be opened: {error.strerror}", error) from error
    except ValueError as error:
        raise VideoError(video, f"cannot be opened: {error}") from error  # a zero byte in the name
    settings: Settings = {
        "video": video.name,
        "bytes": sum(state.st_size for state in states),
        "modified": max(state.st_mtime_ns for state in states),
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


def differences(there: Settings, now: Settings) -> str:
    """In words, where two settings differ."""
    there, now = (settings | settings["params"] for settings in (there, now))
    names = [name for name in there | now if name != "params" and there.get(name) != now.get(name)]
    return ", ".join(f"{name} {_shown(name, there)} there and {_shown(name, now)} now" for name in names)


def _shown(name: str, settings: Settings) -> object:
    value = settings.get(name)
    return value if value is not None else "native" if name == "fps" else "none"
