"""Weights of torchvision's video ResNets: recognized by their names and shapes, checked, saved."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from fasti3d.utils.files import write_atomically
from fasti3d.video_resnet.reference import on_meta
from fasti3d.weights.checkpoint import Source, classes_of, contents_of, digest, problems_of, standard
from fasti3d.weights.errors import WeightsError
from fasti3d.weights.labels import KINETICS_400_LABELS
from fasti3d.weights.metadata import Metadata, parse_metadata
from fasti3d.weights.published import check_named, identify

_FORMAT = "torchvision"
_STEM, _CLASSIFIER = "stem.0.weight", "fc.weight"
# A convolution of the second stage, by whose name and frames the networks differ.
_FACTORIZED, _WHOLE = "layer2.0.conv1.0.0.weight", "layer2.0.conv1.0.weight"


@dataclass(frozen=True)
class VideoResNetCheckpoint:
    """Weights in torchvision's names.

    Attributes:
        state_dict: float32 tensors on the CPU (``num_batches_tracked`` int64).
        network: ``r3d-18``, ``mc3-18`` or ``r2plus1d-18``, which names and shapes tell.
        source: where the weights come from.
        sha256: of the file.
        num_classes: classes of the head.
        labels: class names, where the file is known by its hash or brings them.
    """

    state_dict: dict[str, Tensor] = field(repr=False)
    network: str
    source: str
    sha256: str
    num_classes: int
    labels: tuple[str, ...] | None = field(default=None, repr=False)


def read_video_resnet(source: Source) -> VideoResNetCheckpoint:
    """Read a checkpoint; see ``fasti3d.weights.load_video_resnet``."""
    with contents_of(source) as (contents, name):
        if isinstance(source, Path):
            check_named(source.name, contents.sha256)
        tensors = _found(contents.groups)
        network = _network(tensors)
        noted = parse_metadata(contents.metadata)
        known = None if noted else identify(contents.sha256, None)
        for key in [key for key in tensors if key.endswith(".running_var")]:
            counter = key.replace("running_var", "num_batches_tracked")
            tensors.setdefault(counter, torch.zeros((), dtype=torch.int64))
        classes = classes_of(_CLASSIFIER, tensors[_CLASSIFIER], noted.labels if noted else None)
        if problems := problems_of(on_meta(network, classes).state_dict(), tensors):
            raise WeightsError(f"it has names of torchvision's {network}, but is not complete: {problems}")
        state_dict = {key: standard(key, tensor) for key, tensor in tensors.items()}
        return VideoResNetCheckpoint(
            state_dict,
            network,
            (noted and noted.source) or (known and known.source) or name,
            (noted and noted.sha256) or contents.sha256 or digest(state_dict),
            classes,
            KINETICS_400_LABELS if known else noted.labels if noted else None,
        )


def write_video_resnet(checkpoint: VideoResNetCheckpoint, path: Path) -> str:
    """Save a checkpoint with its origin as safetensors, and return the file's SHA-256.

    Raises:
        OSError: it cannot be written; an existing file at ``path`` is kept.
    """
    # Imported here, since machines that only have torch's files may lack it.
    from safetensors.torch import save

    noted = Metadata(_FORMAT, checkpoint.source, checkpoint.sha256, checkpoint.labels)
    data = save(checkpoint.state_dict, noted.encoded())
    write_atomically(path, data)
    return hashlib.sha256(data).hexdigest()


def _found(groups: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """The tensors of the network in a file, without what stands before their names."""
    for tensors in groups.values():
        for key in tensors:
            prefix = key.removesuffix(_STEM)
            if prefix != key and f"{prefix}{_CLASSIFIER}" in tensors:
                return {
                    name.removeprefix(prefix): tensors[name] for name in tensors if name.startswith(prefix)
                }
    raise WeightsError(
        "no weights of R3D-18, MC3-18 or R(2+1)D-18 in it, whose names are torchvision's: "
        f"{_STEM}, ..., {_CLASSIFIER}"
    )


def _network(tensors: Mapping[str, Tensor]) -> str:
    if _FACTORIZED in tensors:
        return "r2plus1d-18"
    conv = tensors.get(_WHOLE)
    if conv is None or conv.ndim != 5:
        raise WeightsError(f"it lacks {_WHOLE}, by which R3D-18 and MC3-18 are told apart")
    return "mc3-18" if conv.shape[2] == 1 else "r3d-18"
