"""The accuracy of a network on one clip per video, during its training."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fasti3d.choices import Stream
from fasti3d.extraction.local import default_workers
from fasti3d.i3d import I3D
from fasti3d.models import evaluating, place
from fasti3d.train.data import Index, VideoDataset
from fasti3d.train.evaluation.metrics import measure, wilson
from fasti3d.train.evaluation.ranks import ranks
from fasti3d.train.evaluation.scoring import FlowSource, Scorer
from fasti3d.train.evaluation.views import FPS, VIEWS
from fasti3d.train.evaluation.working import scored


@dataclass(frozen=True)
class Accuracy:
    """How well a network does on a data set.

    Attributes:
        top1, top5: the shares of videos whose class is the best, and among the five best, 0 to 1.
        mean_class: the mean of the classes' own accuracies, over those that have videos.
        loss: the mean cross-entropy in nats of the videos that have logits; NaN without any.
        videos: the labeled videos.
        failed: those of them that cannot be read, which count as wrong.
        interval: the 95 % interval of ``top1``.
    """

    top1: float
    top5: float
    mean_class: float
    loss: float
    videos: int
    failed: int
    interval: tuple[float, float]


def quick(
    model: I3D,
    dataset: VideoDataset,
    index: Index | None = None,
    *,
    stream: Stream = "rgb",
    flow: FlowSource | None = None,
    workers: int | None = None,
) -> Accuracy:
    """Test a network on the clip of 64 frames in the middle of each video, center 224x224.

    Nothing is written. In a process group of torch each rank tests every n-th video, and all get the same
    result, which does not depend on their number; each rank must call it, with the same weights.

    Args:
        model: The network, outside of DistributedDataParallel (its ``.module``); it is put into eval mode
            for the test, and runs where and in the dtype it is.
        dataset: The videos.
        index: Of the data set at 25 frames per second, which spares looking at its videos again; those that
            it knows cannot be read are not tried.
        stream: ``"rgb"`` or ``"flow"``.
        flow: Where the flow stream's flow comes from; None computes it.
        workers: Videos in work at once; None is 2 on a CPU, up to 8 with a GPU.

    Raises:
        ValueError: The data set has no labels, or another number of classes than the network.
        MemoryError, torch.OutOfMemoryError, OSError: Memory or descriptors ran out.

    Example:
        >>> quick(model, open_dataset("ucf101", root, subset="test", split=1)).top1  # doctest: +SKIP
        0.913
    """
    videos = [video for video in dataset.videos if video.label is not None]
    if not videos:
        raise ValueError(f"{dataset.name} {dataset.subset} has no labeled videos, of which accuracy is told")
    if model.num_classes not in (None, len(dataset.classes)):
        raise ValueError(f"model has {model.num_classes} classes, and the data set {len(dataset.classes)}")
    group = ranks()
    unreadable = {} if index is None else index.unreadable
    readable = [video for video in group.share(videos) if video.key not in unreadable]
    own: dict[str, np.ndarray] = {}
    with evaluating(model):
        scorer = Scorer(model, stream, VIEWS["1x1"], flow or FlowSource())
        known = index.info if index is not None and index.fps == FPS else None
        at_once = workers or default_workers(place(model)[0])
        for one in scored(scorer, readable, at_once, known):
            if one.logits is not None:
                own[one.video.key] = one.logits[0].numpy()
    found = {key: logits for part in group.gathered(own) for key, logits in part.items()}
    return _accuracy(found, [(video.key, video.label) for video in videos], len(dataset.classes))


def _accuracy(found: dict[str, np.ndarray], wanted: list[tuple[str, int | None]], classes: int) -> Accuracy:
    scores = np.full((len(wanted), classes), np.nan, np.float32)
    labels = np.array([label for _, label in wanted], np.int64)
    losses = []
    for i, (key, label) in enumerate(wanted):
        if key in found:
            scores[i] = found[key]
            exact = found[key].astype(np.float64) - found[key].max()
            losses.append(np.log(np.exp(exact).sum()) - exact[label])
    metrics = measure(scores, labels)
    assert metrics is not None
    return Accuracy(
        top1=metrics.top1,
        top5=metrics.top5,
        mean_class=metrics.mean_class,
        loss=float(np.mean(losses)) if losses else float("nan"),
        videos=metrics.videos,
        failed=metrics.failed,
        interval=wilson(metrics.right, metrics.videos),
    )
