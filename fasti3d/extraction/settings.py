"""What is extracted, and how: all that the bytes of an output depend on but for weights and video."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, get_args

from fasti3d import network
from fasti3d.choices import (
    MAP,
    POOLED,
    Dtype,
    FlowPreset,
    Format,
    Layout,
    Mode,
    Streams,
    Tail,
    check_choice,
    check_preset,
)
from fasti3d.flow.params import PRESETS, TVL1Params
from fasti3d.limits import check_arguments

# The end of a video is kept, but where another program's number of rows is wanted.
_DEFAULT_TAIL: dict[Layout, Tail] = {"default": "pad", "video_features": "drop"}

# Settings that only windows have.
_OF_WINDOWS = ("stack", "step", "tail")
_DEFAULT_STACK = 64


@dataclass(frozen=True)
class Settings:
    """What is extracted, and how.

    Attributes:
        streams: ``rgb``, ``flow`` or ``both``.
        mode: ``windows``, each a row; or ``dense``, one pass over the whole video, each of whose steps is a
            row. Stack, step and tail are those of windows.
        features: ``pooled``, the (1024,) that the classifier sees, averaged over time; ``map``, all of
            Mixed_5c; or the name of an endpoint (``fasti3d.network.ENDPOINTS``).
        stack: frames in a window, at least 9, with flow 10.
        step: frames from one window to the next.
        fps: frames a second to sample, None for all there are.
        crops: of 224x224 pixels: 1 is the centre, 5 the corners and the centre; 10, those and their mirror
            images, becomes 5 with ``flip``.
        flip: each crop is also looked at mirrored.
        tail: what becomes of frames at the end that fill no window: they are left out, or make a window
            that is filled up by repeating its last frame (``pad``) or all of it (``loop``).
        partial: whether a file that breaks off gives the frames before; otherwise it fails.
        format: of the files.
        layout: whose names and shapes.
        flow_preset, tvl1: how frames become flow.
        flow_bound: of flow that is read from pictures, the motion in pixels that was cut off at in them; None
            where flow is computed.
        device: ``cpu`` or ``cuda``.
        dtype: of the network.

    Raises:
        ValueError: a value out of its range, or two that do not go together.
    """

    streams: Streams = "rgb"
    mode: Mode = "windows"
    features: str = POOLED
    stack: int = _DEFAULT_STACK
    step: int = _DEFAULT_STACK
    fps: float | None = 25.0
    crops: int = 1
    flip: bool = False
    tail: Tail = "pad"
    partial: bool = False
    format: Format = "npy"
    layout: Layout = "default"
    flow_preset: FlowPreset = "readme"
    tvl1: TVL1Params = PRESETS["i3d"]
    flow_bound: float | None = None
    device: str = "cpu"
    dtype: str = "float32"

    def __post_init__(self) -> None:
        kinds = {"streams": Streams, "mode": Mode, "tail": Tail, "format": Format, "layout": Layout}
        for name, kind in kinds.items():
            check_choice(name, getattr(self, name), get_args(kind))
        check_choice("dtype", self.dtype, get_args(Dtype))
        check_choice("features", self.features, (POOLED, MAP, *network.ENDPOINTS))
        check_preset(self.flow_preset)
        least = network.MIN_FLOW_FRAMES if self.flowing else network.MIN_FRAMES
        if self.stack < least:
            raise ValueError(
                f"stack must be at least {least} frames{' with flow' if self.flowing else ''}, the shortest "
                f"clip of the network, got {self.stack}"
            )
        if self.step < 1:
            raise ValueError(f"step must be at least 1 frame, got {self.step}")
        check_arguments(self.fps, None, None)
        if self.crops not in (1, 5, 10):
            raise ValueError(f"crops must be 1, 5 or 10, got {self.crops}")
        if self.crops == 10:
            object.__setattr__(self, "crops", 5)
            object.__setattr__(self, "flip", True)
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
    def views(self) -> int:
        """How many clips are made of a window, for each stream."""
        return self.crops * (2 if self.flip else 1)

    @property
    def span(self) -> int:
        """Frames that are read for a window.

        N frames have N-1 flows; video_features reads one more, so that both streams have N.
        """
        return self.stack + (self.layout == "video_features")

    def as_json(self) -> dict[str, Any]:
        """All of them in JSON's types, without those of flow or windows where there are none."""
        fields = asdict(self)
        if self.mode == "dense":
            for name in _OF_WINDOWS:
                del fields[name]
        if not self.flowing:
            del fields["flow_preset"], fields["tvl1"]
        if self.layout == "video_features":  # before 0.2 it had other values
            fields["frames"] = "pillow"
        if self.flow_bound is None:
            del fields["flow_bound"]
        else:
            del fields["tvl1"]
        return fields


def settle(
    *, mode: Mode, stack: int | None, step: int | None, layout: Layout, tail: Tail | None, **others: Any
) -> Settings:
    """The settings with those that are None chosen by the others: see ``fasti3d.extract``.

    Raises:
        ValueError: as ``Settings``, or one of windows where there are none.
    """
    for name, value in zip(_OF_WINDOWS, (stack, step, tail), strict=True):
        if mode == "dense" and value is not None:
            raise ValueError(f"{name} is of windows, and mode dense has none: leave it out, got {value!r}")
    stack = _DEFAULT_STACK if stack is None else stack
    step = stack if step is None else step
    # An unknown layout is for Settings to refuse.
    tail = _DEFAULT_TAIL.get(layout, "pad") if tail is None else tail
    return Settings(mode=mode, stack=stack, step=step, layout=layout, tail=tail, **others)
