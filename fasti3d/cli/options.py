"""Options that several verbs share, and what their values stand for."""

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
def option_errors(option: str) -> Iterator[None]:
    """Report a ValueError or OSError inside as a wrong value of this option: exit code 2."""
    try:
        yield
    except (ValueError, OSError) as error:
        raise typer.BadParameter(str(error), param_hint=option) from None


def checked(check: Callable[[Any], object]) -> Callable[[typer.CallbackParam, Any], Any]:
    """Return a callback that calls ``check`` with an option's value, if it is given, when it is parsed."""

    def callback(option: typer.CallbackParam, value: Any) -> Any:
        if value is not None:
            with option_errors(option.opts[0]):
                check(value)
        return value

    return callback


def at_least(minimum: int) -> Callable[[typer.CallbackParam, Any], Any]:
    """Return a check of an option that names the value it got, unlike typer's own ``min``."""

    def check(value: int) -> None:
        if value < minimum:
            raise ValueError(f"must be at least {minimum}, got {value}")

    return checked(check)


def to_shape(text: str) -> list[int]:
    """Parse ``N,C,T,H,W``, whole numbers of 0 or more; how many there must be is checked elsewhere."""
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
    """Parse a rate: ``native`` is None, else a number above 0."""
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
        help="Read flow instead of computing it: DIR/NAME/flow_x_00001.jpg and so on, from denseflow, TSN or "
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
    typer.Option(help="Frames to sample per second, or `native` for all of them.", callback=checked(to_rate)),
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
    """Return the device of that name: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``."""
    from fasti3d.runtime.devices import resolve_device

    with option_errors("--device"):
        return resolve_device(name)


def to_dtype(name: str, device: torch.device) -> torch.dtype:
    """Return the dtype of that name: ``float32``, ``bfloat16``, ``float16``, or ``auto`` for the device."""
    from fasti3d.runtime.devices import resolve_dtype

    with option_errors("--dtype"):
        return resolve_dtype(name, device)


def to_tvl1(preset: str, option: str = "--tvl1-preset") -> TVL1Params:
    """Return the parameters of a TV-L1 preset."""
    with option_errors(option):
        return TVL1Params.preset(preset)


def check_flow_options(
    flow_from: Path | None, bound: float, streams: str, preset: str, params: TVL1Params
) -> None:
    """Exit with code 2 for a folder of flow that does not go with the other options."""
    with option_errors("--flow-from"):
        check_flow_from(flow_from, bound, flowing=streams != "rgb", preset=preset, params=params)


def expected_frames(path: Path, fps: float | None) -> float | None:
    """Return how many frames will be sampled, if the file says so."""
    from fasti3d.video import probe

    info = probe(path)
    rate = fps or info.fps
    return info.duration * rate if info.duration and rate else info.frames
