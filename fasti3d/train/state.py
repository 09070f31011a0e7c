"""The checkpoint that a run goes on from, and the weights beside it."""

from __future__ import annotations

import hashlib
import io
import os
import pickle
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from fasti3d.i3d import I3D
from fasti3d.train.record import TrainingRecord
from fasti3d.train.run_folder import RunFolder
from fasti3d.train.settings import TrainingError
from fasti3d.utils.files import StagedFiles
from fasti3d.utils.naming import quoted
from fasti3d.utils.parsing import Json, first_line
from fasti3d.utils.plain_files import open_regular
from fasti3d.utils.resources import is_resource_error
from fasti3d.weights.metadata import Metadata

_FORMAT = 1


@dataclass
class Progress:
    """How far a run is.

    Attributes:
        step: steps taken.
        evaluated: the step of the last evaluation; -1 before the first.
        best: accuracy and step of the best evaluation; None before the first.
        failed: what was wrong with videos that could not be read, by path.
    """

    step: int = 0
    evaluated: int = -1
    best: tuple[float, int] | None = None
    failed: dict[str, str] = field(default_factory=dict)


def videos_digest(keys: Iterable[str], classes: Iterable[str]) -> str:
    """Return what tells one training list from another: its videos and classes, in order."""
    text = "\n".join([*classes, "", *keys])
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def save_state(
    folder: RunFolder, progress: Progress, parts: dict[str, Any], weights: dict[str, bytes] | None = None
) -> None:
    """Save a checkpoint, and weights by the names of their files, which replace the old ones together.

    Args:
        folder: of the run.
        progress: how far it is.
        parts: state dicts and plain values, without code.
        weights: the content of further files.

    Raises:
        TrainingError: the disk is full, or cannot be written to; the old files are kept.
    """
    buffer = io.BytesIO()  # a full disk is then an OSError, which torch would not say
    torch.save({"format": _FORMAT, "progress": vars(progress), **parts}, buffer)
    try:
        with StagedFiles() as files:
            for name, data in {**(weights or {}), folder.state.name: buffer.getvalue()}.items():
                with files.open(folder.path / name) as file:
                    file.write(data)
            files.publish()
    except OSError as error:
        raise TrainingError(
            f"the checkpoint of step {progress.step} cannot be saved in {quoted(folder.path)}"
            f" ({error.strerror or error}); the one before it is kept: free some space, then run the same"
            " command again"
        ) from error


def load_state(folder: RunFolder) -> dict[str, Any] | None:
    """Read the checkpoint of a run; None if there is none. No code in it is run.

    Raises:
        TrainingError: it cannot be read.
    """
    try:
        with open_regular(folder.state) as file:
            state = torch.load(file, map_location="cpu", weights_only=True)
        if not isinstance(state, dict) or state.get("format") != _FORMAT:
            raise ValueError("it is not a checkpoint of this version of fasti3d")
        state["progress"] = Progress(**state["progress"])
    except FileNotFoundError:
        return None
    except (
        OSError,
        ValueError,
        KeyError,
        TypeError,
        RuntimeError,
        EOFError,
        pickle.UnpicklingError,
    ) as error:
        if is_resource_error(error):
            raise
        raise TrainingError(
            f"{quoted(folder.state)} cannot be read ({first_line(error)}): move the folder away and start"
            " again, or train on from its weights with --weights"
        ) from error
    return state


def weights_file(model: I3D, record: TrainingRecord, source: str) -> bytes:
    """Return the content of a safetensors file of a network, with its labels and what it was trained on.

    ``source`` says where the weights came from that training started with.

    Raises:
        TrainingError: a tensor has values that are not finite.
    """
    from safetensors.torch import save

    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    check_finite(tensors)
    digest = hashlib.sha256()
    for tensor in tensors.values():
        digest.update(tensor.numpy().tobytes())
    split = "" if record.split is None else f" split {record.split}"
    origin = f"{source}, trained on {record.dataset}{split}"
    noted = Metadata("pytorch-i3d", origin, digest.hexdigest(), record.classes, record.as_json())
    return save(tensors, noted.encoded())


def check_finite(tensors: dict[str, Tensor]) -> None:
    """Raise a TrainingError for weights that are not finite, so that they do not replace good ones."""
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise TrainingError(
                f"{name} is no longer finite: the last checkpoint is kept; train with a smaller --lr,"
                " --clip-norm or --amp off"
            )


def environment(processes: int, batch: int, device: torch.device) -> Json:
    """Return what the last bits of a run depend on beside its settings."""
    from fasti3d.version import __version__

    return {
        "fasti3d": __version__,
        "torch": str(torch.__version__),
        "processes": processes,
        "clips per forward pass": batch,
        "threads": torch.get_num_threads(),
        "device": device.type if device.type == "cpu" else torch.cuda.get_device_name(device),
        "isa": os.environ.get("FASTI3D_ISA", "auto"),
    }
