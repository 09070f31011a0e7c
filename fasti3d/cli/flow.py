"""``fasti3d flow``: the optical flow of videos, as files."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from fasti3d.cli import output
from fasti3d.cli.options import (
    Device,
    Rate,
    TVL1Preset,
    Videos,
    checked,
    expected_frames,
    to_device,
    to_rate,
    to_tvl1,
)
from fasti3d.flow.checks import check_bound
from fasti3d.limits import MAX_SIDE
from fasti3d.utils.naming import alike, output_name, quoted
from fasti3d.utils.resources import is_resource_error

if TYPE_CHECKING:
    from fasti3d.flow.export import Exported, FlowOutput, Kind, Options


def flow(
    videos: Videos,
    out: Annotated[
        Path,
        typer.Option(
            "--out",
            "-o",
            metavar="DIR|FILE.mp4|FILE.npz",
            help="A folder, for one file per pair (several videos, and the layout denseflow: a folder each); "
            "a colour video; or NumPy arrays: flow, times, fps, params, settings.",
            show_default=False,
        ),
    ],
    preset: TVL1Preset = "i3d",
    file_format: Annotated[
        str, typer.Option("--format", help="Files of a folder: flo (Middlebury's) or kitti (16-bit .png).")
    ] = "flo",
    cache: Annotated[
        bool,
        typer.Option(
            "--cache", help="A file DIR/NAME.flow per video, of bytes, from which training reads clips."
        ),
    ] = False,
    viz: Annotated[
        bool, typer.Option("--viz", help="Files of a folder: pictures (.png), with direction as hue.")
    ] = False,
    layout: Annotated[
        str,
        typer.Option(
            metavar="default|denseflow",
            help="denseflow: DIR/NAME/flow_x_00001.jpg and flow_y_00001.jpg for each video, as of denseflow "
            "and TSN: 8-bit grey, quality 95.",
        ),
    ] = "default",
    bound: Annotated[
        float,
        typer.Option(
            help="Motion in pixels that the layout denseflow cuts off at: 0 is -bound, 255 bound.",
            callback=checked(check_bound),
        ),
    ] = 20.0,
    max_magnitude: Annotated[
        float, typer.Option(help="Motion in pixels that has the full colour; pictures and colour video.")
    ] = 20.0,
    fps: Rate = "25",
    resize: Annotated[
        str, typer.Option(help="The short side to scale frames to, in pixels, or `none`.")
    ] = "256",
    device: Device = "auto",
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace what other settings, or another video, made there.")
    ] = False,
) -> None:
    """Compute the TV-L1 optical flow of videos, in pixels: N frames give N-1 flows.

    The same command continues what was interrupted, and ends with the same files. Exit code 1 means that a
    video failed (the others are still done), 2 that the call was wrong.
    """
    if not 0 < max_magnitude < float("inf"):
        raise typer.BadParameter(f"must be above 0, got {max_magnitude}", param_hint="--max-magnitude")
    params = to_tvl1(preset, "--preset")
    rate, side = to_rate(fps), _side(resize)
    kind = _kind(out, file_format, viz, layout, cache)
    targets = _targets(out, kind, videos)
    from fasti3d.flow.export import Options, settings_of
    from fasti3d.video import VideoError

    options = Options(params, rate, side, to_device(device), max_magnitude, bound)
    jobs: list[tuple[Path, FlowOutput | VideoError]] = []
    for video, target in zip(videos, targets, strict=True):
        if os.path.exists(video) and os.path.exists(target) and video.samefile(target):
            raise typer.BadParameter(
                f"{quoted(target)} is the video itself: write elsewhere", param_hint="--out"
            )
        try:
            jobs.append((video, _output(target, settings_of(video, kind, options))))
        except VideoError as error:
            jobs.append((video, error))
    if not overwrite:
        _check_conflicts([job for _, job in jobs if not isinstance(job, VideoError)])

    failed = False
    for video, job in jobs:
        result = str(job) if isinstance(job, VideoError) else run(video, job, options)
        if isinstance(result, str):
            failed = True
            output.complain("error", result)
    raise typer.Exit(failed)


def run(video: Path, target: FlowOutput, options: Options) -> str | None:
    """Compute the flow of one video under a progress bar, and say so; return what is wrong with it."""
    from fasti3d.flow.export import ExportError, export
    from fasti3d.video import VideoError

    if target.complete():
        _say(f"{quoted(video)}: all flow is in {quoted(target.target)} already")
        return None
    try:
        with _video_warnings(), output.progress_bar(quoted(video.name)) as advance:
            if advance is not None:
                frames = expected_frames(video, options.fps)
                advance(0, frames and frames - 1)
            result = export(video, target, options, progress=advance)
    except (VideoError, ExportError) as error:
        return str(error)
    except OSError as error:
        if is_resource_error(error):
            raise
        return f"{quoted(target.target)}: {error.strerror or error}"
    except KeyboardInterrupt:
        output.complain(
            "warning", f"{quoted(video)}: interrupted; the same command continues where it stopped"
        )
        raise
    _say(f"{quoted(video)}: {_summary(result, options)}, in {quoted(target.target)}")
    return None


def _summary(result: Exported, options: Options) -> str:
    pairs = result.frames - 1
    already_done = f" ({pairs - result.solved} were done already)" if result.solved < pairs else ""
    return (
        f"{pairs} flow{'s' * (pairs != 1)} of {result.width}x{result.height} from {result.frames} frames"
        f"{already_done}, {result.seconds:.2f} s, {result.solved / result.seconds:.1f} per second on "
        f"{options.device}"
    )


def _say(text: str) -> None:
    output.out.print(Text(output.printable(text)), soft_wrap=True)


@contextmanager
def _video_warnings() -> Iterator[None]:
    """Print the VideoWarnings raised inside when the block ends; others are passed on."""
    from fasti3d.video import VideoWarning

    caught: list[warnings.WarningMessage] = []
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", VideoWarning)
            yield
    finally:
        for item in caught:
            if issubclass(item.category, VideoWarning):
                output.complain("warning", item.message)
            else:
                warnings.warn_explicit(item.message, item.category, item.filename, item.lineno)


def _side(text: str) -> int | None:
    """Parse a side: ``none`` is None, else a whole number above 0."""
    if text == "none":
        return None
    if not (text.isdecimal() and len(text) < 10 and 0 < int(text) <= MAX_SIDE):
        raise typer.BadParameter(
            f"must be a number of pixels above 0 and up to {MAX_SIDE}, or none, got {text!r}",
            param_hint="--resize",
        )
    return int(text)


def _kind(out: Path, file_format: str, viz: bool, layout: str, cache: bool) -> Kind:
    """Return what to write, by the name of the output and the options about the files of a folder."""
    if layout not in ("default", "denseflow"):
        raise typer.BadParameter(f"must be default or denseflow, got {layout!r}", param_hint="--layout")
    if layout == "denseflow" and (viz or file_format != "flo"):
        raise typer.BadParameter(
            "denseflow has its own files: leave out --format and --viz", param_hint="--layout"
        )
    if file_format not in ("flo", "kitti"):
        raise typer.BadParameter(f"must be flo or kitti, got {file_format!r}", param_hint="--format")
    if viz and file_format != "flo":
        raise typer.BadParameter("is for arrays, and --viz for pictures: give one", param_hint="--format")
    if cache:
        if viz or file_format != "flo" or layout != "default":
            raise typer.BadParameter(
                "has files of its own: leave out --format, --viz and --layout", param_hint="--cache"
            )
        return "cache"
    suffix = out.suffix.lower()
    if layout == "denseflow":
        if suffix in (".mp4", ".npz") and not os.path.isdir(out):
            raise typer.BadParameter(
                f"--layout denseflow is of a folder, not of {quoted(out)}", param_hint="--out"
            )
        return "denseflow"
    if os.path.isdir(out) or not suffix:
        return "colour" if viz else "kitti" if file_format == "kitti" else "flo"
    if suffix not in (".mp4", ".npz"):
        raise typer.BadParameter(
            f"{out} must end in .mp4 or .npz, or be a folder (one with a dot in its name must be there)",
            param_hint="--out",
        )
    if file_format != "flo" or (viz and suffix == ".npz"):
        raise typer.BadParameter(f"--format and --viz are for a folder, not for {out}", param_hint="--out")
    return "mp4" if suffix == ".mp4" else "npz"


def _targets(out: Path, kind: Kind, videos: list[Path]) -> list[Path]:
    """Return where the flow of each video goes, checked before any work."""
    for path in (out, f"{out}.partial") if kind in ("mp4", "npz") else (out,):
        try:
            os.lstat(path)
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            raise typer.BadParameter(
                f"{quoted(path)} cannot be written: {error.strerror}", param_hint="--out"
            ) from None
    if kind in ("mp4", "npz"):
        if len(videos) > 1:
            raise typer.BadParameter(
                f"{out} holds the flow of one video, got {len(videos)}: name a folder", param_hint="--out"
            )
        if not os.path.isdir(out.parent):
            raise typer.BadParameter(f"{out.parent} is not a folder: create it", param_hint="--out")
        return [out]
    parent = next(path for path in (out, *out.absolute().parents) if os.path.exists(path))
    if not os.path.isdir(parent):
        raise typer.BadParameter(f"{parent} is a file: name a folder", param_hint="--out")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise typer.BadParameter(
            f"this user has no permission to write to {parent}: write elsewhere", param_hint="--out"
        )
    if len(videos) == 1 and kind not in ("denseflow", "cache"):
        return [out]
    names = [output_name(video, is_folder=os.path.isdir(video)) for video in videos]
    twice = next((name for name in names if names.count(name) > 1), None) or alike(names, parent)
    if twice is not None:
        name = twice if isinstance(twice, str) else twice[0]
        raise typer.BadParameter(
            f"{quoted(out / name)} would hold the flow of two videos: give videos of different names",
            param_hint="--out",
        )
    return [out / (f"{name}.flow" if kind == "cache" else name) for name in names]


def _output(target: Path, settings: dict[str, object]) -> FlowOutput:
    from fasti3d.flow.export import CacheOutput, FolderOutput, NpzOutput, VideoOutput

    kinds: dict[str, type[CacheOutput] | type[NpzOutput] | type[VideoOutput]] = {
        "npz": NpzOutput,
        "mp4": VideoOutput,
        "cache": CacheOutput,
    }
    return kinds.get(str(settings["kind"]), FolderOutput)(target, settings)


def _check_conflicts(outputs: list[FlowOutput]) -> None:
    for target in outputs:
        if not target.complete() and (conflict := target.conflict()):
            raise typer.BadParameter(
                f"{quoted(target.target)} {conflict}: replace it with --overwrite, or write elsewhere",
                param_hint="--out",
            )
