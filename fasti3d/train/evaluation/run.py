"""Scores a data set: shares out its videos, keeps what is done, and writes the file of scores."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import get_args

import av
import numpy as np
import torch
from numpy.typing import NDArray

from fasti3d import weights as checkpoints
from fasti3d.choices import Stream
from fasti3d.extraction.identity import weights_digest
from fasti3d.extraction.local import default_workers
from fasti3d.flow.checks import check_flow_from
from fasti3d.i3d import I3D
from fasti3d.models import place
from fasti3d.runtime.devices import resolve_device, resolve_dtype
from fasti3d.train.data.video_dataset import Video, VideoDataset
from fasti3d.train.evaluation.checks import Classes, check_split, match_classes
from fasti3d.train.evaluation.errors import EvaluationError
from fasti3d.train.evaluation.parts import Part, PartsFolder, read_logits
from fasti3d.train.evaluation.ranks import Ranks, joined, own_device
from fasti3d.train.evaluation.scores import FORMAT, Scores, identity, read_scores, write_scores
from fasti3d.train.evaluation.scoring import FlowSource, Scorer
from fasti3d.train.evaluation.views import CLIP_FRAMES, FPS, Views, find_views
from fasti3d.train.evaluation.working import scored
from fasti3d.train.record import STREAMS, read_record, weights_of
from fasti3d.utils.naming import quoted
from fasti3d.utils.parsing import Json
from fasti3d.utils.resumable_output import differences, locked
from fasti3d.utils.targets import check_scores
from fasti3d.version import __version__
from fasti3d.video import VideoError
from fasti3d.video.state import video_state

# Called with the videos that are done, and of all: on rank 0, of its own share.
Progress = Callable[[int, int], object]
_NO_FLOW = FlowSource()


def evaluate(
    source: str | os.PathLike[str],
    dataset: VideoDataset,
    out: str | os.PathLike[str],
    *,
    views: str = "full",
    flow: FlowSource = _NO_FLOW,
    device: str = "auto",
    dtype: str = "auto",
    workers: int | None = None,
    overwrite: bool = False,
    any_split: bool = False,
    progress: Progress | None = None,
) -> Scores | None:
    """Test a network on a data set, and write the logits of every view of every video to a file.

    Started by ``torchrun``, or within a process group of torch, each process scores every n-th video, on a
    GPU of its own where there are several, and rank 0 writes the file: the same bytes for any number of
    processes, which share a disk. What is done is kept beside the file, in ``.NAME.parts``, until that is
    complete: the same call, with any number of processes, resumes after a kill. Videos that failed are then
    tried again. A complete file made by the same call is only read.

    Args:
        source: The folder of a run of ``fasti3d finetune``, which stands for its best weights, a weights
            file, or a name in ``fasti3d.weights.registry()``. The stream is that of its channels.
        dataset: The videos.
        out: The file of scores, .npz; its folder must exist. See ``fasti3d.train.evaluation.scores``.
        views: ``"full"``, all frames of a video, center 224x224, logits averaged over time, as in the paper;
            ``"1x1"``, the 64 frames in the middle, center 224x224; ``"10x3"``, 10 clips of 64 frames, evenly
            from the first to the last, by 3 crops of 256x256 along the longer side.
        flow: Where the flow stream's flow comes from.
        device, dtype: As for ``fasti3d.models.load_model``.
        workers: Videos in work at once per process; None is 2 on a CPU, up to 8 with a GPU.
        overwrite: Replace scores that were made otherwise.
        any_split: Allow weights that were trained on another split of the data set.
        progress: Called on rank 0.

    Returns:
        The scores on rank 0, None on the others.

    Raises:
        EvaluationError: The weights do not belong to the data set, or the file holds other scores.
        ScoresError: The file of scores that is there is damaged.
        fasti3d.weights.WeightsError: The weights cannot be downloaded or read.
        ValueError: An argument is out of range.
        MemoryError, torch.OutOfMemoryError, OSError: Memory, descriptors or disk ran out.

    Example:
        >>> test = open_dataset("ucf101", "UCF-101", subset="test", split=1)  # doctest: +SKIP
        >>> scores = evaluate("runs/rgb1", test, "rgb1.npz")  # doctest: +SKIP
        >>> measure(scores.averaged(), scores.labels).top1  # doctest: +SKIP
        0.956
    """
    chosen, target = find_views(views), check_scores(out)
    if workers is not None and workers < 1:
        raise ValueError(f"workers must be at least 1, got {workers}")
    group = joined()
    where = resolve_device(own_device(device))
    model, classes = _loaded(source, dataset, where, resolve_dtype(dtype, where), any_split)
    stream = _stream(model, chosen, flow)
    recipe = _recipe(model, dataset, stream, chosen, flow)
    work = _Work(Scorer(model, stream, chosen, flow), dataset, classes, recipe, target)
    with ExitStack() as held:
        group.led(lambda: work.begin(held, overwrite=overwrite))
        if not group.gathered(work.complete)[0]:
            work.score(group, workers or default_workers(where), progress)
            group.wait()
            group.led(work.finish)
        return read_scores(target) if group.leads else None


class _Work:
    """The scores of one data set, from the first video to the file.

    Attributes:
        complete: whether the file is there, which only the leading rank knows.
    """

    def __init__(
        self, scorer: Scorer, dataset: VideoDataset, classes: Classes, recipe: Json, target: Path
    ) -> None:
        self.complete = False
        self._scorer = scorer
        self._dataset = dataset
        self._classes = classes
        self._recipe = recipe
        self._target = target
        self._folder = PartsFolder(target.with_name(f".{target.name}.parts"))

    def begin(self, held: ExitStack, *, overwrite: bool) -> None:
        """Look at what is there, and prepare the folder of parts, which is locked until ``held`` closes.

        Raises:
            EvaluationError: It was made otherwise, or another process is at work.
        """
        if self._target.exists() and not overwrite:
            self._check_file()
            self.complete = True
            self._remove_rest()
            return
        found = self._folder.recipe()
        if found is not None and found != self._recipe and not overwrite:
            raise EvaluationError(
                f"{quoted(self._folder.path)} holds unfinished scores that were made otherwise "
                f"({differences(found, self._recipe)}): finish them, write elsewhere, or use --overwrite"
            )
        self._folder.path.mkdir(exist_ok=True)
        if not held.enter_context(locked(self._folder.lock, wait=False)):
            raise EvaluationError(
                f"another process is writing {quoted(self._target)}: wait for it, or write elsewhere"
            )
        self._folder.begin(self._recipe)

    def score(self, group: Ranks, workers: int, progress: Progress | None) -> None:
        """Score this rank's share of the videos that are not done; no other rank is waited for."""
        share = group.share(self._dataset.videos)
        done = self._done()
        todo = [video for video in share if video.key not in done]
        count = len(share) - len(todo)
        states = {video.key: _state(video) for video in todo}
        with self._folder.writer(group.rank) as writer:
            for one in scored(self._scorer, todo, workers):
                key = one.video.key
                logits = None if one.logits is None else one.logits.numpy()
                writer.add(key, states[key], logits, one.reason)
                count += 1
                if progress is not None and group.leads:
                    progress(count, len(share))

    def finish(self) -> None:
        """Write the file of what all ranks have done, and remove the parts.

        Raises:
            EvaluationError: A video is missing.
        """
        done, failed = self._done(), self._failed()
        videos = self._dataset.videos
        lost = [video.key for video in videos if video.key not in done and video.key not in failed]
        if lost:
            raise EvaluationError(
                f"{len(lost)} of {len(videos)} videos have no scores, such as {quoted(lost[0])}: they "
                "changed meanwhile, or the processes do not share a disk; the same command scores them"
            )
        shape = (self._scorer.views.count, len(self._classes.names))

        def logits() -> Iterator[NDArray[np.float32]]:
            for video in videos:
                part = done.get(video.key)
                yield np.full(shape, np.nan, np.float32) if part is None else read_logits(part, shape)

        write_scores(
            self._target,
            self._recipe,
            self._classes.names,
            [video.key for video in videos],
            self._labels(),
            ["" if video.key in done else failed[video.key].reason for video in videos],
            self._dataset.coverage.missing,
            logits(),
            shape[0],
        )
        self._folder.remove()

    def _remove_rest(self) -> None:
        """Remove the parts of a complete file, which a process that was killed at its very end has left."""
        if self._folder.path.is_dir() and self._folder.recipe() in (None, self._recipe):
            with locked(self._folder.lock, wait=False) as held:
                if held:
                    self._folder.remove()

    def _labels(self) -> list[int]:
        """The index in the logits of each video's class, -1 where it is not known."""
        places = self._classes.of_label
        return [-1 if video.label is None else places[video.label] for video in self._dataset.videos]

    def _done(self) -> dict[str, Part]:
        """The parts of videos that have scores, and have not changed since."""
        found = {part.key: part for part in self._folder.parts() if not part.reason}
        states = {video.key: _state(video) for video in self._dataset.videos if video.key in found}
        return {key: part for key, part in found.items() if part.state == states.get(key)}

    def _failed(self) -> dict[str, Part]:
        return {part.key: part for part in self._folder.parts() if part.reason}

    def _check_file(self) -> None:
        """Raise an EvaluationError unless the file holds the scores that are asked for."""
        found = read_scores(self._target)
        why = differences(found.header, self._recipe)
        keys = tuple(video.key for video in self._dataset.videos)
        if not why and (found.keys != keys or found.labels.tolist() != self._labels()):
            why = f"{len(found.keys)} videos there and {len(keys)} now, or other labels"
        if why:
            raise EvaluationError(
                f"{quoted(self._target)} holds scores that were made otherwise ({why}): replace them with "
                "--overwrite, or write elsewhere"
            )


def _loaded(
    source: str | os.PathLike[str],
    dataset: VideoDataset,
    device: torch.device,
    dtype: torch.dtype,
    any_split: bool,
) -> tuple[I3D, Classes]:
    """The network, in eval mode, and its classes; EvaluationError if they are not those of the data set."""
    public = str(source) in checkpoints.registry()
    file = source if public else weights_of(Path(source).expanduser())
    checkpoint = checkpoints.load(file)
    classes = match_classes(checkpoint.labels, checkpoint.num_classes, dataset)
    if not (public or any_split):
        check_split(read_record(file), dataset)
    model = I3D(checkpoint.num_classes, checkpoint.in_channels)
    checkpoints.load_into(model, checkpoint)
    return model.to(device, dtype).eval(), classes


def _stream(model: I3D, views: Views, flow: FlowSource) -> Stream:
    """The stream whose channels the network takes, with options that go with it."""
    stream = next((name for name in get_args(Stream) if STREAMS[name] == model.in_channels), None)
    if stream is None:
        raise EvaluationError(
            f"the weights take {model.in_channels} channels, and a network of 3 (RGB) or 2 (flow) is needed"
        )
    if stream == "rgb" and flow != _NO_FLOW:
        raise EvaluationError("options of flow are given, and the weights are of RGB: leave them out")
    check_flow_from(flow.folder, flow.bound, flowing=stream == "flow", preset=flow.preset, params=flow.params)
    if stream == "flow" and views.crops > 1 and flow.preset == "mediapipe":
        raise ValueError(
            "the flow preset mediapipe squashes whole frames to 224x224, so that views 10x3 have no crops: "
            "use the preset readme, or views full or 1x1"
        )
    result: Stream = stream
    return result


def _recipe(model: I3D, dataset: VideoDataset, stream: Stream, views: Views, flow: FlowSource) -> Json:
    """The header of the scores: all that their bytes depend on, beside the videos."""
    device, dtype = place(model)
    settings: Json = {"fps": FPS, "device": device.type, "dtype": str(dtype).removeprefix("torch.")}
    if views.clips:
        settings["frames"] = CLIP_FRAMES
    if stream == "flow":
        settings["flow_preset"] = flow.preset
        settings |= {"flow_bound": flow.bound} if flow.folder else {"tvl1": asdict(flow.params)}
    return {
        "format": FORMAT,
        "dataset": identity(dataset),
        "stream": stream,
        "views": views.name,
        "weights": weights_digest(model),
        "settings": settings,
        "versions": {"fasti3d": __version__, "torch": torch.__version__, "av": av.__version__},
    }


def _state(video: Video) -> Json:
    """The state of the video's file; empty if it is gone."""
    try:
        return video_state(video.path)
    except VideoError:
        return {}
