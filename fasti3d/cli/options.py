"""Options that several verbs share, and what their values stand for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fasti3d.backbone import BACKBONES, I3D_NAME, Backbone
from fasti3d.choices import AUTO, check_device, check_dtype, check_preset
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


def to_network_rate(text: str) -> float | str | None:
    """Parse a rate that may also be ``auto``."""
    return text if text == AUTO else to_rate(text)


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
            f"must be a number above 0, from {MIN_FPS:g} to {MAX_FPS:g}, native, got {text!r}",
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
NetworkRate = Annotated[
    str,
    typer.Option(
        help="Frames to sample per second; `native` for all of them; `auto` for the network's rate: i3d 25.",
        callback=checked(to_network_rate),
    ),
]
Network = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="i3d (also without it, unless --weights is a name of another network's), i3d-r50, i3d-r101, "
        "slow-r50, r3d-18, mc3-18 or r2plus1d-18; RGB only.",
        show_default=False,
    ),
]
Variant = Annotated[
    str | None,
    typer.Option(
        help="Of i3d-r50 and i3d-r101, the implementation that the weights come from: caffe2-32x2, "
        "caffe2-8x8, pytorchvideo-8x8, mmaction2-32x2, mmaction2-heavy, slow-8x8 or c2d-8x8.",
        show_default=False,
    ),
]
NonLocal = Annotated[
    str | None,
    typer.Option(
        "--non-local",
        help="What their non-local blocks compute, where the weights fit several: embedded_gaussian, "
        "dot_product or gaussian.",
        show_default=False,
    ),
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


def to_backbone(network: str | None, variant: str | None, non_local: str | None, weights: str) -> Backbone:
    """Return the network of the options; exit with code 2 for one that is not, or has no weights."""
    from fasti3d.weights import registry

    named = registry()[weights].backbone if weights in registry() else None
    if network is None:
        of_resnets = next(
            (name for name, value in (("--variant", variant), ("--non-local", non_local)) if value), ""
        )
        if of_resnets and (named is None or named.family != "i3d-resnet"):
            raise typer.BadParameter("needs --network i3d-r50 or i3d-r101", param_hint=of_resnets)
        network = I3D_NAME if named is None else named.network
    with option_errors("--network"):
        if network not in BACKBONES:
            raise ValueError(f"must be one of {', '.join(BACKBONES)}, got {network!r}")
    same = named is not None and named.network == network
    with option_errors("--non-local" if non_local and variant else "--variant"):
        backbone = Backbone(
            network,
            variant or (named.variant if same and named else None),
            non_local or (named.non_local if same and named else None),
        )
    if named is not None and (named.family, named.variant) != (backbone.family, backbone.variant):
        fitting = [name for name, entry in registry().items() if entry.backbone == backbone]
        raise typer.BadParameter(
            f"{weights} is of {named.says}, not of {backbone.says}: give "
            + " or ".join(["a file's path", *fitting]),
            param_hint="--weights",
        )
    return backbone


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


def expected_frames(path: Path, fps: float | str | None) -> float | None:
    """Return how many frames will be sampled, if the file says so."""
    from fasti3d.video import probe

    info = probe(path)
    rate = info.fps if fps is None or isinstance(fps, str) else fps
    return info.duration * rate if info.duration and rate else info.frames
