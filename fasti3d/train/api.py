"""``fasti3d.train.finetune``: a network trained on a data set, in a folder from which it can go on."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch

from fasti3d.flow.params import TVL1Params
from fasti3d.i3d import I3D
from fasti3d.train.data.clips import TrainingClips
from fasti3d.train.data.index import Index, index
from fasti3d.train.data.video_dataset import VideoDataset
from fasti3d.train.distributed import from_first, joined
from fasti3d.train.evaluation import FlowSource, quick
from fasti3d.train.evaluation.ranks import Ranks
from fasti3d.train.loop import Job, Report, Trainer
from fasti3d.train.memory import Memory, measured
from fasti3d.train.record import TrainingRecord
from fasti3d.train.run_folder import RunFolder
from fasti3d.train.settings import (
    MIN_STATISTICS_BATCH,
    Recipe,
    RefusedError,
    TrainingSettings,
    compared_settings,
    recipe,
)
from fasti3d.train.start import Start, start_from
from fasti3d.train.state import environment, videos_digest
from fasti3d.train.stopping import stopping_on_signals
from fasti3d.utils.parsing import Json, brief
from fasti3d.version import __version__
from fasti3d.weights import Spec

_DEFAULTS = TrainingSettings()


@dataclass(frozen=True)
class TrainingResult:
    """What a start of a run came to.

    Attributes:
        folder: of the run.
        steps: taken so far, over all starts.
        finished: whether all are; otherwise a signal ended this start, and the same call goes on.
        accuracy: of the last evaluation, 0 to 1; None without one.
        best: accuracy and step of the best evaluation.
        failed: what was wrong with training videos that could not be read, by path.
    """

    folder: Path
    steps: int
    finished: bool
    accuracy: float | None
    best: tuple[float, int] | None
    failed: dict[str, str]


@dataclass(frozen=True)
class DryRun:
    """What one step shows of a run.

    Attributes:
        recipe: what the settings amount to.
        videos, unreadable: training videos that can be read, and that cannot.
        data, compute: seconds of the step: waiting for clips, and all else.
        seconds: that the steps of the whole run would take at this pace, without evaluations.
        memory: what a step takes.
        batch: clips per forward pass.
    """

    recipe: Recipe
    videos: int
    unreadable: int
    data: float
    compute: float
    seconds: float
    memory: Memory
    batch: int


def finetune(
    dataset: VideoDataset,
    out: str | os.PathLike[str],
    *,
    weights: Spec,
    settings: TrainingSettings = _DEFAULTS,
    validation: VideoDataset | None = None,
    command: Json | None = None,
    make_index: Callable[[VideoDataset], Index] = index,
    report: Callable[[Report], object] = lambda report: None,
    note: Callable[[str], object] = warnings.warn,
) -> TrainingResult:
    """Train a network on a data set, or go on with the run in ``out``.

    The folder gets ``last.pt`` (all that the run needs to go on), ``last.safetensors`` and
    ``best.safetensors`` (weights with labels, for ``I3D(weights=...)``), ``config.json``, ``log.csv`` and
    ``curve.png``. SIGTERM and SIGUSR1 save and end it; the same call then goes on, to the same weights. Under
    ``torchrun`` all processes train together. ``best`` is the best evaluation on ``validation``:
    where that is the test list, as of UCF-101, report ``last``.

    Args:
        dataset: the training list.
        out: the folder of the run.
        weights: what ``fasti3d.I3D`` takes, or ``"scratch"`` to start from random numbers.
        settings: how to train.
        validation: videos to evaluate on; None does not.
        command: noted in ``config.json`` beside the settings.
        make_index: indexes a data set, on the first process.
        report: called after each step, on the first process.
        note: called with what the user should know, on the first process.

    Raises:
        TrainingError: the folder is of another run, the weights are of other classes or of the other stream,
            the loss is not finite, memory or disk do not suffice.
        fasti3d.train.data.DatasetError: too many videos cannot be read.
        fasti3d.weights.WeightsError: the weights cannot be read.

    Example:
        >>> train = open_dataset("ucf101", "UCF-101", split=1)  # doctest: +SKIP
        >>> finetune(train, "run", weights="kinetics400-rgb").best  # doctest: +SKIP
    """
    folder = RunFolder(out)
    held_out = None if validation is None else aligned(validation, dataset)
    with stopping_on_signals() as stopping, joined(settings.device) as (group, device):
        given = os.fspath(weights) if isinstance(weights, str | os.PathLike) else type(weights).__name__
        compared = compared_settings(dataset.name, dataset.split, given, settings, group.world)
        folder.check(compared)
        note = note if group.leads else _silent
        prepared = _prepare(dataset, weights, settings, make_index, group, device, note)
        job = replace(
            prepared.job,
            validate=None if held_out is None else _validator(held_out, settings, make_index, group),
            report=report if group.leads else _silent,
        )
        if group.leads:
            folder.write_config(
                {
                    "command": command or {},
                    "settings": compared,
                    "resolved": asdict(job.recipe),
                    "classes": list(dataset.classes),
                    "weights": job.source,
                    "environment": job.environment,
                }
            )
        with folder.claimed() if group.leads else nullcontext():
            trainer = Trainer(prepared.model, job, folder, group, device)
            trainer.resume()
            finished = trainer.run(stopping)
    progress = trainer.progress
    return TrainingResult(
        folder.path, progress.step, finished, trainer.validation, progress.best, dict(progress.failed)
    )


def dry_run(
    dataset: VideoDataset,
    *,
    weights: Spec,
    settings: TrainingSettings = _DEFAULTS,
    make_index: Callable[[VideoDataset], Index] = index,
    note: Callable[[str], object] = warnings.warn,
) -> DryRun:
    """Index a data set, take one step, and say what a run would take; nothing is written.

    Args and errors are those of ``finetune``.

    Example:
        >>> dry_run(train, weights="kinetics400-rgb").memory.fitting()  # doctest: +SKIP
    """
    with joined(settings.device) as (group, device):
        note = note if group.leads else _silent
        made = _prepare(dataset, weights, settings, make_index, group, device, note)
        trainer = Trainer(made.model, made.job, RunFolder(os.devnull), group, device)
        data, compute, sample = trainer.try_step()
        memory = measured(trainer.updater, sample, averaged=settings.ema is not None, device=device)
    return DryRun(
        recipe=made.job.recipe,
        videos=len(made.job.clips),
        unreadable=made.unreadable,
        data=data,
        compute=compute,
        seconds=made.job.recipe.steps * (data + compute),
        memory=memory,
        batch=settings.batch,
    )


@dataclass(frozen=True)
class _Prepared:
    """A run that can start: its network on the device, and the rest."""

    model: I3D
    job: Job
    unreadable: int


def _prepare(
    dataset: VideoDataset,
    weights: Spec,
    settings: TrainingSettings,
    make_index: Callable[[VideoDataset], Index],
    group: Ranks,
    device: torch.device,
    note: Callable[[str], object],
) -> _Prepared:
    start = start_from(weights, dataset.classes, settings)
    found = from_first(lambda: make_index(limited(dataset, settings.limit)), group)
    clips = TrainingClips(
        found,
        stream=settings.stream,
        seed=settings.seed,
        flip=settings.flip,
        max_bad=settings.max_bad,
        flow_from=settings.flow_from,
        flow_bound=settings.flow_bound,
        tvl1_params=TVL1Params.preset(settings.tvl1_preset),
    )
    made = recipe(
        settings,
        videos=len(clips),
        processes=group.world,
        on_gpu=device.type == "cuda",
        from_kinetics=start.from_kinetics,
    )
    for text in notes(dataset, start, settings, made):
        note(text)
    coverage = dataset.coverage
    record = TrainingRecord(
        dataset=dataset.name,
        subset=dataset.subset,
        split=dataset.split,
        stream=settings.stream,
        classes=dataset.classes,
        listed=coverage.listed,
        found=coverage.found,
        version=__version__,
    )
    job = Job(
        settings,
        made,
        clips,
        record,
        start.source,
        environment=environment(group.world, settings.batch, device),
        identity=videos_digest((video.key for video in clips.videos), dataset.classes),
        note=note,
    )
    return _Prepared(start.model.to(device), job, len(found.unreadable))


def notes(dataset: VideoDataset, start: Start, settings: TrainingSettings, made: Recipe) -> Iterator[str]:
    """Yield what the user should know of a run before it starts."""
    if start.has_new_head:
        yield f"the classifier of {len(dataset.classes)} classes starts untrained"
    if settings.freeze is None and made.freeze == "bn":
        yield (
            f"batch norm's statistics are frozen, as {settings.batch} clips per device are fewer than"
            f" {MIN_STATISTICS_BATCH}: --freeze none trains with them, --sync-bn takes those of all devices"
        )
    before = start.record
    if before is not None and before.dataset == dataset.name and before.split != dataset.split:
        yield (
            f"these weights were trained on split {before.split} of {dataset.name}, which shares videos with"
            f" the test list of split {dataset.split}"
        )


def aligned(validation: VideoDataset, dataset: VideoDataset) -> VideoDataset:
    """Return validation videos under the classes of a training list, of which a list may lack the last.

    Raises:
        RefusedError: they have other classes, or no labels.
    """
    classes = validation.classes
    if classes != dataset.classes[: len(classes)]:
        names = zip(classes, (*dataset.classes, *[None] * len(classes)), strict=False)
        place, (here, there) = next((i, pair) for i, pair in enumerate(names) if pair[0] != pair[1])
        raise RefusedError(
            f"the validation videos have other classes than the training list: number {place + 1} of"
            f" {len(classes)} is {brief(here)}, and there {'missing' if there is None else brief(there)}"
        )
    if all(video.label is None for video in validation.videos):
        raise RefusedError("the validation videos have no labels: give a list that has them")
    return replace(validation, classes=dataset.classes)


def limited(dataset: VideoDataset, limit: int | None) -> VideoDataset:
    """Return a data set of at most ``limit`` of the videos, spread over the list."""
    count = len(dataset.videos)
    if limit is None or limit >= count:
        return dataset
    return replace(dataset, videos=tuple(dataset.videos[i * count // limit] for i in range(limit)))


def _validator(
    dataset: VideoDataset,
    settings: TrainingSettings,
    make_index: Callable[[VideoDataset], Index],
    group: Ranks,
) -> Callable[[I3D], float]:
    found = from_first(lambda: make_index(limited(dataset, settings.limit)), group)
    folder = None if settings.flow_from is None else Path(settings.flow_from)
    flow = FlowSource(folder, settings.flow_bound, params=TVL1Params.preset(settings.tvl1_preset))

    def validate(model: I3D) -> float:
        return quick(model, found.dataset, found, stream=settings.stream, flow=flow).top1

    return validate


def _silent(_: object) -> None:
    """What the processes but the first report and note."""
