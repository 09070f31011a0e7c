"""The run itself: steps, checkpoints and evaluations, from wherever the last start of it ended."""

from __future__ import annotations

import warnings
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass, replace
from itertools import islice
from time import perf_counter
from typing import Any

import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from fasti3d.i3d import I3D
from fasti3d.sync_batch_norm import synchronize_batch_norms
from fasti3d.train.data.clips import ClipSample
from fasti3d.train.distributed import spread
from fasti3d.train.evaluation.ranks import Ranks
from fasti3d.train.journal import Journal
from fasti3d.train.learner import Learner, batch_norms, set_momentum
from fasti3d.train.loader import Batch, Clips, default_workers, read_batches
from fasti3d.train.memory import explained
from fasti3d.train.precise_bn import precise_statistics
from fasti3d.train.record import TrainingRecord
from fasti3d.train.run_folder import RunFolder
from fasti3d.train.schedule import learning_rate
from fasti3d.train.settings import Recipe, RefusedError, TrainingError, TrainingSettings
from fasti3d.train.state import Progress, check_finite, load_state, save_state, weights_file
from fasti3d.train.stopping import Stopping, StopRequest
from fasti3d.train.stream import ClipStream
from fasti3d.train.updating import Step, Updater
from fasti3d.utils.naming import quoted
from fasti3d.utils.parsing import Json
from fasti3d.utils.resources import is_resource_error

# Steps whose times tell how long the rest takes, but for the first, which tunes kernels and starts readers.
_RECENT = 20


@dataclass(frozen=True)
class Report:
    """How a run goes, after each of its steps.

    Attributes:
        step, steps: taken, and in all.
        loss, accuracy: of the step's clips.
        lr: of the step.
        data, compute: seconds of the step: waiting for clips, and all else.
        left: seconds that the steps to come will take, at the pace of the last 20.
        validation: accuracy of the last evaluation; None before the first.
    """

    step: int
    steps: int
    loss: float
    accuracy: float
    lr: float
    data: float
    compute: float
    left: float
    validation: float | None


@dataclass(frozen=True)
class Job:
    """What a run is made of.

    Attributes:
        settings, recipe: how it trains.
        clips: the training clips, by epoch and video.
        record: what to note in its weights; its steps and accuracy are filled in.
        source: where its first weights come from.
        environment, identity: what a checkpoint shares with the run that goes on from it: where it runs,
            of which a change is only noted, and the videos.
        validate: returns the accuracy of a network on held-out videos, on all processes; None for none.
        report: called after each step.
        note: called with what the user should know.
    """

    settings: TrainingSettings
    recipe: Recipe
    clips: Clips
    record: TrainingRecord
    source: str
    environment: Json
    identity: str
    validate: Callable[[I3D], float] | None = None
    report: Callable[[Report], object] = lambda report: None
    note: Callable[[str], object] = warnings.warn


class Trainer:
    """Trains a network.

    Args:
        model: to be trained, on the device, in place.
        job: what and how.
        folder: of the run, which holds its config.
        group: the processes of the run.
        device: of this one.
    """

    def __init__(self, model: I3D, job: Job, folder: RunFolder, group: Ranks, device: torch.device) -> None:
        settings, recipe = job.settings, job.recipe
        set_momentum(batch_norms(model), recipe.bn_momentum)
        if settings.sync_bn and group.world > 1:
            synchronize_batch_norms(model)
        self.model = model
        self.progress = Progress()
        self._job = job
        self._folder = folder
        self._group = group
        self._device = device
        self.updater = Updater(Learner(model, recipe.freeze), settings, recipe, group, device)
        self._average: AveragedModel | None = None
        if settings.ema is not None:
            self._average = AveragedModel(
                model, multi_avg_fn=get_ema_multi_avg_fn(settings.ema), use_buffers=True
            )
        self.validation: float | None = None
        self._saved = -1
        self._times: deque[float] = deque(maxlen=_RECENT)
        self._is_warm = False

    def resume(self) -> bool:
        """Go on from the folder's checkpoint; return whether there is one.

        Raises:
            TrainingError: it cannot be read, or is of other data.
        """
        state = load_state(self._folder)
        if state is None:
            return False
        if state["identity"] != self._job.identity:
            raise RefusedError(
                f"{quoted(self._folder.path)} holds a run on other videos or classes than the training list"
                " has now: name a new folder"
            )
        for name, before in state["environment"].items():
            now = self._job.environment.get(name)
            if now != before:
                self._job.note(
                    f"{name}: {before} before and {now} now: the weights will differ in their last bits"
                )
        self.progress = state["progress"]
        self._saved = self.progress.step
        self.model.load_state_dict(state["model"])
        self.updater.optimizer.load_state_dict(state["optimizer"])
        self.updater.scaler.load_state_dict(state["scaler"])
        if self._average is not None:
            self._average.load_state_dict(state["average"])
        self.validation = state["validation"]
        return True

    def run(self, stopping: Stopping) -> bool:
        """Train to the end, or to the signal to stop; return whether the end is reached.

        Raises:
            TrainingError: it cannot go on; the last checkpoint is kept.
        """
        journal = None
        if self._group.leads:
            journal = Journal(self._folder, self.progress.step, self.progress.evaluated)
        with closing(journal) if journal is not None else nullcontext():
            try:
                self._run(stopping, journal)
            except StopRequest:
                return False
        return True

    def try_step(self) -> tuple[float, float, ClipSample]:
        """Take one step, which a GPU has tuned its kernels in another one for.

        Returns:
            Seconds of waiting for clips and of all else, and a clip.
        """
        accumulate, lr = self._job.settings.accumulate, learning_rate(0, self._job.recipe)
        untimed = self._device.type == "cuda"
        with closing(self._batches(range(1 + untimed))) as batches:
            if untimed:
                self._update(lr, [part.samples for part in islice(batches, accumulate)], [])
            start = perf_counter()
            parts = [part.samples for part in islice(batches, accumulate)]
            fetched = perf_counter()
            self._update(lr, parts, [])
            return fetched - start, perf_counter() - fetched, parts[0][0]

    def _run(self, stopping: Stopping, journal: Journal | None) -> None:
        recipe, settings = self._job.recipe, self._job.settings
        if self._due():
            self._evaluate(stopping, journal)
        start = self.progress.step
        with closing(self._batches(range(start, recipe.steps))) as batches:
            while self.progress.step < recipe.steps:
                asked = self._step(batches, stopping, journal)
                done = self.progress.step
                if asked or self._due() or done % settings.save_every == 0:
                    self._save()
                if asked:
                    raise StopRequest
                if self._due():
                    self._evaluate(stopping, journal)

    def _due(self) -> bool:
        """Whether an evaluation comes before the next step."""
        done, recipe = self.progress.step, self._job.recipe
        at = done > 0 and (done % recipe.evaluate_every == 0 or done == recipe.steps)
        return at and self.progress.evaluated < done

    def _batches(self, steps: range) -> Generator[Batch, None, None]:
        settings = self._job.settings
        stream = ClipStream(
            len(self._job.clips),
            settings.seed,
            batch=settings.batch,
            accumulate=settings.accumulate,
            rank=self._group.rank,
            size=self._group.world,
            steps=steps,
        )
        workers = default_workers(self._group.world) if settings.workers is None else settings.workers
        return read_batches(self._job.clips, stream, workers)

    def _step(self, batches: Iterator[Batch], stopping: Stopping, journal: Journal | None) -> bool:
        """Take a step; return whether any process is asked to stop."""
        settings, recipe, progress = self._job.settings, self._job.recipe, self.progress
        start = perf_counter()
        parts = list(islice(batches, settings.accumulate))
        fetched = perf_counter()
        failed = {path: why for part in parts for path, why in part.failed if path not in progress.failed}
        lr = learning_rate(progress.step, recipe)
        taken = self._update(lr, [part.samples for part in parts], [stopping.requested, len(failed)])
        if taken.flags[1]:
            self._count_failed(failed)
        progress.step += 1
        if self._average is not None:
            self._average.update_parameters(self.model)
        done = perf_counter()
        if self._is_warm:
            self._times.append(done - start)
        self._is_warm = True
        if journal is not None:
            journal.add(
                step=progress.step,
                epoch=progress.step * recipe.global_batch / len(self._job.clips),
                lr=lr,
                loss=taken.loss,
                accuracy=taken.accuracy,
                grad_norm=taken.norm,
                data_seconds=fetched - start,
                compute_seconds=done - fetched,
            )
        recent = self._times or [done - start]
        left = (recipe.steps - progress.step) * sum(recent) / len(recent)
        self._job.report(
            Report(
                progress.step,
                recipe.steps,
                taken.loss,
                taken.accuracy,
                lr,
                fetched - start,
                done - fetched,
                left,
                self.validation,
            )
        )
        return taken.flags[0] > 0

    def _update(self, lr: float, parts: list[Any], flags: Sequence[int]) -> Step:
        try:
            return self.updater.step(self.progress.step, lr, parts, flags)
        except Exception as error:
            if isinstance(error, TrainingError) or not is_resource_error(error):
                raise
            shortage = error
        # After the block, so that what the step holds is free.
        averaged = self._average is not None
        raise explained(self.updater, parts[0], averaged=averaged, device=self._device) from shortage

    def _count_failed(self, failed: dict[str, str]) -> None:
        known = self.progress.failed
        for found in self._group.gathered(failed):
            for path, why in found.items():
                if path not in known:
                    self._job.note(f"{quoted(path)} {why}: another video's clip takes its place")
                known[path] = why
        count, share = len(self._job.clips), self._job.settings.max_bad
        if len(known) > share * count:
            path, why = next(iter(known.items()))
            raise TrainingError(
                f"{len(known)} of {count:,} training videos cannot be read, such as {quoted(path)}, which"
                f" {why}: replace them, or allow more than {share:.3g} with --max-bad"
            )

    def _save(self, weights: dict[str, bytes] | None = None) -> None:
        """Save the checkpoint, with weights beside it."""
        if weights is None and self._saved == self.progress.step:
            return
        self._saved = self.progress.step
        if not self._group.leads:
            return
        parts = {
            "identity": self._job.identity,
            "environment": self._job.environment,
            "settings": self._job.settings.as_json(),
            "classes": list(self._job.record.classes),
            "record": self._job.record.as_json(),
            "model": self.model.state_dict(),
            "optimizer": self.updater.optimizer.state_dict(),
            "scaler": self.updater.scaler.state_dict(),
            "average": None if self._average is None else self._average.state_dict(),
            "validation": self.validation,
        }
        check_finite(self.model.state_dict())
        save_state(self._folder, self.progress, parts, weights)

    def _evaluate(self, stopping: Stopping, journal: Journal | None) -> None:
        """Test the weights as they are now, and save them; the checkpoint of this step is on the disk."""
        job, progress = self._job, self.progress
        model = self.model
        if self._average is not None:
            assert isinstance(self._average.module, I3D)
            model = self._average.module
        spread((t for norm in batch_norms(model) for t in norm.buffers()), self._group)
        # Several processes wait for each other here: one that leaves alone would make the others fail.
        ending = stopping.at_once() if self._group.world == 1 else nullcontext()
        with ending, self._precise(model):
            accuracy = None if job.validate is None else job.validate(model)
            is_best = accuracy is not None and (progress.best is None or accuracy > progress.best[0])
            record = replace(job.record, steps=progress.step, accuracy=accuracy)
            data = weights_file(model, record, job.source)
        progress.evaluated = progress.step
        self.validation = accuracy
        if accuracy is not None and is_best:
            progress.best = accuracy, progress.step
        files = {self._folder.last.name: data}
        if is_best:
            files[self._folder.best.name] = data
        if job.settings.keep:
            files[self._folder.step_weights(progress.step).name] = data
        self._save(files)
        if journal is not None:
            for old in self._folder.kept_weights()[: -job.settings.keep or None]:
                old.unlink(missing_ok=True)
            journal.add(step=progress.step, validation_accuracy=accuracy)
            journal.draw(f"{job.record.dataset} {job.record.split or ''} {job.record.stream}".strip())

    def _precise(self, model: I3D) -> Any:
        """Statistics of the clips that would follow the run's last: the same at each start of the run."""
        job = self._job
        if not job.settings.precise_bn or job.recipe.freeze != "none":
            return nullcontext()
        per_batch = job.settings.batch * self._group.world
        count = min(job.settings.precise_bn, -(-len(job.clips) // per_batch))
        steps = range(job.recipe.steps, job.recipe.steps + -(-count // job.settings.accumulate))
        return precise_statistics(model, self._clips(steps, count), self._group, self.updater.half)

    def _clips(self, steps: range, count: int) -> Iterator[Tensor]:
        with closing(self._batches(steps)) as batches:
            for batch in islice(batches, count):
                yield self.updater.clips(batch.samples)
