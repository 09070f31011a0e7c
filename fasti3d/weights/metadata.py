"""What fasti3d notes in the metadata of its safetensors files: origin, class names and training."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fasti3d.utils.parsing import Json, brief, parse_json
from fasti3d.utils.plain_files import open_regular
from fasti3d.utils.resources import is_resource_error
from fasti3d.weights.errors import WeightsError
from fasti3d.weights.labels import KINETICS_400, KINETICS_400_LABELS

# The one metadata key of our safetensors files. Its value is JSON, because safetensors writes
# several keys in a random order, and the same weights should give the same file.
_KEY = "fasti3d"
MAX_HEADER = 16 << 20
_OF_RESNETS = ("variant", "non_local", "preprocessing")


@dataclass(frozen=True)
class Metadata:
    """What a file of fasti3d says about its weights.

    Attributes:
        format, source, sha256: of the weights' origin, as in ``Checkpoint``; empty where it does not say.
        labels: class names in logit order, where they are known.
        training: what a training run recorded (``fasti3d.train.record``), as JSON.
        variant, non_local: of an I3D-ResNet; empty for others.
        preprocessing: how clips are prepared, by name; empty where it does not say.
    """

    format: str = ""
    source: str = ""
    sha256: str = ""
    labels: tuple[str, ...] | None = None
    training: Json | None = None
    variant: str = ""
    non_local: str = ""
    preprocessing: str = ""

    def encoded(self) -> dict[str, str]:
        """The metadata for safetensors."""
        record: Json = {"format": self.format, "source": self.source, "sha256": self.sha256}
        if self.labels is not None:
            record["labels"] = KINETICS_400 if self.labels == KINETICS_400_LABELS else list(self.labels)
        if self.training is not None:
            record["training"] = self.training
        record |= {key: value for key in _OF_RESNETS if (value := getattr(self, key))}
        return {_KEY: json.dumps(record)}


def parse_metadata(metadata: Mapping[str, Any]) -> Metadata | None:
    """Return what a file's metadata says; None for files of others.

    Raises:
        WeightsError: it is damaged.
    """
    if _KEY not in metadata:
        return None
    try:
        record = parse_json(metadata[_KEY])
    except (TypeError, ValueError) as error:
        raise _damaged(str(error)) from error
    if not isinstance(record, dict):
        return None
    training = record.get("training")
    if training is not None and not isinstance(training, dict):
        raise _damaged(f"training must be an object, got {brief(repr(training))}")
    origin = {key: str(record.get(key, "")) for key in ("format", "source", "sha256", *_OF_RESNETS)}
    return Metadata(**origin, labels=_labels(record.get("labels")), training=training)


def read_metadata(path: Path) -> Metadata | None:
    """Return what the header of a safetensors file says, without its tensors; None for any other file.

    Raises:
        WeightsError: it cannot be read, or is damaged; names the file.
        MemoryError, OSError: memory or file descriptors ran out.
    """
    try:
        with open_regular(path) as file:
            length = int.from_bytes(file.read(8), "little")
            header = file.read(length) if length <= MAX_HEADER else b""
    except (OSError, ValueError) as error:
        if is_resource_error(error):
            raise
        why = getattr(error, "strerror", None) or error
        raise WeightsError(f"{brief(path, 300)} cannot be read: {why}") from error
    try:
        content = parse_json(header) if header.startswith(b"{") else None
    except ValueError:
        return None
    metadata = content.get("__metadata__") if isinstance(content, dict) else None
    try:
        return parse_metadata(metadata) if isinstance(metadata, dict) else None
    except WeightsError as error:
        raise WeightsError(f"{brief(path, 300)}: {error}") from error


def _labels(noted: Any) -> tuple[str, ...] | None:
    if noted is None:
        return None
    if noted == KINETICS_400:
        return KINETICS_400_LABELS
    if not isinstance(noted, list) or not all(isinstance(name, str) and _printable(name) for name in noted):
        raise _damaged(f"labels must be a list of names or {KINETICS_400!r}, got {brief(repr(noted))}")
    return tuple(noted)


def _printable(name: str) -> bool:
    """Whether a name can be written out again: folders' names may hold escaped bytes, but no other halves."""
    try:
        os.fsencode(name)
    except UnicodeEncodeError:
        return False
    return True


def _damaged(why: str) -> WeightsError:
    return WeightsError(f"its {_KEY!r} metadata is damaged: {why}")
