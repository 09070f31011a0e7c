"""``fasti3d extract``: the features of many videos, in files."""

from __future__ import annotations

import logging
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.text import Text
from typer.core import TyperCommand

from fasti3d.backbone import I3D_NAME
from fasti3d.choices import AUTO, check_streams
from fasti3d.cli import output
from fasti3d.cli.classify import open_model
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
    Weights,
    at_least,
    check_flow_options,
    to_backbone,
    to_network_rate,
    to_tvl1,
)
from fasti3d.cli.weights import check_there
from fasti3d.extraction.settings import ExtractionSettings
from fasti3d.preprocessing import in_words
from fasti3d.utils.naming import quoted

if TYPE_CHECKING:
    from fasti3d.extraction import Extraction
    from fasti3d.extraction import Progress as JobProgress

_SHARD = re.compile(r"(\d+)/(\d+)")
_ADDRESS = re.compile(r"local|auto|[^/]+:\d+")
# Failures that are printed; the report lists the others.
_MAX_SHOWN = 20

_DEFAULTS = ExtractionSettings()


class Command(TyperCommand):
    """A command whose option ``--ray`` needs no address, also before a video."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        given = []
        for arg, following in zip(args, [*args, ""][1:], strict=True):
            given.append(arg)
            if arg == "--ray" and not _ADDRESS.fullmatch(following):
                given.append("local")
        return super().parse_args(ctx, given)


def extract(
    sources: Annotated[
        list[Path],
        typer.Argument(
            metavar="VIDEO|DIR|LIST.txt",
            help="Videos, folders of videos (a folder of images is a video), or lists: one path per line, "
            "relative to the list.",
            show_default=False,
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="The folder for all outputs.")],
    weights: Weights = "kinetics400-rgb",
    streams: Annotated[
        str, typer.Option(help="rgb, flow, or both, each by itself; flow needs --flow-weights.")
    ] = _DEFAULTS.streams,
    flow_weights: FlowWeights = None,
    mode: Annotated[
        str,
        typer.Option(
            metavar="windows|dense",
            help="windows: one row each; dense: one pass over the whole video, one row per step, which for "
            "pooled and map are 8 frames apart.",
        ),
    ] = _DEFAULTS.mode,
    features: Annotated[
        str,
        typer.Option(
            metavar="pooled|map|ENDPOINT",
            help="pooled (per row 1024, of i3d-r50 2048), map (all of the last map), or an endpoint: "
            "Mixed_4f, res4, Logits...",
        ),
    ] = _DEFAULTS.features,
    network: Network = None,
    variant: Variant = None,
    non_local: NonLocal = None,
    normalization: Annotated[
        str | None,
        typer.Option(
            help="Of networks but i3d: symmetric ([-1, 1]), facebook, imagenet or torchvision; without it "
            "that of the weights.",
            show_default=False,
        ),
    ] = _DEFAULTS.normalization,
    stack: Annotated[
        int | None,
        typer.Option(
            help="Frames in a window, for i3d at least 9, with flow 10; without it what the network was "
            "trained on, for i3d 64. Like --step and --tail, not for --mode dense.",
            callback=at_least(1),
        ),
    ] = _DEFAULTS.stack,
    interval: Annotated[
        int | None,
        typer.Option(
            help="Frames of the video per frame of a window; without it what the network was trained on, for "
            "i3d 1.",
            callback=at_least(1),
        ),
    ] = _DEFAULTS.interval,
    step: Annotated[
        int | None,
        typer.Option(help="Frames from one window to the next; without it as many as a window covers."),
    ] = _DEFAULTS.step,
    fps: NetworkRate = AUTO,
    crops: Annotated[
        int | None,
        typer.Option(
            help="1: the centre; 3: squares of the whole shorter side along the longer one; 5: the corners "
            "and the centre; 10: those and mirrored. Without it 1, with the layout anomaly 10."
        ),
    ] = _DEFAULTS.crops,
    flip: Annotated[bool, typer.Option("--flip", help="Add the mirror image of each crop.")] = _DEFAULTS.flip,
    tail: Annotated[
        str | None,
        typer.Option(
            help="Frames at the end that fill no window: pad (repeat the last one), loop (repeat them "
            "all) or drop; pad without it, with the other layouts drop.",
        ),
    ] = _DEFAULTS.tail,
    partial: Annotated[
        bool, typer.Option("--partial", help="Keep what comes before the break of a damaged file.")
    ] = _DEFAULTS.partial,
    file_format: Annotated[
        str, typer.Option("--format", help="npy (one file per stream), npz or safetensors; float32.")
    ] = _DEFAULTS.format,
    layout: Annotated[
        str,
        typer.Option(
            help="default; video_features: files as v-iashin/video_features writes them; anomaly: NAME.npy, "
            "(snippets of 16 frames, 10 crops, channels), as detectors of anomalies read them."
        ),
    ] = _DEFAULTS.layout,
    flow_preset: FlowPreset = _DEFAULTS.flow_preset,
    tvl1_preset: TVL1Preset = "i3d",
    flow_from: FlowFrom = None,
    flow_bound: FlowBound = _DEFAULTS.flow_bound,
    device: Device = _DEFAULTS.device,
    dtype: Dtype = _DEFAULTS.dtype,
    workers: Annotated[
        int | None,
        typer.Option(
            help="Videos in work at once; without it 2 on a CPU, up to 8 with a GPU.", callback=at_least(1)
        ),
    ] = _DEFAULTS.workers,
    shard: Annotated[
        str | None,
        typer.Option(metavar="I/N", help="Do the I-th of N parts, from 1/N to N/N (Slurm: --array=1-N)."),
    ] = None,
    ray: Annotated[
        str | None,
        typer.Option(
            metavar="[ADDRESS]",
            help="Work on a Ray cluster: one started here without an address, or that of auto or HOST:PORT, "
            "whose machines see videos and output folder under the same paths. --workers are then its "
            "processes (as many as fit), each with a GPU or with OMP_NUM_THREADS CPUs.",
            show_default=False,
        ),
    ] = _DEFAULTS.ray,
    retry_errors: Annotated[
        bool, typer.Option("--retry-errors", help="Try failed videos again that have not changed.")
    ] = _DEFAULTS.retry_errors,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace what other settings, weights or videos made there.")
    ] = _DEFAULTS.overwrite,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress bar and no summary.")] = False,
    log: Annotated[
        Path | None, typer.Option(help="A file to which one line per video is added.", show_default=False)
    ] = None,
) -> None:
    """Write the features of videos to files.

    NAME.json beside the features of NAME.mp4 says how they were made, and which frames and seconds each row
    covers. Videos that fail are listed in errors.jsonl in the output folder. After a kill or an error, the
    same command continues with what is missing and ends with the same files; several may share one output
    folder. Exit code 1 means that videos failed, that the folder cannot be written to, or that memory or
    file descriptors ran out; 2 that the call was wrong or other features are there.
    """
    backbone = to_backbone(network, variant, non_local, weights)
    params = to_tvl1(tvl1_preset)
    check_flow_options(flow_from, flow_bound, streams, flow_preset, params)
    settings = _settings(
        flow_weights,
        streams=streams,
        mode=mode,
        features=features,
        network=backbone.network,
        variant=backbone.variant,
        non_local=backbone.non_local,
        normalization=normalization,
        stack=stack,
        interval=interval,
        step=step,
        fps=to_network_rate(fps),
        crops=crops,
        flip=flip,
        tail=tail,
        partial=partial,
        format=file_format,
        layout=layout,
        flow_preset=flow_preset,
        tvl1_params=params,
        flow_from=flow_from,
        flow_bound=flow_bound,
        device=device,
        dtype=dtype,
        workers=workers,
        retry_errors=retry_errors,
        overwrite=overwrite,
        shard=_part(shard),
        ray=ray,
    )
    for path in sources:
        if not os.path.exists(path):
            raise typer.BadParameter(f"{quoted(path)} is not there", param_hint="VIDEO|DIR|LIST.txt")
    if ray is None and streams != "flow":
        check_there(weights)
    if ray is None and flow_weights is not None:
        check_there(flow_weights, "--flow-weights")
    from fasti3d.extraction import ConflictError, OutputError
    from fasti3d.extraction import extract as run
    from fasti3d.weights import WeightsError

    models: dict[str, Any] = {"model": weights, "flow_model": flow_weights}
    if ray is None:  # a cluster has devices of its own
        if streams != "flow":
            models["model"] = open_model(weights, device, dtype, backbone=backbone)
        if flow_weights is not None:
            models["flow_model"] = open_model(flow_weights, device, dtype, stream="flow")
    try:
        with _logging(log), _bar(quiet) as progress:
            result = run(sources, out, **models, settings=settings, progress=progress)
    except ConflictError as error:
        raise typer.BadParameter(
            f"{error}: replace it with --overwrite, or write elsewhere", param_hint="--out"
        ) from None
    except (OutputError, WeightsError, ImportError) as error:
        output.fail(error)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    except KeyboardInterrupt:
        output.complain("warning", "interrupted; the same command continues where it stopped")
        raise
    for failure in result.failed[:_MAX_SHOWN]:
        output.complain("error", f"{quoted(failure.path)}: {failure.reason}")
    if (more := len(result.failed) - _MAX_SHOWN) > 0:
        output.complain("error", f"{more} more videos failed: {out / 'errors.jsonl'} lists them all")
    if not quiet:
        output.out.print(Text(output.printable(_summary(result, out))), soft_wrap=True)
        if result.network != I3D_NAME:
            output.out.print(Text(f"{result.network}, {in_words(result.preprocessing)}"), soft_wrap=True)
    raise typer.Exit(bool(result.failed))


def _settings(flow_weights: str | None, **options: Any) -> ExtractionSettings:
    """Return the settings, checked before weights are loaded; exit with code 2 if they are wrong."""
    try:
        check_streams(options["streams"], flow_weights, "--flow-weights")
        return ExtractionSettings(**options)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


def _part(shard: str | None) -> tuple[int, int] | None:
    if shard is None:
        return None
    match = _SHARD.fullmatch(shard)
    if match is None:
        raise typer.BadParameter(f"must be I/N, such as 1/4, got {shard!r}", param_hint="--shard")
    return int(match[1]), int(match[2])


def _summary(result: Extraction, out: Path) -> str:
    videos = f"{result.videos} video{'s' * (result.videos != 1)}"
    parts = [f"{result.done} of {videos} done in {result.seconds:.2f} s"]
    if result.already_done:
        parts.append(f"{result.already_done} done already")
    if result.failed:
        parts.append(f"{len(result.failed)} failed (see {out / 'errors.jsonl'})")
    rate = f", {result.rows / result.seconds:.2f} per second" if result.done else ""
    return f"{', '.join(parts)}; {result.rows} rows{rate}, in {out}"


@contextmanager
def _bar(quiet: bool) -> Iterator[Callable[[JobProgress], None] | None]:
    """Show one bar for the whole job on stderr; yield None if it is quiet or not a terminal."""
    if quiet or not output.err.is_terminal:
        yield None
        return
    columns = (
        TextColumn("{task.fields[videos]}"),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[failed]}", style="bold red"),
    )
    start = time.perf_counter()
    with Progress(*columns, console=output.err, transient=True) as bars:
        task = bars.add_task("", total=1.0, videos="", rate="", failed="")

        def report(progress: JobProgress) -> None:
            seconds = time.perf_counter() - start
            bars.update(
                task,
                completed=progress.share,
                videos=f"{progress.finished + progress.failed}/{progress.videos} videos",
                rate=f"{progress.rows / seconds:.1f} clips/s",
                failed=f"{progress.failed} failed" if progress.failed else "",
            )

        yield report


@contextmanager
def _logging(path: Path | None) -> Iterator[None]:
    """Add a line to a file for each video, with the time."""
    if path is None:
        yield
        return
    try:
        handler = logging.FileHandler(path, encoding="utf-8", errors="backslashreplace")
    except OSError as error:
        raise typer.BadParameter(
            f"{path} cannot be written: {error.strerror or error}", param_hint="--log"
        ) from None
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logger = logging.getLogger("fasti3d.extraction")
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        handler.close()
