"""``fasti3d evaluate``: how often a network is right on a data set."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer

from fasti3d.choices import Fusion, Views, check_choice
from fasti3d.cli import output
from fasti3d.cli.dataset_options import (
    Annotations,
    Group,
    Holdout,
    ListFile,
    OptionalDataset,
    Prefix,
    Root,
    Split,
    dataset_errors,
)
from fasti3d.cli.evaluation_output import print_report, print_table, warn_of_failures
from fasti3d.cli.options import (
    Device,
    Dtype,
    FlowBound,
    FlowPreset,
    Json,
    TVL1Preset,
    at_least,
    checked,
    to_device,
    to_dtype,
    to_tvl1,
)
from fasti3d.cli.weights import check_there, fetch
from fasti3d.flow.checks import check_bound
from fasti3d.train.data.request import DatasetRequest
from fasti3d.utils.naming import quoted
from fasti3d.utils.resources import is_resource_error
from fasti3d.utils.targets import check_scores

if TYPE_CHECKING:
    from fasti3d.flow.params import TVL1Params
    from fasti3d.train.data import VideoDataset
    from fasti3d.train.record import TrainingRecord

# Files of scores: a pair; three splits of one stream; of both.
_COUNTS = (2, 3, 6)
FlowFiles = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR",
        help="Read flow instead of computing it: DIR/KEY.flow of `fasti3d flow --cache`, or "
        "DIR/KEY/flow_x_00001.jpg and so on; KEY with or without its class.",
        show_default=False,
    ),
]


def evaluate(
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN|WEIGHTS",
            help="The folder of a run, a weights file, or a name of `fasti3d weights list`; with --fuse, the "
            "files of scores.",
            show_default=False,
        ),
    ],
    dataset: OptionalDataset = None,
    root: Root = None,
    split: Split = 1,
    subset: Annotated[
        str | None,
        typer.Option(
            help="train, val or test; by default test, of Kinetics val, of a folder what it holds out.",
            show_default=False,
        ),
    ] = None,
    annotations: Annotations = None,
    list_file: ListFile = None,
    prefix: Prefix = None,
    holdout: Holdout = None,
    group: Group = None,
    views: Annotated[
        str,
        typer.Option(
            help="full: all frames, as in the paper; 1x1: the 64 frames in the middle; 10x3: 10 clips by 3 "
            "crops.",
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
            callback=checked(check_scores),
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
    flow_weight: Annotated[
        float,
        typer.Option(
            help="With --fuse, what flow counts, RGB being 1.",
            callback=checked(lambda weight: check_bound(weight, "the weight")),
        ),
    ] = 1.0,
    flow_preset: FlowPreset = "readme",
    tvl1_preset: TVL1Preset = "i3d",
    flow_from: FlowFiles = None,
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
    same command resumes after a kill. Exit code 1 means that there is no result, 2 that the call was wrong; a
    video that fails counts as wrong.
    """
    with output.leading_rank_speaks():
        of_data = (root, subset, annotations, list_file, prefix, holdout, group)
        if fuse:
            given = (dataset, *of_data, flow_from, any_split or None)
            if any(value is not None for value in given):
                raise typer.BadParameter(
                    "only takes files of scores: leave out what is for testing a network", param_hint="--fuse"
                )
            _fuse(sources, out, fusion, flow_weight, ignore_errors, overwrite, as_json)
            return
        if len(sources) > 1:
            raise typer.BadParameter(
                f"must be one network, got {len(sources)}: with --fuse, several files of scores are added",
                param_hint="RUN|WEIGHTS",
            )
        if fusion != "logits" or flow_weight != 1.0:
            raise typer.BadParameter("must be given for --fusion and --flow-weight", param_hint="--fuse")
        if dataset is None:
            raise typer.BadParameter("is missing: the data set to test on", param_hint="--dataset")
        if out is None:
            raise typer.BadParameter("is missing: the file of scores", param_hint="--out")
        params = to_tvl1(tvl1_preset)
        check_there(sources[0], "RUN|WEIGHTS")
        record = _record(sources[0])
        with dataset_errors():
            chosen = subset or _default_subset(dataset, root, holdout)
            request = DatasetRequest(
                dataset, root, chosen, split, annotations, list_file, prefix, holdout, group
            )
            from fasti3d.train.data.open import open_request

            videos = open_request(request)
        _check_videos(record, videos, any_split)
        options = {"views": views, "device": device, "dtype": dtype, "workers": workers}
        options |= {"overwrite": overwrite, "any_split": any_split}
        flow = (flow_from, flow_bound, flow_preset, params)
        _evaluate(sources[0], videos, out, flow, options, ignore_errors, as_json)


def _record(source: str) -> TrainingRecord | None:
    """What the weights were trained on, as far as they say; exit with code 2 for a folder without weights."""
    from fasti3d.train.record import read_record, weights_of
    from fasti3d.weights import WeightsError, registry

    if source in registry():
        return None
    path = Path(source).expanduser()
    try:
        weights_of(path)
    except WeightsError as error:
        raise typer.BadParameter(str(error), param_hint="RUN|WEIGHTS") from None
    try:
        return read_record(path)
    except WeightsError as error:
        output.fail(error)


def _check_videos(record: TrainingRecord | None, videos: VideoDataset, any_split: bool) -> None:
    """Exit with code 2 for weights that were trained on videos of another split's test list.

    The library checks it too, but only after torch is loaded.
    """
    from fasti3d.train.evaluation.checks import check_split, is_training_list
    from fasti3d.train.evaluation.errors import EvaluationError

    try:
        if not any_split:
            check_split(record, videos)
    except EvaluationError as error:
        output.complain("error", error)
        raise typer.Exit(2) from None
    if is_training_list(record, videos):
        output.complain("warning", "the weights were trained on these videos: give --subset test or val")


def _default_subset(dataset: str, root: Path | None, holdout: float | None) -> str:
    """What is tested on: of Kinetics, whose test list may have no labels, val; of folders what they have."""
    if dataset.startswith("kinetics") or holdout is not None:
        return "val"
    if dataset == "folder" and root is not None:
        parts = [name for name in ("test", "val") if os.path.isdir(root / name)]
        return parts[0] if parts else "train"
    return "test"


def _evaluate(
    source: str,
    videos: VideoDataset,
    out: Path,
    flow: tuple[Path | None, float, Any, TVL1Params],
    options: dict[str, Any],
    ignore_errors: bool,
    as_json: bool,
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
        output.complain("error", error)
        raise typer.Exit(2) from None
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
        warn_of_failures(scores)
        output.fail(f"no video could be scored, of {len(scores.keys)}")
    metrics = measure(scores.averaged(), scores.labels, ignore_errors=ignore_errors)
    print_report(scores, metrics, out, as_json, videos.coverage.remarks)


def _fuse(
    files: list[str],
    out: Path | None,
    fusion: str,
    flow_weight: float,
    ignore_errors: bool,
    overwrite: bool,
    as_json: bool,
) -> None:
    if len(files) not in _COUNTS:
        raise typer.BadParameter(
            f"takes the files of two streams, or of one or two streams of three splits, got {len(files)}",
            param_hint="--fuse",
        )
    for file in files:
        if not os.path.exists(file):
            raise typer.BadParameter(f"{quoted(file)} is not there", param_hint="--fuse")
    if out is not None and out.exists() and not overwrite:
        raise typer.BadParameter(
            f"{quoted(out)} is there: replace it with --overwrite, or write elsewhere", param_hint="--out"
        )
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
            print_table(table(groups, **how, ignore_errors=ignore_errors), as_json)
            return
        (pair,) = groups.values()
        both = fuse(*pair, **how)
    except ScoresError as error:
        output.fail(error)
    except (EvaluationError, ValueError) as error:
        output.complain("error", error)
        raise typer.Exit(2) from None
    if out is not None:
        save_scores(out, both)
    print_report(both, measure(both.averaged(), both.labels, ignore_errors=ignore_errors), out, as_json)
