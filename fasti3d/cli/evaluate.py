"""``fasti3d evaluate``: how often a network is right on a data set."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer
from rich.table import Table
from rich.text import Text

from fasti3d.choices import Fusion, Views, check_choice
from fasti3d.cli import output
from fasti3d.cli.options import (
    Device,
    Dtype,
    FlowBound,
    FlowFrom,
    FlowPreset,
    Json,
    TVL1Preset,
    at_least,
    checked,
    option_errors,
    to_device,
    to_dtype,
    to_tvl1,
)
from fasti3d.cli.weights import check_there, fetch
from fasti3d.utils.naming import quoted
from fasti3d.utils.resources import is_resource_error

if TYPE_CHECKING:
    from fasti3d.flow.params import TVL1Params
    from fasti3d.train.data import VideoDataset
    from fasti3d.train.evaluation import Metrics, Scores, SplitTable

_MAX_SHOWN = 3
_WORST = 5
# What is tested on by default; Kinetics' test list may have no labels.
_SUBSETS = {"kinetics400": "val", "kinetics600": "val", "kinetics700": "val", "folder": "val"}
_ROWS = {"rgb": "RGB", "flow": "flow", "rgb+flow": "two-stream"}


def _check_out(out: Path) -> None:
    if out.suffix != ".npz":
        raise ValueError(f"the name of a file of scores must end in .npz, got {quoted(out)}")
    if not out.parent.is_dir():
        raise ValueError(f"{quoted(out.parent)} is not a folder: create it, or write elsewhere")
    if out.is_dir():
        raise ValueError(f"{quoted(out)} is a folder: name a file")
    if not os.access(out.parent, os.W_OK | os.X_OK):
        raise ValueError(f"this user has no permission to write to {quoted(out.parent)}: write elsewhere")


def evaluate(
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN|WEIGHTS",
            help="The folder of a run, a weights file, or a name of `fasti3d weights list`; with --fuse, files "
            "of scores.",
            show_default=False,
        ),
    ],
    dataset: Annotated[str | None, typer.Option(help="ucf101, hmdb51, ...")] = None,
    root: Annotated[Path | None, typer.Option(help="The folder of the videos.")] = None,
    subset: Annotated[str | None, typer.Option(help="train, val or test.")] = None,
    split: Annotated[int, typer.Option(help="Of ucf101 and hmdb51: 1, 2 or 3.")] = 1,
    views: Annotated[
        str,
        typer.Option(
            help="full: all frames, as in the paper; 1x1: the 64 frames in the middle; 10x3: 10 clips by 3 crops.",
            callback=checked(lambda name: check_choice("views", name, get_args(Views))),
        ),
    ] = "full",
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            metavar="FILE.npz",
            help="The file of scores; FILE.classes.csv, FILE.confusion.npy and .png go beside it.",
            show_default=False,
            callback=checked(_check_out),
        ),
    ] = None,
    fuse: Annotated[
        bool,
        typer.Option(
            "--fuse",
            help="Add the scores of two streams; of three splits, print the paper's table beside them.",
        ),
    ] = False,
    fusion: Annotated[
        str,
        typer.Option(
            help="With --fuse, what is added: logits or probabilities.",
            callback=checked(lambda name: check_choice("fusion", name, get_args(Fusion))),
        ),
    ] = "logits",
    flow_weight: Annotated[float, typer.Option(help="With --fuse, what flow counts, RGB being 1.")] = 1.0,
    flow_preset: FlowPreset = "readme",
    tvl1_preset: TVL1Preset = "i3d",
    flow_from: FlowFrom = None,
    flow_bound: FlowBound = 20.0,
    ignore_errors: Annotated[
        bool, typer.Option("--ignore-errors", help="Leave out failed videos, which otherwise count as wrong.")
    ] = False,
    any_split: Annotated[
        bool, typer.Option("--any-split", help="Allow weights that were trained on another split.")
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace scores that were made otherwise.")
    ] = False,
    workers: Annotated[
        int | None,
        typer.Option(
            help="Videos in work at once; the default fits the device.",
            show_default=False,
            callback=at_least(1),
        ),
    ] = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
    as_json: Json = False,
) -> None:
    """Test a network on a data set, or add the scores of two streams.

    Under torchrun the videos are shared out; the file of scores is the same for any number of processes. The
    same command goes on after a kill. Exit code 1 means that there is no result, 2 that the call was wrong; a
    video that fails counts as wrong.
    """
    with output.leading_rank_speaks():
        if fuse:
            given = {"--dataset": dataset, "--root": root, "--subset": subset, "--flow-from": flow_from}
            _refuse(given, "is for testing a network, and --fuse only adds scores")
            _fuse(sources, out, fusion, flow_weight, ignore_errors, as_json)
            return
        _refuse({"--flow-weight": flow_weight != 1.0, "--fusion": fusion != "logits"}, "needs --fuse")
        if len(sources) > 1:
            raise typer.BadParameter(
                f"must be one network, got {len(sources)}: with --fuse, several files of scores are added",
                param_hint="RUN|WEIGHTS",
            )
        for option, value in (("--dataset", dataset), ("--out", out)):
            if value is None:
                raise typer.BadParameter("is needed", param_hint=option)
        assert dataset is not None and out is not None
        params = to_tvl1(tvl1_preset)
        check_there(sources[0], "RUN|WEIGHTS")
        videos = _opened(dataset, root, subset or _SUBSETS.get(dataset, "test"), split)
        _evaluate(
            sources[0],
            videos,
            out,
            (flow_from, flow_bound, flow_preset, params),
            ignore_errors,
            as_json,
            views=views,
            device=device,
            dtype=dtype,
            workers=workers,
            overwrite=overwrite,
            any_split=any_split,
        )


def _refuse(given: dict[str, object], why: str) -> None:
    """Exit with code 2 for an option that does not go with the others."""
    for option, value in given.items():
        if value:
            raise typer.BadParameter(why, param_hint=option)


def _opened(name: str, root: Path | None, subset: str, split: int) -> VideoDataset:
    from fasti3d.train.data import DatasetError, open_dataset

    try:
        return open_dataset(name, root, subset=subset, split=split)
    except DatasetError as error:
        raise typer.BadParameter(str(error)) from None


def _evaluate(
    source: str,
    videos: VideoDataset,
    out: Path,
    flow: tuple[Path | None, float, str, TVL1Params],
    ignore_errors: bool,
    as_json: bool,
    **options: Any,
) -> None:
    from fasti3d.train.evaluation import EvaluationError, FlowSource, ScoresError, evaluate, measure
    from fasti3d.weights import WeightsError, registry

    to_dtype(options["dtype"], to_device(options["device"]))
    if source in registry():
        fetch(source)
    folder, bound, preset, params = flow
    try:
        with output.progress_bar("videos") as advance:
            scores = evaluate(
                source,
                videos,
                out,
                flow=FlowSource(folder, bound, preset, params),
                progress=advance,
                **options,
            )
    except (EvaluationError, ValueError) as error:
        raise typer.BadParameter(str(error)) from None
    except (ScoresError, WeightsError, OSError) as error:
        if is_resource_error(error):
            raise
        output.fail(error)
    except KeyboardInterrupt:
        output.complain("warning", "interrupted; the same command continues where it stopped")
        raise
    if scores is None:
        return
    if all(scores.failed):
        _complain(scores)
        output.fail(f"no video could be scored, of {len(scores.keys)}")
    metrics = measure(scores.averaged(), scores.labels, ignore_errors=ignore_errors)
    _report(scores, metrics, out, as_json, videos.coverage.remarks)


def _fuse(
    files: list[str], out: Path | None, fusion: str, flow_weight: float, ignore_errors: bool, as_json: bool
) -> None:
    with option_errors("--flow-weight"):
        if not 0 < flow_weight < float("inf"):
            raise ValueError(f"must be above 0, got {flow_weight}")
    for file in files:
        if not os.path.exists(file):
            raise typer.BadParameter(f"{quoted(file)} is not there", param_hint="FILE.npz")
    from fasti3d.train.evaluation import (
        EvaluationError,
        ScoresError,
        fuse,
        grouped,
        measure,
        read_scores,
        table,
    )
    from fasti3d.train.evaluation.scores import save_scores

    how: dict[str, Any] = {"fusion": fusion, "flow_weight": flow_weight}
    try:
        groups = grouped([read_scores(file) for file in files])
        if len(groups) > 1:
            if out is not None:
                raise EvaluationError(
                    "scores of three splits are not added up: leave --out out, or give one split"
                )
            _print_table(table(groups, **how, ignore_errors=ignore_errors), as_json)
            return
        (pair,) = groups.values()
        both = fuse(*pair, **how)
    except ScoresError as error:
        output.fail(error)
    except (EvaluationError, ValueError) as error:
        raise typer.BadParameter(str(error)) from None
    if out is not None:
        save_scores(out, both)
    _report(both, measure(both.averaged(), both.labels, ignore_errors=ignore_errors), out, as_json)


def _report(
    scores: Scores,
    metrics: Metrics | None,
    out: Path | None,
    as_json: bool,
    remarks: tuple[str, ...] = (),
) -> None:
    """Print how well it went, and write the files beside the scores."""
    from fasti3d.train.evaluation.report import as_json as to_json
    from fasti3d.train.evaluation.report import write_report

    written = [] if out is None else [out]
    if out is not None and metrics is not None:
        try:
            written += write_report(out, scores.classes, metrics)
        except OSError as error:
            output.fail(error)
    _complain(scores)
    if as_json:
        print(json.dumps(to_json(scores, metrics)))
        return
    for text in remarks:
        output.out.print(Text(output.printable(text), style="dim"), soft_wrap=True)
    _print_metrics(scores, metrics)
    if written:
        names = ", ".join(quoted(path) for path in written)
        output.out.print(Text(output.printable(f"written: {names}"), style="dim"), soft_wrap=True)


def _complain(scores: Scores) -> None:
    """Warn of videos that are missing or failed: of each kind some, and how many there are."""
    failed = [f"{quoted(key)}: {why}" for key, why in zip(scores.keys, scores.failed, strict=True) if why]
    missing = [f"{quoted(key)}: is listed, and has no file" for key in scores.missing]
    for texts, kind in ((missing, "listed videos have no file"), (failed, "videos failed")):
        for text in texts[:_MAX_SHOWN]:
            output.complain("warning", text)
        if (more := len(texts) - _MAX_SHOWN) > 0:
            output.complain("warning", f"{more} more {kind}")


def _print_metrics(scores: Scores, metrics: Metrics | None) -> None:
    stream, settings = _ROWS.get(scores.header["stream"], scores.header["stream"]), scores.header["settings"]
    how = "mean of logits over time and views"
    if "fusion" in settings:
        how = f"sum of {settings['fusion']}, flow by {settings['flow_weight']:g}"
    output.out.print(
        Text(
            f"{output.printable(scores.title)}: {stream}, views {scores.header['views']}, {how}", style="bold"
        ),
        soft_wrap=True,
    )
    found = f"{len(scores.keys):,} of {scores.listed:,} listed videos found"
    failures = sum(map(bool, scores.failed))
    if metrics is None:
        output.out.print(
            f"{found}, {failures:,} failed; the list has no labels, so there is no accuracy", soft_wrap=True
        )
        return
    counted = "count as wrong" if metrics.failed == failures else "left out"
    low, high = metrics.interval
    lines = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    lines.add_row(
        "top-1",
        f"{metrics.top1:.2%}",
        f"95 % interval {low:.2%} to {high:.2%}; {metrics.videos:,} videos, {found}"
        + (f", {failures:,} failed ({counted})" if failures else ""),
    )
    lines.add_row(f"top-{metrics.top}", f"{metrics.top5:.2%}", "")
    lines.add_row(
        "mean of classes",
        f"{metrics.mean_class:.2%}",
        f"{metrics.classes_with_videos} of {len(scores.classes)} classes have videos",
    )
    output.out.print(lines)
    for i, j, count in metrics.confusions(_WORST):
        text = f"{scores.classes[i]} taken for {scores.classes[j]}: {count} of {metrics.per_class[i, 0]}"
        output.out.print(Text(output.printable(text), style="dim"), soft_wrap=True)


def _print_table(found: SplitTable, as_json: bool) -> None:
    """Print the accuracies of three splits, with the paper's rows beside them."""
    means = {row: found.mean(row) for row in found.top1}
    if as_json:
        rows = {row: {"splits": list(values), "mean": means[row]} for row, values in found.top1.items()}
        print(
            json.dumps({"dataset": found.dataset, "splits": found.splits, "top1": rows, "paper": found.paper})
        )
        return
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), title_justify="left")
    table.add_column(found.dataset)
    for split in found.splits:
        table.add_column(f"split {split}", justify="right")
    table.add_column("mean", justify="right", style="bold")
    for before in found.paper:
        table.add_column(f"paper, {before}", justify="right")
    for row, values in found.top1.items():
        paper = [f"{rows[row]:.1f} %" for rows in found.paper.values() if row in rows]
        table.add_row(_ROWS.get(row, row), *(f"{value:.2%}" for value in values), f"{means[row]:.2%}", *paper)
    output.out.print(table)
    if found.paper:
        output.out.print(
            "paper: Carreira & Zisserman, arXiv 1705.07750v3, table 5, mean of three splits, all frames"
            + ("" if found.views == ("full",) else f"; here views {'+'.join(found.views)}"),
            style="dim",
            soft_wrap=True,
        )
