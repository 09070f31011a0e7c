"""Whether weights belong to a data set: its classes in their order, and none of its training videos."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest

from fasti3d.train.data.video_dataset import VideoDataset
from fasti3d.train.evaluation.errors import EvaluationError
from fasti3d.train.record import TrainingRecord

_SHOWN = 3
# Copies of Kinetics' lists differ in quotes, and in "_" for blanks.
_SPELLINGS = str.maketrans({"_": " ", '"': None})


def check_classes(labels: Sequence[str] | None, num_classes: int | None, classes: Sequence[str]) -> None:
    """Check that the network's classes are the data set's, in the same order.

    Args:
        labels: The class names that the weights bring, in the order of the logits, if they do.
        num_classes: The classes of the network.
        classes: Those of the data set.

    Raises:
        EvaluationError: They are not; it names the first differences.
    """
    if labels is None:
        if num_classes != len(classes):
            raise EvaluationError(
                f"the weights are of {num_classes} classes (without names), and the data set has "
                f"{len(classes)}: choose weights that were trained on it, or the data set that they are of"
            )
        return
    differences = [
        (i, mine, theirs)
        for i, (mine, theirs) in enumerate(zip_longest(labels, classes))
        if mine is None or theirs is None or _spelled(mine) != _spelled(theirs)
    ]
    if not differences:
        return
    shown = "; ".join(
        f"class {i} is {_named(mine)} in the weights and {_named(theirs)} in the data set"
        for i, mine, theirs in differences[:_SHOWN]
    )
    more = len(differences) - _SHOWN
    counts = f"{len(labels)} classes and {len(classes)}" if len(labels) != len(classes) else "the same number"
    if counts == "the same number" and sorted(labels) == sorted(classes):
        counts = "the same names in another order"
    raise EvaluationError(
        f"the classes of the weights are not those of the data set ({counts}): {shown}"
        + (f"; and {more} more" if more > 0 else "")
        + ": choose weights that were trained on it, or the list of classes that they were trained with"
    )


def check_split(record: TrainingRecord | None, dataset: VideoDataset) -> None:
    """Check that the weights were not trained on another split, whose training videos are in this test list.

    Raises:
        EvaluationError: They were.
    """
    if record is None or record.dataset != dataset.name or record.split == dataset.split:
        return
    raise EvaluationError(
        f"the weights were trained on split {record.split} of {record.dataset}, whose training list holds "
        f"videos of the {dataset.subset} list of split {dataset.split}: the accuracy would be far too high. "
        f"Give --split {record.split}, or --any-split if this is meant"
    )


def _spelled(name: str) -> str:
    return " ".join(name.translate(_SPELLINGS).casefold().split())


def _named(name: str | None) -> str:
    return "missing" if name is None else repr(name)
