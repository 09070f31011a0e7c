"""``fasti3d finetune``: train a network on a data set."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from fasti3d.cli import output
from fasti3d.cli.dataset_options import (
    Annotations,
    Dataset,
    Group,
    Holdout,
    ListFile,
    Prefix,
    Root,
    Split,
    dataset_errors,
    indexed,
)
from fasti3d.cli.options import Device, FlowBound, FlowFrom, TVL1Preset, option_errors, to_device
from fasti3d.cli.weights import check_there, fetch
from fasti3d.train.data.request import DatasetRequest
from fasti3d.train.run_folder import RunFolder
from fasti3d.train.settings import (
    SCRATCH,
    RefusedError,
    TrainingError,
    TrainingSettings,
    compared_settings,
)
from fasti3d.utils.naming import quoted
from fasti3d.utils.parsing import Json, brief, parse_json
from fasti3d.utils.resources import is_resource_error

if TYPE_CHECKING:
    from fasti3d.train.api import DryRun, TrainingResult
    from fasti3d.train.data import VideoDataset
    from fasti3d.train.loop import Report

# What a run is evaluated on while it trains.
_VALIDATION = {"ucf101": "test", "hmdb51": "test"}
_NOT_IN_CONFIG = ("out", "config", "dry_run")
_MAX_CONFIG = 1 << 20


def _configured(context: typer.Context, option: typer.CallbackParam, path: Path | None) -> Path | None:
    """Take the values of a config.json as defaults of the other options."""
    if path is None:
        return None
    with option_errors("--config"):
        try:
            with path.open("rb") as file:
                found = parse_json(file.read(_MAX_CONFIG))
        except ValueError as error:
            raise ValueError(f"{quoted(path)} is not JSON: {brief(error)}") from None
        values = found.get("command", found) if isinstance(found, dict) else None
        if not isinstance(values, dict):
            raise ValueError(f"{quoted(path)} must be an object of options, or the config.json of a run")
        known = {parameter.name for parameter in context.command.params} - set(_NOT_IN_CONFIG)
        if unknown := sorted(values.keys() - known):
            raise ValueError(f"{quoted(path)} has unknown options: {', '.join(map(brief, unknown[:3]))}")
    context.default_map = {
        name: value if isinstance(value, bool) else str(value)
        for name, value in values.items()
        if value is not None
    }
    return path


def finetune(
    context: typer.Context,
    dataset: Dataset,
    weights: Annotated[
        str,
        typer.Option(
            help="Where to start: a name of `fasti3d weights list`, a checkpoint's path, or `scratch`.",
            show_default=False,
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            metavar="RUN",
            help="The folder of the run, new or to go on.",
            show_default=False,
        ),
    ] = None,
    root: Root = None,
    split: Split = 1,
    annotations: Annotations = None,
    list_file: ListFile = None,
    validation_list: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="With list: the videos to evaluate on.", show_default=False),
    ] = None,
    prefix: Prefix = None,
    holdout: Holdout = None,
    group: Group = None,
    stream: Annotated[str, typer.Option(help="rgb or flow.")] = "rgb",
    flow_from: FlowFrom = None,
    flow_bound: FlowBound = 20.0,
    tvl1_preset: TVL1Preset = "i3d",
    steps: Annotated[int | None, typer.Option(help="Steps of the optimizer.", show_default="5000")] = None,
    epochs: Annotated[
        int | None, typer.Option(help="Passes over the training list, not --steps.", show_default=False)
    ] = None,
    batch: Annotated[int, typer.Option(help="Clips per device and forward pass.")] = 6,
    accumulate: Annotated[int, typer.Option(help="Forward passes per step.")] = 1,
    lr: Annotated[
        float | None,
        typer.Option(
            help="Learning rate.", show_default=".1 x clips per step / 384; 1 x with --freeze trunk"
        ),
    ] = None,
    momentum: Annotated[float, typer.Option(help="Of SGD.")] = 0.9,
    weight_decay: Annotated[float, typer.Option(help="Of SGD.")] = 1e-7,
    dropout: Annotated[float, typer.Option(help="Before the classifier.")] = 0.5,
    amp: Annotated[str, typer.Option(help="bf16, fp16, off, or auto: bf16 on a GPU.")] = "auto",
    clip_norm: Annotated[
        float | None, typer.Option(help="Max norm of the gradient.", show_default=False)
    ] = None,
    ema: Annotated[
        float | None,
        typer.Option(help="Evaluate and save an average of the weights of this decay.", show_default=False),
    ] = None,
    freeze: Annotated[
        str | None,
        typer.Option(
            help="trunk: train the classifier alone; bn: keep batch norm's statistics; none.",
            show_default="bn below 4 clips per device, else none",
        ),
    ] = None,
    sync_bn: Annotated[
        bool, typer.Option("--sync-bn", help="Statistics over the clips of all devices.")
    ] = False,
    bn_momentum: Annotated[
        float | None,
        typer.Option(help="Of the statistics.", show_default=".001 from Kinetics weights, else .1"),
    ] = None,
    precise_bn: Annotated[
        int,
        typer.Option(metavar="N", help="Compute statistics anew from N batches before each evaluation."),
    ] = 200,
    no_flip: Annotated[bool, typer.Option("--no-flip", help="Do not mirror clips.")] = False,
    new_head: Annotated[
        bool, typer.Option("--new-head", help="Replace the classifier, whatever classes it has.")
    ] = False,
    limit: Annotated[
        int | None,
        typer.Option(
            metavar="N", help="Try out: N videos of the list, and N steps by default.", show_default=False
        ),
    ] = None,
    max_bad: Annotated[str, typer.Option(help="Share of the videos that may fail.")] = "1%",
    seed: Annotated[int, typer.Option(help="Of order, crops, flips and dropout.")] = 0,
    keep: Annotated[int, typer.Option(help="Evaluations whose weights are kept.")] = 0,
    save_every: Annotated[int, typer.Option(help="Steps between checkpoints.")] = 100,
    evaluate_every: Annotated[
        int | None, typer.Option(help="Steps between evaluations.", show_default="a tenth of the run")
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(help="Processes that read clips; 0 for none.", show_default="fits the machine"),
    ] = None,
    device: Device = "auto",
    config: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Take options from a config.json; those on the command line win.",
            show_default=False,
            is_eager=True,
            callback=_configured,
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Index, take one step, say memory and time; write nothing.")
    ] = False,
) -> None:
    """Train a network on a data set.

    Without further options it trains as the paper does. The same command goes on where a run stopped;
    SIGTERM and SIGUSR1 save and end it with exit code 0. Several GPUs: `torchrun --nproc-per-node N -m
    fasti3d finetune ...`. Exit code 1 means that the run could not go on, 2 that the call was wrong.
    """
    with output.leading_rank_speaks():
        settings = _settings(context.params)
        if out is None and not dry_run:
            raise typer.BadParameter("name the folder of the run, or give --dry-run", param_hint="-o")
        if weights != SCRATCH:
            check_there(weights)
        if validation_list is not None and dataset != "list":
            raise typer.BadParameter("is for --dataset list: leave it out", param_hint="--validation-list")
        with dataset_errors():
            train = _request(context.params)
            held_out = _held_out_request(context.params)
        if out is not None and not dry_run:
            number = split if dataset in _VALIDATION else None
            processes = int(os.environ.get("WORLD_SIZE", "1"))
            with _refusals("-o"):
                RunFolder(out).check(compared_settings(dataset, number, weights, settings, processes))
        _run(context, train, held_out, out, weights, settings)


def _settings(values: Json) -> TrainingSettings:
    names = {field.name for field in fields(TrainingSettings)}
    given = {name: value for name, value in values.items() if name in names}
    given["max_bad"] = _share(values["max_bad"])
    try:
        return TrainingSettings(**given, flip=not values["no_flip"])
    except ValueError as error:
        name = str(error).split(" ", 1)[0]
        raise typer.BadParameter(
            str(error), param_hint=f"--{name.replace('_', '-')}" if name in names else None
        ) from None


def _share(text: str) -> float:
    """``1%`` or ``0.01``; NaN, which the settings refuse, for what is neither."""
    try:
        return float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        return float("nan")


def _request(values: Json, subset: str = "train", list_file: Path | None = None) -> DatasetRequest:
    return DatasetRequest(
        values["dataset"],
        values["root"],
        subset,
        values["split"],
        values["annotations"],
        list_file or values["list_file"],
        values["prefix"],
        values["holdout"],
        values["group"],
    )


@contextmanager
def _refusals(option: str | None = None) -> Iterator[None]:
    """Report what the call has wrong: exit code 2."""
    try:
        yield
    except RefusedError as error:
        raise typer.BadParameter(str(error), param_hint=option) from None


def _held_out_request(values: Json) -> DatasetRequest | None:
    """The videos to evaluate on: the test list, or validation videos where the data set may have them."""
    name, listed = values["dataset"], values["validation_list"]
    if name == "list" and listed is None:
        return None
    return _request(values, _VALIDATION.get(name, "val"), listed)


def _run(
    context: typer.Context,
    train: DatasetRequest,
    held_out: DatasetRequest | None,
    out: Path | None,
    weights: str,
    settings: TrainingSettings,
) -> None:
    from fasti3d.train.api import dry_run, finetune
    from fasti3d.train.data import open_dataset
    from fasti3d.weights import WeightsError, registry

    to_device(settings.device)
    with dataset_errors():
        dataset = open_dataset(**vars(train))
    validation = None if context.params["dry_run"] else _held_out(held_out)
    if weights in registry():
        fetch(weights)
    note = lambda text: output.complain("warning", text)  # noqa: E731
    common: dict[str, Any] = {"weights": weights, "settings": settings, "make_index": indexed, "note": note}
    try:
        with dataset_errors(), _refusals(), warnings.catch_warnings():
            if context.params["dry_run"]:
                _print_dry(dry_run(dataset, **common))
                return
            assert out is not None
            with _reporting() as report:
                result = finetune(
                    dataset,
                    out,
                    validation=validation,
                    command=_command(context.params),
                    report=report,
                    **common,
                )
    except (TrainingError, WeightsError, OSError) as error:
        if is_resource_error(error) and not isinstance(error, TrainingError):
            raise
        output.fail(error)
    except KeyboardInterrupt:
        output.complain("warning", "interrupted; the same command goes on from the last checkpoint")
        raise
    _print_result(result)


def _held_out(request: DatasetRequest | None) -> VideoDataset | None:
    """The videos to evaluate on, where there are any."""
    from fasti3d.train.data import DatasetError, open_dataset

    why: object = "give --validation-list"
    if request is not None:
        try:
            return open_dataset(**vars(request))
        except DatasetError as error:
            if request.name == "list":  # which was asked for
                with dataset_errors():
                    raise
            why = error
    output.complain("warning", f"the run is not evaluated, and has no best weights: {why}")
    return None


def _command(values: Json) -> Json:
    """The options that were given or have defaults, for config.json."""
    kept = {name: value for name, value in values.items() if name not in _NOT_IN_CONFIG}
    return {name: str(value) if isinstance(value, Path) else value for name, value in kept.items()}


@contextmanager
def _reporting() -> Iterator[Callable[[Report], None]]:
    """Show how a run goes: a bar on a terminal, and a line per evaluation."""
    columns = (
        TextColumn("{task.completed}/{task.total}"),
        BarColumn(),
        TextColumn("{task.description}", markup=False),
        TimeRemainingColumn(),
    )
    tested: float | None = None
    with Progress(*columns, console=output.err, transient=True, disable=not output.err.is_terminal) as bars:
        task = bars.add_task("", total=None)

        def report(found: Report) -> None:
            nonlocal tested
            told = (
                f"loss {found.loss:.3f}, accuracy {found.accuracy:.0%}, lr {found.lr:.2g}, "
                f"data {found.data:.2f} s, compute {found.compute:.2f} s"
            )
            bars.update(task, completed=found.step, total=found.steps, description=told)
            if found.validation is not None and found.validation != tested:
                tested = found.validation
                line = f"step {found.step - 1}: validation accuracy {tested:.2%}, {_time(found.left)} left"
                output.err.print(line, soft_wrap=True)

        yield report


def _print_result(result: TrainingResult) -> None:
    if result.failed:
        output.complain(
            "warning", f"{len(result.failed)} training videos cannot be read: others replace them"
        )
    where = quoted(result.folder)
    if not result.finished:
        _say(f"stopped after step {result.steps} by a signal; the same command goes on ({where})")
        return
    _say(f"{where}: {result.steps} steps")
    if result.accuracy is not None and result.best is not None:
        best, step = result.best
        _say(f"validation accuracy {result.accuracy:.2%}; best {best:.2%}, after step {step}")


def _print_dry(found: DryRun) -> None:
    from fasti3d.train.memory import size

    made, memory = found.recipe, found.memory
    _say(f"{found.videos:,} training videos, {found.unreadable:,} unreadable")
    _say(
        f"{made.steps:,} steps of {made.global_batch} clips, lr {made.lr:.4g}, freeze {made.freeze}, "
        f"batch norm momentum {made.bn_momentum:g}, amp {made.half or 'off'}"
    )
    _say(
        f"a step: data {found.data:.2f} s, compute {found.compute:.2f} s; the run: about "
        f"{_time(found.seconds)}, without evaluations"
    )
    _say(
        f"memory: about {size(memory.needed(found.batch))} of {size(memory.available)}; up to "
        f"{memory.fitting()} clips per forward pass fit"
    )


def _time(seconds: float) -> str:
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes:02} min"


def _say(text: str) -> None:
    output.out.print(Text(output.printable(text)), soft_wrap=True)
