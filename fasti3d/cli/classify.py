"""``fasti3d classify``: what people do in videos."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from fasti3d.cli import output
from fasti3d.cli.weights import fetch

if TYPE_CHECKING:
    from fasti3d.classification import Classification
    from fasti3d.i3d import I3D


def _at_least(least: int) -> Callable[[int], int]:
    """A check of an option that names the value it got, which typer's own ``min`` does not."""

    def check(value: int) -> int:
        if value < least:
            raise typer.BadParameter(f"must be at least {least}, got {value}")
        return value

    return check


def classify(
    videos: Annotated[
        list[Path],
        typer.Argument(metavar="VIDEO", help="Video files, or folders of images.", show_default=False),
    ],
    weights: Annotated[
        str, typer.Option(help="A name of `fasti3d weights list`, or a checkpoint's path.")
    ] = "kinetics400-rgb",
    window: Annotated[int, typer.Option(help="Frames in a window, at least 9.", callback=_at_least(9))] = 64,
    stride: Annotated[
        int, typer.Option(help="Frames from one window to the next.", callback=_at_least(1))
    ] = 32,
    top: Annotated[int, typer.Option(help="Classes to print.", callback=_at_least(1))] = 5,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    dtype: Annotated[
        str,
        typer.Option(help="auto, float32, bfloat16 or float16; auto is float16 on a GPU, float32 on a CPU."),
    ] = "auto",
    fps: Annotated[
        str, typer.Option(help="Frames a second to sample, or `native` for all there are.")
    ] = "25",
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object a video, one a line, and nothing else.")
    ] = False,
    timeline: Annotated[
        Path | None,
        typer.Option(
            help="Draw the classes over time: a .png, .svg or .pdf; with several videos, {stem} in it "
            "stands for each one's name.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Say what people do in videos.

    The whole video's classes are the softmax of the mean of its windows' logits. Exit code 1 means
    that a video failed (the others are still done), 2 that the call was wrong.
    """
    from fasti3d.timeline import draw_timeline

    rate = _rate(fps)
    targets = _targets(timeline, videos)
    model = open_model(weights, device, dtype)

    failed = False
    for path, target in zip(videos, targets, strict=True):
        result = run(path, model, window=window, stride=stride, fps=rate)
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
                failed = True
                output.complain("error", f"{target}: {error.strerror or error}")
    raise typer.Exit(failed)


def open_model(weights: str, device: str, dtype: str) -> I3D:
    """The model, or an end with exit code 2 for a wrong option and 1 for weights that cannot be had."""
    from fasti3d.classification import load_model, resolve_device, resolve_dtype
    from fasti3d.weights import WeightsError, registry

    try:
        resolve_dtype(dtype, resolve_device(device))
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    source = Path(weights).expanduser()
    if weights in registry():
        source = fetch(weights)
    elif not source.exists():
        raise typer.BadParameter(
            f"{weights!r} is neither a file nor a name of `fasti3d weights list` ({', '.join(registry())})",
            param_hint="--weights",
        )
    try:
        model = load_model(source, device=device, dtype=dtype)
    except WeightsError as error:
        output.fail(error)
    if model.in_channels != 3:
        raise typer.BadParameter(
            f"{weights} takes {model.in_channels} channels, but videos are RGB: use 3-channel weights",
            param_hint="--weights",
        )
    return model


def run(
    path: Path, model: I3D, *, window: int = 64, stride: int = 32, fps: float | None = 25.0
) -> Classification | str:
    """The classification of one video under a progress bar, or what is wrong with the file."""
    import torch

    from fasti3d import video
    from fasti3d.classification import classify

    try:
        with (
            warnings.catch_warnings(),
            output.progress_bar(path.name) as advance,
        ):
            if advance is not None:
                advance(0, _expected(path, fps))
            # They are in the result, and are printed from there.
            warnings.simplefilter("ignore", video.VideoWarning)
            return classify(path, model=model, window=window, stride=stride, fps=fps, progress=advance)
    except (video.VideoError, FloatingPointError) as error:
        return str(error)
    except torch.OutOfMemoryError:
        return f"{path}: out of GPU memory: free some, choose a smaller --window, or use --device cpu"


def _expected(path: Path, fps: float | None) -> float | None:
    """How many frames will be sampled, as far as the file says."""
    from fasti3d.video import probe

    info = probe(path)
    rate = fps or info.fps
    return info.duration * rate if info.duration and rate else info.frames


def print_table(result: Classification, path: Path, top: int) -> None:
    """The most likely classes of the whole video, and how long it took."""
    output.out.print(Text(output.printable(path), style="bold"), soft_wrap=True)
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("class")
    table.add_column("probability", justify="right")
    for score in result.top(top):
        table.add_row(Text(output.printable(score.label)), f"{score.probability:.4f}")
    output.out.print(table)
    output.out.print(speed(result), style="dim", soft_wrap=True)
    output.out.print()


def speed(result: Classification) -> str:
    """One line: what was done, where, and how fast."""
    windows = len(result.spans)
    return (
        f"{result.frames} frames in {windows} window{'s' * (windows != 1)}, {result.seconds:.2f} s, "
        f"{result.frames_per_second:.0f} frames/s on {result.device} in {_name(result.dtype)}"
    )


def as_dict(result: Classification, path: Path, top: int) -> dict[str, Any]:
    """The JSON object of one video; times in seconds."""
    return {
        "file": str(path),
        "fps": result.fps,
        "frames": result.frames,
        "windows": [
            {"start": span.start, "end": span.end, "top": [asdict(s) for s in result.window_top(i, top)]}
            for i, span in enumerate(result.spans)
        ],
        "top": [asdict(score) for score in result.top(top)],
        "warnings": list(result.warnings),
        "device": str(result.device),
        "dtype": _name(result.dtype),
        "seconds": result.seconds,
        "frames_per_second": result.frames_per_second,
    }


def _name(dtype: object) -> str:
    return str(dtype).removeprefix("torch.")


def _rate(text: str) -> float | None:
    """``native`` as None, else a number above 0."""
    if text == "native":
        return None
    try:
        rate = float(text)
    except ValueError:
        rate = 0.0
    if not 0 < rate < float("inf"):
        raise typer.BadParameter(f"must be a number above 0, or native, got {text!r}", param_hint="--fps")
    return rate


def _targets(timeline: Path | None, videos: list[Path]) -> list[Path | None]:
    """Where each video's picture goes, checked before any work."""
    from fasti3d.timeline import check_target

    if timeline is None:
        return [None] * len(videos)
    targets = [timeline.with_name(timeline.name.replace("{stem}", path.stem)) for path in videos]
    if len(set(targets)) < len(targets):
        raise typer.BadParameter(
            f"{timeline} would be written more than once: with several videos, put {{stem}} in the name "
            "(timeline-{stem}.png), and give videos of different names",
            param_hint="--timeline",
        )
    try:
        return [check_target(target) for target in targets]
    except (ValueError, OSError) as error:
        raise typer.BadParameter(str(error), param_hint="--timeline") from None
