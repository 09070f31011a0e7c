"""The parameters of an extraction: names, types, defaults and checks, in one place."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from typing import get_args

from fasti3d import network
from fasti3d.choices import (
    MAP,
    POOLED,
    FlowPreset,
    Format,
    Layout,
    Mode,
    Streams,
    Tail,
    check_choice,
    check_dtype,
    check_preset,
)
from fasti3d.flow.checks import BOUND, check_flow_from
from fasti3d.flow.params import PRESETS, TVL1Params
from fasti3d.limits import check_arguments
from fasti3d.utils.parsing import Json

_DEFAULT_STACK = 64


@dataclass(frozen=True)
class ExtractionSettings:
    """The parameters of ``fasti3d.extract``, but for its videos, folder and networks.

    Attributes:
        streams: ``"rgb"``, ``"flow"`` or ``"both"``, each with features of its own.
        mode: ``"windows"``, one row each, or ``"dense"``, one pass over the whole video, one row per step.
        features: ``"pooled"``, (1024,); ``"map"``, all of Mixed_5c; or one of ``network.ENDPOINTS``.
        stack: Frames per window, at least 9, with flow 10; None is 64. Like ``step`` and ``tail``, only for
            mode windows.
        step: Frames from one window to the next; None is ``stack``.
        fps: Frames sampled per second; None takes every frame.
        crops: 1 is the centre, 5 adds the corners, 10 the mirror images of those.
        flip: Add the mirror image of each crop.
        tail: For frames at the end that fill no window: ``"pad"`` repeats the last one, ``"loop"`` all,
            ``"drop"`` leaves them out. None is ``"pad"``, for the layout video_features ``"drop"``.
        partial: Keep the frames before the break of a damaged file, which otherwise fails.
        format: ``"npy"`` (one file per stream), ``"npz"`` or ``"safetensors"``.
        layout: ``"default"``, or ``"video_features"`` for the files and RGB values of that tool.
        flow_preset, tvl1_params: How frames become flow, as for ``TwoStreamI3D.forward_frames``.
        flow_from: A folder of ``flow.FlowFolder``s named as the outputs, read instead of computing flow.
        flow_bound: The motion in pixels at which they are clipped.
        device, dtype: For weights given by name or path.
        workers: Videos in work at once; None is 2 on a CPU, up to 8 with a GPU, on Ray what fits.
        retry_errors: Try failed videos again that have not changed.
        overwrite: Replace outputs that were made otherwise.
        shard: (i, n), part i of n, from 1 on.
        ray: ``"local"``, ``"auto"`` or ``"HOST:PORT"``: run on a Ray cluster.

    Raises:
        ValueError: A value is out of range, or two conflict.

    Example:
        >>> ExtractionSettings(mode="dense", features="map").names
        ('rgb',)
    """

    streams: Streams = "rgb"
    mode: Mode = "windows"
    features: str = POOLED
    stack: int | None = None
    step: int | None = None
    fps: float | None = 25.0
    crops: int = 1
    flip: bool = False
    tail: Tail | None = None
    partial: bool = False
    format: Format = "npy"
    layout: Layout = "default"
    flow_preset: FlowPreset = "readme"
    tvl1_params: TVL1Params = PRESETS["i3d"]
    flow_from: str | os.PathLike[str] | None = None
    flow_bound: float = BOUND
    device: str = "auto"
    dtype: str = "auto"
    workers: int | None = None
    retry_errors: bool = False
    overwrite: bool = False
    shard: tuple[int, int] | None = None
    ray: str | None = None

    def __post_init__(self) -> None:
        self._check_choices()
        self._check_windows()
        self._check_together()
        if self.workers is not None and self.workers < 1:
            raise ValueError(f"workers must be at least 1, got {self.workers}")
        if self.shard is not None:
            index, count = self.shard
            if not 1 <= index <= count:
                raise ValueError(
                    f"shard must be I/N with I from 1 to N, got {index}/{count}: the first of four is 1/4"
                )

    def _check_choices(self) -> None:
        kinds = {"streams": Streams, "mode": Mode, "format": Format, "layout": Layout}
        for name, kind in kinds.items():
            check_choice(name, getattr(self, name), get_args(kind))
        check_choice("features", self.features, (POOLED, MAP, *network.ENDPOINTS))
        check_preset(self.flow_preset)
        check_dtype(self.dtype)
        check_arguments(self.fps, None, None)
        if self.crops not in (1, 5, 10):
            raise ValueError(f"crops must be 1, 5 or 10, got {self.crops}")

    def _check_windows(self) -> None:
        for name in ("stack", "step", "tail"):
            value = getattr(self, name)
            if self.mode == "dense" and value is not None:
                raise ValueError(
                    f"{name} is of windows, and mode dense has none: leave it out, got {value!r}"
                )
        check_choice("tail", self.tail_policy, get_args(Tail))
        least = network.MIN_FLOW_FRAMES if self.flowing else network.MIN_FRAMES
        if self.window < least:
            raise ValueError(
                f"stack must be at least {least} frames{' with flow' if self.flowing else ''}, the shortest "
                f"clip of the network, got {self.window}"
            )
        if self.stride < 1:
            raise ValueError(f"step must be at least 1 frame, got {self.stride}")

    def _check_together(self) -> None:
        check_flow_from(
            self.flow_from,
            self.flow_bound,
            flowing=self.flowing,
            preset=self.flow_preset,
            params=self.tvl1_params,
        )
        if self.crops > 1 and self.flowing and self.flow_preset == "mediapipe":
            raise ValueError(
                "crops must be 1 with the flow preset mediapipe, which squashes whole frames to the "
                f"network's size, got {self.crops}: use the preset readme"
            )
        if self.mode == "dense":
            if self.features == "Predictions":
                raise ValueError("features must be Logits in mode dense, one row a step, got 'Predictions'")
            if self.layout != "default":
                raise ValueError(f"layout must be default in mode dense, got {self.layout!r}")
        if self.layout == "video_features" and self.format != "npy":
            raise ValueError(f"format must be npy for the layout video_features, got {self.format!r}")

    @property
    def names(self) -> tuple[str, ...]:
        """The streams, one by one."""
        return ("rgb", "flow") if self.streams == "both" else (self.streams,)

    @property
    def flowing(self) -> bool:
        """Whether flow is needed."""
        return self.streams != "rgb"

    @property
    def window(self) -> int:
        """The frames of a window that the network sees."""
        return _DEFAULT_STACK if self.stack is None else self.stack

    @property
    def stride(self) -> int:
        """The frames from one window to the next."""
        return self.window if self.step is None else self.step

    @property
    def tail_policy(self) -> Tail:
        """What becomes of the tail: by default it is kept, but where the number of rows is another tool's."""
        if self.tail is not None:
            return self.tail
        return "drop" if self.layout == "video_features" else "pad"

    @property
    def mirrored(self) -> bool:
        """Whether each crop is also seen mirrored."""
        return self.flip or self.crops == 10

    @property
    def span(self) -> int:
        """The frames that are read for a window.

        N frames have N-1 flows; video_features reads one more, so that both streams have N.
        """
        return self.window + (self.layout == "video_features")

    def as_json(self) -> Json:
        """Return what the bytes of an output depend on, in JSON's types.

        Settings of flow or windows are left out where there are none.
        """
        found: Json = {
            "streams": self.streams,
            "mode": self.mode,
            "features": self.features,
        }
        if self.mode == "windows":
            found |= {"stack": self.window, "step": self.stride}
        found |= {"fps": self.fps, "crops": min(self.crops, 5), "flip": self.mirrored}
        if self.mode == "windows":
            found["tail"] = self.tail_policy
        found |= {"partial": self.partial, "format": self.format, "layout": self.layout}
        if self.flowing:
            found["flow_preset"] = self.flow_preset
            if self.flow_from is None:
                found["tvl1"] = asdict(self.tvl1_params)
            else:
                found["flow_bound"] = float(self.flow_bound)
        found |= {"device": self.device, "dtype": self.dtype}
        if self.layout == "video_features":  # before 0.2 it had other values
            found["frames"] = "pillow"
        return found
