"""``fasti3d classify``: what people do in videos."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Callable
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from fasti3d.backbone import I3D_NAME, Backbone
from fasti3d.choices import AUTO, check_streams
from fasti3d.cli import output
from fasti3d.cli.options import (
    Device,
    Dtype,
    FlowBound,
    FlowFrom,
    FlowPreset,
    FlowWeights,
    Network,
    NetworkRate,
    NonLocal,
    TVL1Preset,
    Variant,
    Videos,
    Weights,
    at_least,
    check_flow_options,
    expected_frames,
    option_errors,
    to_backbone,
    to_device,
    to_dtype,
    to_network_rate,
    to_tvl1,
)
from fasti3d.cli.weights import check_there, find
from fasti3d.network import MIN_FLOW_FRAMES
from fasti3d.preprocessing import in_words
from fasti3d.utils.naming import alike, output_name, quoted, shortened
from fasti3d.utils.resources import is_resource_error
from fasti3d.utils.targets import check_target

if TYPE_CHECKING:
    from fasti3d.classification.result import Classification
    from fasti3d.models import Model, VideoNetwork

_I3D = Backbone()
# Bytes that are added to the name of a picture while it is written.
_TEMPORARY = 20


def classify(
    videos: Videos,
    weights: Weights = "kinetics400-rgb",
    streams: Annotated[
        str, typer.Option(help="rgb, flow, or both, whose logits are summed; flow needs --flow-weights.")
    ] = "rgb",
    flow_weights: FlowWeights = None,
    flow_preset: FlowPreset = "readme",
    tvl1_preset: TVL1Preset = "i3d",
    flow_from: FlowFrom = None,
    flow_bound: FlowBound = 20.0,
    network: Network = None,
    variant: Variant = None,
    non_local: NonLocal = None,
    window: Annotated[
        int | None,
        typer.Option(
            help="Frames in a window, for i3d at least 9, with flow 10; without it what the network was "
            "trained on, for i3d 64.",
            callback=at_least(1),
        ),
    ] = None,
    stride: Annotated[
        int | None,
        typer.Option(
            help="Frames from one window to the next; half a window without it.", callback=at_least(1)
        ),
    ] = None,
    top: Annotated[int, typer.Option(help="Classes to print.", callback=at_least(1))] = 5,
    device: Device = "auto",
    dtype: Dtype = "auto",
    fps: NetworkRate = AUTO,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object per video, one per line, and nothing else.")
    ] = False,
    timeline: Annotated[
        Path | None,
        typer.Option(
            help="Draw the classes over time: a .png, .svg or .pdf; with several videos, {stem} in it "
            "stands for the name of each.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Say what people do in videos.

    The whole video's classes are the softmax of the mean of its windows' logits. Exit code 1 means
    that a video failed (the others are still done), 2 that the call was wrong.
    """
    backbone = to_backbone(network, variant, non_local, weights)
    _check_window(backbone, streams, window)
    rate = to_network_rate(fps)
    targets = _targets(timeline, videos)
    flow = _flow_options(streams, flow_weights, flow_preset, tvl1_preset)
    check_flow_options(flow_from, flow_bound, streams, flow_preset, flow["tvl1_params"])
    flow |= {"flow_from": flow_from, "flow_bound": flow_bound}
    if streams != "flow":
        check_there(weights)
    if flow_weights is not None:
        check_there(flow_weights, "--flow-weights")
    from fasti3d.classification.timeline import draw_timeline

    # The RGB network is not loaded without its stream, and alone while the first video is read.
    model: Model = weights if streams == "flow" else opener(weights, device, dtype, backbone=backbone)
    if flow_weights is not None:
        model = model() if callable(model) else model
        flow["flow_model"] = open_model(flow_weights, device, dtype, stream="flow")
        _check_together(model, flow["flow_model"])

    failed = False
    for path, target in zip(videos, targets, strict=True):
        result = run(path, model, backbone, window=window, stride=stride, fps=rate, **flow)
        if isinstance(result, str):
            failed = True
            output.complain("error", result)
            if as_json:
                print(json.dumps({"file": str(path), "error": result}), flush=True)
            continue
        for text in result.warnings:
            output.complain("warning", text)
        if as_json:
            print(json.dumps(as_dict(result, path, top)), flush=True)
        else:
            print_table(result, path, top)
        if target is not None:
            try:
                draw_timeline(result, target)
            except OSError as error:
                if is_resource_error(error):
                    raise
                failed = True
                output.complain("error", f"{quoted(target)}: {error.strerror or error}")
    raise typer.Exit(failed)


def open_model(
    weights: str, device: str, dtype: str, *, stream: str = "rgb", backbone: Backbone = _I3D
) -> VideoNetwork:
    """Load a network; exit with code 2 for a wrong option, and 1 for weights that cannot be loaded."""
    return opener(weights, device, dtype, stream=stream, backbone=backbone)()


def opener(
    weights: str, device: str, dtype: str, *, stream: str = "rgb", backbone: Backbone = _I3D
) -> Callable[[], VideoNetwork]:
    """Find the weights of a network; return what loads it at its first call. Both exit as ``open_model``."""
    from fasti3d.i3d import I3D
    from fasti3d.models import load_backbone
    from fasti3d.two_stream import check_channels
    from fasti3d.weights import WeightsError

    option = {"rgb": "--weights", "flow": "--flow-weights"}[stream]
    to_dtype(dtype, to_device(device))
    source = find(weights, option)

    @cache
    def load() -> VideoNetwork:
        try:
            model = load_backbone(source, backbone, device=device, dtype=dtype)
        except WeightsError as error:
            output.fail(error)
        if isinstance(model, I3D):
            with option_errors(option):
                check_channels(weights, stream, model)
        return model

    return load


def _check_window(backbone: Backbone, streams: str, window: int | None) -> None:
    """Exit with code 2 for a window too short for the network, and for streams that it has not."""
    if backbone.family != "i3d" and streams != "rgb":
        raise typer.BadParameter(
            f"must be rgb for {backbone.network}, which takes frames, got {streams!r}", param_hint="--streams"
        )
    least = (
        MIN_FLOW_FRAMES if streams != "rgb" else (backbone.min_frames - 1) * backbone.preprocessing.step + 1
    )
    if window is not None and window < least:
        raise typer.BadParameter(
            f"must be at least {least}{' with flow' if streams != 'rgb' else ''}, got {window}",
            param_hint="--window",
        )


def _flow_options(
    streams: str, flow_weights: str | None, flow_preset: str, tvl1_preset: str
) -> dict[str, Any]:
    """Return the library's arguments for the flow stream but the network, checked before any work."""
    with option_errors("--streams"):
        check_streams(streams, flow_weights, "--flow-weights")
    params = to_tvl1(tvl1_preset)
    return {"streams": streams, "flow_preset": flow_preset, "tvl1_params": params}


def _check_together(model: Model, flow_model: VideoNetwork) -> None:
    from fasti3d.classification.classify import labels_of
    from fasti3d.i3d import I3D

    if isinstance(model, I3D):
        with option_errors("--flow-weights"):
            labels_of({"rgb": model, "flow": flow_model})


def run(
    path: Path,
    model: Model,
    backbone: Backbone = _I3D,
    *,
    window: int | None = None,
    stride: int | None = None,
    fps: float | str | None = AUTO,
    **flow: Any,
) -> Classification | str:
    """Classify one video under a progress bar; return the result, or what is wrong with the file.

    ``flow``: The arguments of ``fasti3d.classify`` that concern the flow stream.
    """
    from fasti3d import video
    from fasti3d.classification.classify import classify

    try:
        with (
            warnings.catch_warnings(),
            output.progress_bar(quoted(path.name)) as advance,
        ):
            if advance is not None:
                advance(0, expected_frames(path, backbone.preprocessing.fps if fps == AUTO else fps))
            # They are printed from the result.
            warnings.simplefilter("ignore", video.VideoWarning)
            return classify(
                path,
                model=model,
                network=backbone.network,
                variant=backbone.variant,
                non_local=backbone.non_local,
                window=window,
                stride=stride,
                fps=fps,
                progress=advance,
                **flow,
            )
    except (video.VideoError, FloatingPointError) as error:
        return str(error)


def print_table(result: Classification, path: Path, top: int) -> None:
    """Print the most likely classes of the whole video, and how long it took."""
    output.out.print(Text(output.printable(quoted(path)), style="bold"), soft_wrap=True)
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("class")
    table.add_column("probability", justify="right")
    for score in result.top(top):
        table.add_row(Text(output.printable(score.label)), f"{score.probability:.4f}")
    output.out.print(table)
    output.out.print(speed(result), style="dim", soft_wrap=True)
    if result.network != I3D_NAME:
        said = f"{result.network}, {in_words(result.preprocessing)}"
        output.out.print(Text(said, style="dim"), soft_wrap=True)
    output.out.print()


def speed(result: Classification) -> str:
    """Return one line: what was done, where, and how fast."""
    windows = len(result.spans)
    return (
        f"{result.frames} frames in {windows} window{'s' * (windows != 1)}, {result.seconds:.2f} s, "
        f"{result.frames_per_second:.0f} frames/s on {result.device} in {_name(result.dtype)}"
    )


def as_dict(result: Classification, path: Path, top: int) -> dict[str, Any]:
    """Return the JSON object of one video, with times in seconds."""
    return {
        "file": str(path),
        "fps": result.fps,
        "frames": result.frames,
        "windows": [
            {"start": span.start, "end": span.end, "top": [asdict(s) for s in result.window_top(i, top)]}
            for i, span in enumerate(result.spans)
        ],
        "top": [asdict(score) for score in result.top(top)],
        "streams": {
            name: {"top": [asdict(score) for score in result.stream_top(name, top)]}
            for name in result.streams
        },
        "flow_from": None if result.flow_from is None else str(result.flow_from),
        "flow_bound": result.flow_bound,
        "warnings": list(result.warnings),
        "network": result.network,
        "preprocessing": result.preprocessing,
        "device": str(result.device),
        "dtype": _name(result.dtype),
        "seconds": result.seconds,
        "frames_per_second": result.frames_per_second,
    }


def _name(dtype: object) -> str:
    return str(dtype).removeprefix("torch.")


def _targets(timeline: Path | None, videos: list[Path]) -> list[Path | None]:
    """Return where each video's picture goes, checked before any work."""
    if timeline is None:
        return [None] * len(videos)
    added = len(os.fsencode(timeline.name)) - len("{stem}") + _TEMPORARY
    stems = [output_name(path, is_folder=os.path.isdir(path)) for path in videos]
    names = [timeline.name.replace("{stem}", shortened(stem, timeline.parent, added)) for stem in stems]
    targets = [timeline.with_name(name) for name in names]
    if len(set(targets)) < len(targets) or (os.path.isdir(timeline.parent) and alike(names, timeline.parent)):
        raise typer.BadParameter(
            f"{quoted(timeline)} would be written more than once: with several videos, put {{stem}} in the "
            "name (timeline-{stem}.png), and give videos of different names",
            param_hint="--timeline",
        )
    with option_errors("--timeline"):
        return [check_target(target) for target in targets]
