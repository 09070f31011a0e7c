"""The parameters of an extraction: names, types, defaults and checks, in one place."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass, replace
from typing import get_args

from fasti3d import network
from fasti3d.backbone import I3D_NAME, Backbone
from fasti3d.choices import (
    AUTO,
    MAP,
    POOLED,
    Crops,
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
from fasti3d.preprocessing import NORMALIZATIONS, PREPROCESSINGS, Preprocessing
from fasti3d.utils.parsing import Json

# What the layout anomaly leaves no choice of.
_ANOMALY = {
    "streams": "rgb",
    "mode": "windows",
    "features": POOLED,
    "stack": 16,
    "interval": 1,
    "crops": 10,
    "flip": False,
    "tail": "drop",
    "format": "npy",
}
_ANOMALY_ROW = PREPROCESSINGS["anomaly"]


@dataclass(frozen=True)
class ExtractionSettings:
    """The parameters of ``fasti3d.extract``, but for its videos, folder and networks.

    Attributes:
        streams: ``"rgb"``, ``"flow"`` or ``"both"``, each with features of its own.
        mode: ``"windows"``, one row each, or ``"dense"``, one pass over the whole video, one row per step.
        features: ``"pooled"``, (1024,), of ResNets (2048,), of torchvision's (512,); ``"map"``, all of the
            last map (Mixed_5c, res5, layer4); or another endpoint.
        network: ``"i3d"``, or another name in ``fasti3d.backbone.BACKBONES``; RGB and windows only.
        variant, non_local: Of ``"i3d-r50"`` and ``"i3d-r101"``, as for ``fasti3d.I3DResNet``.
        normalization: A name in ``fasti3d.preprocessing.NORMALIZATIONS``; None is that of the weights.
        stack: Frames per window that the network sees, for I3D at least 9, with flow 10; None is what the
            network was trained on: I3D 64. Like ``step`` and ``tail``, only for mode windows.
        interval: Frames of the video per frame of a window; None is the network's.
        step: Frames of the video from one window to the next; None is ``stack`` times ``interval``.
        fps: Frames sampled per second; None takes every frame, ``"auto"`` the network's rate: I3D 25.
        crops: 1 is the centre; 3 are squares of the whole shorter side, from left to right or top to bottom;
            5 are the corners and the centre, 10 adds the mirror images of those. None is 1.
        flip: Add the mirror image of each crop.
        tail: For frames at the end that fill no window: ``"pad"`` repeats the last one, ``"loop"`` all,
            ``"drop"`` leaves them out. None is ``"pad"``, for the layout video_features ``"drop"``.
        partial: Keep the frames before the break of a damaged file, which otherwise fails.
        format: ``"npy"`` (one file per stream), ``"npz"`` or ``"safetensors"``.
        layout: ``"default"``; ``"video_features"`` for the files and RGB values of that tool; ``"anomaly"``
            for what detectors of anomalies read: (n, 10, channels) of snippets of 16 frames.
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
    network: str = I3D_NAME
    variant: str | None = None
    non_local: str | None = None
    normalization: str | None = None
    stack: int | None = None
    interval: int | None = None
    step: int | None = None
    fps: float | str | None = AUTO
    crops: int | None = None
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
        self._check_network()
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
        check_choice("features", self.features, (POOLED, MAP, *self.backbone.endpoints))
        check_preset(self.flow_preset)
        check_dtype(self.dtype)
        if isinstance(self.fps, str) and self.fps != AUTO:
            raise ValueError(f"fps must be a number, None or 'auto', got {self.fps!r}")
        check_arguments(self.rate, None, None)
        check_choice("crops", self.crop_count, get_args(Crops))

    def _check_network(self) -> None:
        """What only I3D, or only the layout anomaly, can do."""
        if self.normalization is not None:
            check_choice("normalization", self.normalization, NORMALIZATIONS)
        if self.layout == "anomaly":
            for name, value in _ANOMALY.items():
                given = getattr(self, name)
                if given is not None and given != value:
                    raise ValueError(
                        f"{name} must be {value!r} for the layout anomaly, whose readers expect it, got "
                        f"{given!r}: leave it out, or use the layout default"
                    )
        if self.network == I3D_NAME:
            if self.normalization not in (None, self.backbone.preprocessing.normalization):
                raise ValueError(
                    f"normalization of i3d is 'symmetric', got {self.normalization!r}: leave it out"
                )
            return
        if self.mode == "dense":
            why = (
                f"{self.non_local} non-local blocks read all frames of a clip at once"
                if self.non_local
                else "one pass over a whole video is written for i3d alone"
            )
            raise ValueError(f"mode must be windows for {self.backbone.says}, got 'dense': {why}")
        if self.streams != "rgb":
            raise ValueError(
                f"streams must be rgb for {self.network}, which takes frames, got {self.streams!r}"
            )
        if self.layout == "video_features":
            raise ValueError(
                f"layout must be default or anomaly for {self.network}, got 'video_features', whose values "
                "are those of i3d"
            )

    def _check_windows(self) -> None:
        for name in ("stack", "step", "tail"):
            value = getattr(self, name)
            if self.mode == "dense" and value is not None:
                raise ValueError(
                    f"{name} is of windows, and mode dense has none: leave it out, got {value!r}"
                )
        check_choice("tail", self.tail_policy, get_args(Tail))
        least = network.MIN_FLOW_FRAMES if self.flowing else self.backbone.min_frames
        if self.window < least:
            raise ValueError(
                f"stack must be at least {least} frames{' with flow' if self.flowing else ''}, the shortest "
                f"clip of the network, got {self.window}"
            )
        if self.every < 1:
            raise ValueError(f"interval must be at least 1 frame, got {self.every}")
        if self.every > 1 and (self.flowing or self.mode == "dense" or self.layout == "video_features"):
            raise ValueError(
                f"interval must be 1 for flow, mode dense and the layout video_features, got {self.every}"
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
        if self.crop_count > 1 and self.flowing and self.flow_preset == "mediapipe":
            raise ValueError(
                "crops must be 1 with the flow preset mediapipe, which squashes whole frames to the "
                f"network's size, got {self.crop_count}: use the preset readme"
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
    def backbone(self) -> Backbone:
        """The network."""
        return Backbone(self.network, self.variant, self.non_local)

    @property
    def preprocessing(self) -> Preprocessing:
        """Which frames and pixels make a clip, where nothing else is said."""
        return _ANOMALY_ROW if self.layout == "anomaly" else self.backbone.preprocessing

    @property
    def normalized_as(self) -> str:
        """The name of the normalization of clips."""
        return self.normalization or self.backbone.preprocessing.normalization

    @property
    def rate(self) -> float | None:
        """Frames sampled per second; None takes every frame."""
        return self.preprocessing.fps if isinstance(self.fps, str) else self.fps

    @property
    def window(self) -> int:
        """The frames of a window that the network sees."""
        return self.preprocessing.frames if self.stack is None else self.stack

    @property
    def every(self) -> int:
        """The frames of the video per frame of a window."""
        if self.interval is not None:
            return self.interval
        return 1 if self.network == I3D_NAME else self.preprocessing.step

    @property
    def reach(self) -> int:
        """The frames of the video that a window covers."""
        return self.window * self.every

    @property
    def stride(self) -> int:
        """The frames of the video from one window to the next."""
        return self.reach if self.step is None else self.step

    @property
    def crop_count(self) -> int:
        """The number of crops, mirrored ones of ``crops=10`` among them."""
        if self.crops is None:
            return 10 if self.layout == "anomaly" else 1
        return self.crops

    @property
    def crop_side(self) -> int:
        """The side of the crops, in pixels."""
        return self.preprocessing.short_side if self.crop_count == 3 else self.preprocessing.crop

    @property
    def tail_policy(self) -> Tail:
        """What becomes of the tail: by default it is kept, but where the number of rows is another tool's."""
        if self.tail is not None:
            return self.tail
        return "pad" if self.layout == "default" else "drop"

    @property
    def mirrored(self) -> bool:
        """Whether each crop is also seen mirrored."""
        return self.flip or self.crop_count == 10

    @property
    def span(self) -> int:
        """The frames that are read for a window.

        N frames have N-1 flows; video_features reads one more, so that both streams have N.
        """
        return self.reach + (self.layout == "video_features")

    def of(self, its: Backbone) -> ExtractionSettings:
        """These settings for a network that says itself what it is."""
        return replace(self, network=its.network, variant=its.variant, non_local=its.non_local)

    def for_weights(self, own: Preprocessing) -> ExtractionSettings:
        """These settings with the rate and normalization of a network's weights where none is given."""
        fps, normalization = self.fps, self.normalization
        if fps == AUTO:
            fps = self.rate if self.layout == "anomaly" else own.fps
        if normalization is None and self.network != I3D_NAME:
            normalization = own.normalization
        return replace(self, fps=fps, normalization=normalization)

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
        found |= {"fps": self.rate, "crops": min(self.crop_count, 5), "flip": self.mirrored}
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
        if self.every > 1:
            found["interval"] = self.every
        if self.network != I3D_NAME:
            found |= {name: getattr(self, name) for name in ("network", "variant", "non_local")}
            found["normalization"] = self.normalized_as
        if self.layout == "video_features":  # before 0.2 it had other values
            found["frames"] = "pillow"
        return found
