"""What a training run says about its weights, kept in their files: which data, which classes, how long."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from fasti3d.utils.parsing import Json, brief
from fasti3d.weights.errors import WeightsError
from fasti3d.weights.metadata import Metadata, read_metadata

# The weights of a run folder, in the order in which they are looked for.
BEST, LAST = "best.safetensors", "last.safetensors"
STREAMS = {"rgb": 3, "flow": 2}
_KINDS: dict[str, tuple[type, ...]] = {
    "dataset": (str,),
    "subset": (str,),
    "split": (int, type(None)),
    "stream": (str,),
    "network": (str,),
    "steps": (int,),
    "listed": (int,),
    "found": (int,),
    "accuracy": (float, int, type(None)),
    "version": (str,),
}


@dataclass(frozen=True)
class TrainingRecord:
    """What weights were trained on.

    Attributes:
        dataset: ``ucf101``, ``hmdb51``, ``kinetics400``, ``list``, ``folder``...
        subset: of the training videos, ``train``.
        split: the number of the split, where the data set has several; None otherwise.
        stream: ``rgb`` or ``flow``.
        classes: the class names in logit order.
        network: ``i3d``.
        steps: optimizer steps that the weights have seen.
        listed: training videos in the list, of which ``found`` were there.
        accuracy: top-1 of the validation after these steps, from 0 to 1; None without one.
        version: of fasti3d.
    """

    dataset: str
    subset: str
    split: int | None
    stream: str
    classes: tuple[str, ...]
    network: str = "i3d"
    steps: int = 0
    listed: int = 0
    found: int = 0
    accuracy: float | None = None
    version: str = ""

    def as_json(self) -> Json:
        """Return the record for a weights file, whose labels are the classes."""
        record = asdict(self)
        del record["classes"]
        return record


def read_record(path: str | os.PathLike[str]) -> TrainingRecord | None:
    """Return what weights were trained on; None where they do not say.

    No tensor is read, and torch is not imported.

    Args:
        path: A weights file, or the folder of a run, which stands for its best weights, or for its last
            where there are no best.

    Raises:
        fasti3d.weights.WeightsError: The file cannot be read or is damaged, or the folder has no weights.

    Example:
        >>> read_record("runs/ucf101-rgb-1").split  # doctest: +SKIP
        1
    """
    file = weights_of(Path(path))
    metadata = read_metadata(file)
    try:
        return None if metadata is None else record_of(metadata)
    except WeightsError as error:
        raise WeightsError(f"{brief(file, 300)}: {error}") from error


def weights_of(path: Path) -> Path:
    """Return the weights file of a run folder, or the path itself where it is not a folder.

    Raises:
        fasti3d.weights.WeightsError: The folder has no weights.
    """
    if not path.is_dir():
        return path
    for name in (BEST, LAST):
        if (path / name).is_file():
            return path / name
    raise WeightsError(
        f"{brief(path, 300)} holds neither {BEST} nor {LAST}: name the folder of a run of `fasti3d finetune`,"
        " or a weights file"
    )


def record_of(metadata: Metadata) -> TrainingRecord | None:
    """Return the record in a file's metadata, or None.

    Raises:
        fasti3d.weights.WeightsError: It is damaged.
    """
    training, classes = metadata.training, metadata.labels
    if training is None:
        return None
    known = {field.name for field in fields(TrainingRecord)} - {"classes"}
    values: dict[str, Any] = {key: value for key, value in training.items() if key in known}
    for name, value in values.items():
        if not isinstance(value, _KINDS[name]) or isinstance(value, bool):
            raise _damaged(f"{name} is {brief(repr(value))}")
    missing = {"dataset", "subset", "split", "stream"}.difference(values)
    if missing or classes is None:
        raise _damaged(f"it lacks {', '.join(sorted(missing)) or 'labels'}")
    if values["stream"] not in STREAMS:
        raise _damaged(f"stream is {brief(repr(values['stream']))}, neither rgb nor flow")
    return TrainingRecord(**values, classes=classes)


def _damaged(why: str) -> WeightsError:
    return WeightsError(f"its record of training is damaged: {why}")
