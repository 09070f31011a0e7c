"""What several verbs have in common: options of one meaning, and what their values stand for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fasti3d.choices import check_device, check_dtype, check_preset
from fasti3d.flow.checks import check_bound, check_flow_from
from fasti3d.flow.params import TVL1Params
from fasti3d.limits import MAX_FPS, MIN_FPS

if TYPE_CHECKING:
    import torch


@contextmanager
def blaming(option: str) -> Iterator[None]:
    """A ValueError or OSError inside is a wrong value of this option: exit code 2."""
    try:
        yield
    except (ValueError, OSError) as error:
        raise typer.BadParameter(str(error), param_hint=option) from None


def checked(check: Callable[[Any], object]) -> Callable[[typer.CallbackParam, Any], Any]:
    """Calls ``check`` with an option's value, where it is given, as soon as it is parsed."""

    def callback(option: typer.CallbackParam, value: Any) -> Any:
        if value is not None:
            with blaming(option.opts[0]):
                check(value)
        return value

    return callback


def at_least(least: int) -> Callable[[typer.CallbackParam, Any], Any]:
    """A check of an option that names the value it got, unlike typer's own ``min``."""

    def check(value: int) -> None:
        if value < least:
            raise ValueError(f"must be at least {least}, got {value}")

    return checked(check)


def to_shape(text: str) -> list[int]:
    """``N,C,T,H,W``, five or any other number of whole numbers, none below 0."""
    try:
        sizes = [int(size) for size in text.split(",")]
    except ValueError:
        raise typer.BadParameter(
            f"must be five whole numbers, N,C,T,H,W, got {text!r}", param_hint="--shape"
        ) from None
    if min(sizes) < 0:
        raise typer.BadParameter(f"must not be below 0, got {text!r}", param_hint="--shape")
    return sizes


def to_rate(text: str) -> float | None:
    """``native`` as None, else a number above 0."""
    if text == "native":
        return None
    try:
        rate = float(text)
    except ValueError:
        rate = 0.0
    if not MIN_FPS <= rate <= MAX_FPS:
        raise typer.BadParameter(
            f"must be a number above 0, from {MIN_FPS:g} to {MAX_FPS:g}, or native, got {text!r}",
            param_hint="--fps",
        )
    return rate


Videos = Annotated[
    list[Path],
    typer.Argument(metavar="VIDEO", help="Video files, or folders of images.", show_default=False),
]
Weights = Annotated[str, typer.Option(help="A name of `fasti3d weights list`, or a checkpoint's path.")]
FlowWeights = Annotated[
    str | None, typer.Option(help="As --weights, for the flow stream.", show_default=False)
]
FlowPreset = Annotated[
    str, typer.Option(help="How frames become flow: readme or mediapipe.", callback=checked(check_preset))
]
TVL1Preset = Annotated[
    str,
    typer.Option(
        help="Parameters of TV-L1: i3d, opencv-cuda or large-motion.", callback=checked(TVL1Params.preset)
    ),
]
FlowFrom = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR",
        help="Read flow instead of computing it: DIR/NAME/flow_x_00001.jpg and so on, of denseflow, TSN or "
        "`fasti3d flow --layout denseflow`, extracted at the same --fps, short side 256.",
        show_default=False,
    ),
]
FlowBound = Annotated[
    float,
    typer.Option(
        help="With --flow-from, the motion in pixels that 0 and 255 stand for.", callback=checked(check_bound)
    ),
]
Rate = Annotated[
    str,
    typer.Option(help="Frames a second to sample, or `native` for all there are.", callback=checked(to_rate)),
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.", callback=checked(check_device))]
Dtype = Annotated[
    str,
    typer.Option(
        help="auto, float32, bfloat16 or float16; auto is float16 on a GPU, float32 on a CPU.",
        callback=checked(check_dtype),
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


def to_device(name: str) -> torch.device:
    """``auto``, ``cpu``, ``cuda`` or ``cuda:N`` as a device that is there."""
    from fasti3d.runtime.devices import resolve_device

    with blaming("--device"):
        return resolve_device(name)


def to_dtype(name: str, device: torch.device) -> torch.dtype:
    """``float32``, ``bfloat16``, ``float16``, or ``auto``, which depends on the device."""
    from fasti3d.runtime.devices import resolve_dtype

    with blaming("--dtype"):
        return resolve_dtype(name, device)


def to_tvl1(preset: str, option: str = "--tvl1-preset") -> TVL1Params:
    """The parameters of a preset."""
    with blaming(option):
        return TVL1Params.preset(preset)


def check_flow_options(
    flow_from: Path | None, bound: float, streams: str, preset: str, params: TVL1Params
) -> None:
    """Ends with exit code 2 for flow to be read that does not go with the other options."""
    with blaming("--flow-from"):
        check_flow_from(flow_from, bound, flowing=streams != "rgb", preset=preset, params=params)


def expected_frames(path: Path, fps: float | None) -> float | None:
    """How many frames will be sampled, as far as the file says."""
    from fasti3d.video import probe

    info = probe(path)
    rate = fps or info.fps
    return info.duration * rate if info.duration and rate else info.frames
