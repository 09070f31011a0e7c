"""The network that training starts from, with a classifier of the data set's classes."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from fasti3d.i3d import I3D
from fasti3d.train.data.matching import normalized
from fasti3d.train.record import STREAMS, TrainingRecord, record_of
from fasti3d.train.settings import SCRATCH, RefusedError, TrainingSettings
from fasti3d.utils.parsing import brief
from fasti3d.weights import KINETICS_400_LABELS, Checkpoint, Spec, load, load_into, registry
from fasti3d.weights.metadata import Metadata


@dataclass(frozen=True)
class Start:
    """Where a run starts.

    Attributes:
        model: on the CPU, with the data set's classes.
        source: of its weights, for people.
        from_kinetics: whether they were trained on Kinetics last, so that their statistics are worth keeping.
        has_new_head: whether the classifier is untrained.
        record: what they were trained on, if they say so.
    """

    model: I3D
    source: str
    from_kinetics: bool
    has_new_head: bool
    record: TrainingRecord | None = None


def start_from(weights: Spec, classes: tuple[str, ...], settings: TrainingSettings) -> Start:
    """Build the network of a run.

    Weights of a pre-training get a new classifier where their classes are others: public ones, those of a run
    on Kinetics, and any with 400 classes. All others, such as those of a run on the user's own classes, must
    have the data set's classes, or ``settings.new_head``.

    Args:
        weights: what ``fasti3d.weights.load`` reads, or ``"scratch"`` for random numbers.
        classes: the data set's, in its order.
        settings: of the run; its seed is that of the random numbers.

    Raises:
        RefusedError: the weights are of the other stream, or of other classes.
        fasti3d.weights.WeightsError: they cannot be read.
    """
    channels = STREAMS[settings.stream]
    torch.manual_seed(settings.seed)
    if isinstance(weights, str) and weights == SCRATCH:
        model = I3D(len(classes), channels, dropout=settings.dropout)
        model.labels = classes
        return Start(model, "random numbers", from_kinetics=False, has_new_head=True)
    checkpoint = load(weights)
    if checkpoint.in_channels != channels:
        other = next((name for name, n in STREAMS.items() if n == checkpoint.in_channels), "unknown")
        raise RefusedError(
            f"the weights of {brief(checkpoint.source, 300)} take {checkpoint.in_channels} channels"
            f" ({other}), and stream {settings.stream} has {channels}: give weights of"
            f" {settings.stream}, or train --stream {other}"
        )
    record = _record(checkpoint)
    renew = _needs_head(checkpoint, record, classes, settings.new_head)
    model = I3D(checkpoint.num_classes, channels, dropout=settings.dropout)
    load_into(model, checkpoint)
    if renew:
        model.replace_logits(len(classes))
    model.labels = classes
    return Start(model, checkpoint.source, _of_kinetics(checkpoint, record), renew, record)


def _record(checkpoint: Checkpoint) -> TrainingRecord | None:
    return record_of(Metadata(labels=checkpoint.labels, training=checkpoint.training))


def _of_kinetics(checkpoint: Checkpoint, record: TrainingRecord | None) -> bool:
    if record is not None:
        return record.dataset.startswith("kinetics")
    return checkpoint.labels == KINETICS_400_LABELS


def _needs_head(
    checkpoint: Checkpoint, record: TrainingRecord | None, classes: tuple[str, ...], wanted: bool
) -> bool:
    """Whether the classifier is replaced; RefusedError where it is of others and nothing says that it may."""
    names = checkpoint.labels
    if wanted:
        return True
    if names is None and checkpoint.num_classes == len(classes):
        return False  # files of others have no names
    if names is not None and list(map(normalized, names)) == list(map(normalized, classes)):
        return False
    published = any(checkpoint.source == entry.source for entry in registry().values())
    unknown = record is None and checkpoint.num_classes == len(KINETICS_400_LABELS)
    if published or unknown or _of_kinetics(checkpoint, record):
        return True
    raise RefusedError(
        f"the weights of {brief(checkpoint.source, 300)} have {_difference(checkpoint, classes)}: train on"
        " the classes they have, or give --new-head to replace their classifier by an untrained one"
    )


def _difference(checkpoint: Checkpoint, classes: tuple[str, ...]) -> str:
    """How the classes of a checkpoint are not those of the data set."""
    names = checkpoint.labels
    if names is None or len(names) != len(classes):
        return f"{checkpoint.num_classes} classes, and the data set has {len(classes)}"
    if set(names) == set(classes):
        kind = "the data set's classes in another order"
    else:
        kind = "other classes than the data set"
    place = next(i for i, name in enumerate(names) if name != classes[i])
    return f"{kind} (number {place + 1} is {brief(names[place])} there and {brief(classes[place])} here)"
