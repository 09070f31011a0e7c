"""Whether weights belong to a data set: its classes in their order, and none of its training videos."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest
from typing import NamedTuple

from fasti3d.train.data.video_dataset import VideoDataset
from fasti3d.train.evaluation.errors import EvaluationError
from fasti3d.train.record import TrainingRecord
from fasti3d.weights.labels import KINETICS_400_LABELS

_SHOWN = 3
# Copies of Kinetics' lists differ in quotes, and in "_" for blanks.
_SPELLINGS = str.maketrans({"_": " ", '"': None})


class Classes(NamedTuple):
    """The classes of the logits.

    Attributes:
        names: in the order of the logits.
        of_label: the index in ``names`` of each class of the data set.
    """

    names: tuple[str, ...]
    of_label: tuple[int, ...]


def match_classes(labels: Sequence[str] | None, num_classes: int, dataset: VideoDataset) -> Classes:
    """Check that the network's classes are the data set's, in the same order.

    A list without class names, whose labels are numbers, may lack the last of them. And the published
    networks know Kinetics' classes by name: lists of some of these will do for them.

    Args:
        labels: The class names that the weights bring, in the order of the logits, if they do.
        num_classes: The classes of the network.
        dataset: The videos.

    Raises:
        EvaluationError: They are not; it names the first differences.
    """
    classes = dataset.classes
    numbered = dataset.name == "list" and classes == tuple(map(str, range(len(classes))))
    if (labels is None or numbered) and (
        num_classes == len(classes) or (numbered and num_classes > len(classes))
    ):
        names = labels or (*classes, *map(str, range(len(classes), num_classes)))
        return Classes(tuple(names), tuple(range(len(classes))))
    if labels is None or numbered:
        raise EvaluationError(
            f"the weights are of {num_classes} classes, and the data set has {len(classes)}: choose weights "
            "that were trained on it, or the list that they were trained with"
        )
    places = {_spelled(name): i for i, name in enumerate(labels)}
    if tuple(labels) == KINETICS_400_LABELS and all(_spelled(name) in places for name in classes):
        return Classes(tuple(labels), tuple(places[_spelled(name)] for name in classes))
    differences = [
        f"class {i} is {_named(mine)} in the weights and {_named(theirs)} in the data set"
        for i, (mine, theirs) in enumerate(zip_longest(labels, classes))
        if mine is None or theirs is None or _spelled(mine) != _spelled(theirs)
    ]
    if differences:
        more = len(differences) - _SHOWN
        raise EvaluationError(
            f"the classes of the weights are not those of the data set ({_how(labels, classes)}): "
            + "; ".join(differences[:_SHOWN])
            + (f"; and {more} more" if more > 0 else "")
            + ": choose weights that were trained on it, or the class list that they were trained with"
        )
    return Classes(classes, tuple(range(len(classes))))


def _how(labels: Sequence[str], classes: Sequence[str]) -> str:
    """How two different lists of classes differ."""
    if len(labels) != len(classes):
        return f"{len(labels)} and {len(classes)}"
    if sorted(map(_spelled, labels)) == sorted(map(_spelled, classes)):
        return "the same names in another order"
    return "other names"


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


def is_training_list(record: TrainingRecord | None, dataset: VideoDataset) -> bool:
    """Whether the weights were trained on these very videos."""
    mine = (dataset.name, dataset.subset, dataset.split)
    return record is not None and (record.dataset, record.subset, record.split) == mine


def _spelled(name: str) -> str:
    return " ".join(name.translate(_SPELLINGS).casefold().split())


def _named(name: str | None) -> str:
    return "missing" if name is None else repr(name)
