"""An I3D-ResNet's checkpoint under our names: read from any known file, checked against a network, saved."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from fasti3d.preprocessing import PREPROCESSINGS, Preprocessing
from fasti3d.resnet import reference
from fasti3d.resnet.variants import VARIANTS, preprocessing_of
from fasti3d.utils.files import write_atomically
from fasti3d.utils.parsing import brief
from fasti3d.weights.checkpoint import Source, classes_of, contents_of, digest, problems_of, standard
from fasti3d.weights.errors import WeightsError
from fasti3d.weights.labels import KINETICS_400_LABELS
from fasti3d.weights.metadata import Metadata, parse_metadata
from fasti3d.weights.paths import network_file
from fasti3d.weights.published import check_named, identify
from fasti3d.weights.resnet_formats import CLASSIFIER, recognize


@dataclass(frozen=True)
class ResNetCheckpoint:
    """I3D-ResNet weights in the names of ``fasti3d.I3DResNet(...).state_dict()``.

    Attributes:
        state_dict: float32 tensors on the CPU (``num_batches_tracked`` int64).
        format: the naming of the file: ``pytorch-resnet3d`` (also ours), ``mmaction2``, ``pytorchvideo``,
            ``pytorchvideo-slow``, ``pyslowfast`` or ``caffe2``.
        source: where the weights come from.
        sha256: of the file.
        variants: those that the file may be of: its names and shapes leave them.
        depth: 50 or 101.
        non_local: the modes that its non-local blocks may have; empty if there are none.
        num_classes: classes of the head.
        labels: class names where the file brings them, or is known by its hash.
        preprocessing: how clips are prepared, where the file says it: a name in
            ``fasti3d.preprocessing.PREPROCESSINGS``.
    """

    state_dict: dict[str, Tensor] = field(repr=False)
    format: str
    source: str
    sha256: str
    variants: tuple[str, ...]
    depth: int
    non_local: tuple[str, ...]
    num_classes: int
    labels: tuple[str, ...] | None = field(default=None, repr=False)
    preprocessing: str = ""

    def preprocessing_for(self, variant: str) -> Preprocessing:
        """How clips for a network of a variant with these weights are prepared."""
        return PREPROCESSINGS.get(self.preprocessing) or preprocessing_of(variant, self.format)


def read_resnet(source: Source) -> ResNetCheckpoint:
    """Read a checkpoint of any known naming; see ``fasti3d.weights.load_resnet``."""
    with contents_of(source) as (contents, name):
        if isinstance(source, Path):
            check_named(source.name, contents.sha256)
        found = recognize(contents.groups)
        tensors = dict(found.tensors)
        for key in [key for key in tensors if key.endswith(".running_var")]:
            tensors.setdefault(
                key.replace("running_var", "num_batches_tracked"), torch.zeros((), dtype=torch.int64)
            )
        noted = parse_metadata(contents.metadata)
        classifier = tensors[CLASSIFIER]
        classes = classes_of(CLASSIFIER, classifier, noted.labels if noted else None)
        # caffe2 and the fully convolutional head of others have it as a 1x1x1 convolution.
        tensors[CLASSIFIER] = classifier.flatten(1) if classifier.ndim > 2 else classifier
        known = None if noted else identify(contents.sha256, None)
        state_dict = {key: standard(key, tensor) for key, tensor in tensors.items()}
        depth, modes = found.depth, found.non_local
        problems = {v: _problems(state_dict, v, depth, modes) for v in found.naming.variants}
        fitting = tuple(variant for variant, text in problems.items() if text == "")
        if noted and noted.variant in fitting:
            fitting = (noted.variant,)
        if noted and noted.non_local in modes:
            modes = (noted.non_local,)
        if known is not None and known.backbone.variant in fitting:
            fitting = (known.backbone.variant,)
            modes = tuple(mode for mode in modes if mode == known.backbone.non_local)
        if not fitting:
            nearest = min((text for text in problems.values() if text is not None), key=len, default="")
            raise WeightsError(
                f"it has names of {found.naming.name}, depth {depth} and {'' if modes else 'no '}non-local "
                f"blocks, but is not a complete network of {' or '.join(problems)}: "
                f"{nearest or 'none of these has such blocks'}"
            )
        return ResNetCheckpoint(
            state_dict,
            (noted and noted.format) or found.naming.name,
            (noted and noted.source) or (known and known.source) or name,
            (noted and noted.sha256) or contents.sha256 or digest(state_dict),
            fitting,
            depth,
            modes,
            classes,
            KINETICS_400_LABELS if known else noted.labels if noted else None,
            (noted.preprocessing if noted else "") or (known.preprocessing if known else ""),
        )


def check_fits(checkpoint: ResNetCheckpoint, variant: str, depth: int, non_local: str | None) -> None:
    """WeightsError unless a network of these arguments is what the weights may be of."""
    wrong = []
    if variant not in checkpoint.variants:
        wrong.append(f"variant {variant!r} where they are of {' or '.join(map(repr, checkpoint.variants))}")
    if depth != checkpoint.depth:
        wrong.append(f"depth {depth} where they have {checkpoint.depth}")
    if (non_local or "") not in (checkpoint.non_local or ("",)):
        modes = " or ".join(map(repr, checkpoint.non_local)) or "None"
        wrong.append(f"non_local={non_local!r} where they fit {modes}")
    if wrong:
        raise WeightsError(
            f"the weights of {checkpoint.source} ({checkpoint.format}) do not fit the network, which was "
            f"asked for with {', '.join(wrong)}"
        )


def load_resnet_into(model: nn.Module, checkpoint: ResNetCheckpoint) -> None:
    """Copy a checkpoint's tensors into a network, which keeps its dtypes and devices.

    Raises:
        WeightsError: a tensor is missing, unexpected or of another shape; the network is unchanged.
    """
    if problems := problems_of(model.state_dict(), checkpoint.state_dict):
        raise WeightsError(f"the weights of {checkpoint.source} do not fit the network: {problems}")
    model.load_state_dict(checkpoint.state_dict)


def _problems(tensors: Mapping[str, Tensor], variant: str, depth: int, modes: tuple[str, ...]) -> str | None:
    """What keeps tensors from being a variant's, in words; None where it has no network of that kind."""
    its = VARIANTS[variant].non_local
    able = [mode for mode in modes if its is not None and mode in its.modes]
    if modes and (its is None or not able or depth not in its.places):
        return None
    classes = len(tensors[CLASSIFIER])
    with torch.device("meta"):
        expected = reference.I3DResNet(variant, depth, able[0] if able else None, classes).state_dict()
    return problems_of(expected, tensors)


def save_resnet(
    tensors: Mapping[str, Tensor],
    variant: str,
    non_local: str | None,
    labels: tuple[str, ...] | None,
    folder: str | os.PathLike[str],
    preprocessing: str,
) -> Path:
    """Write the state dict of a whole network, with what its names do not tell, into a folder.

    Returns:
        The path of the file.

    Raises:
        WeightsError: it is not a complete network of the variant, or the folder cannot be written to.
    """
    checkpoint = read_resnet(tensors)
    if variant not in checkpoint.variants:
        raise WeightsError(f"the network is no longer of variant {variant}: parts of it were replaced")
    made = replace(
        checkpoint,
        source="a network in memory",
        variants=(variant,),
        non_local=() if non_local is None else (non_local,),
        labels=labels,
        preprocessing=preprocessing,
    )
    path = network_file(folder)
    try:
        write_resnet(made, path)
    except OSError as error:
        raise WeightsError(f"{brief(path, 300)} cannot be written: {error.strerror or error}") from error
    return path


def write_resnet(checkpoint: ResNetCheckpoint, path: Path) -> str:
    """Save a checkpoint of one variant with its origin as safetensors, and return the file's SHA-256.

    Raises:
        OSError: it cannot be written; an existing file at ``path`` is kept.
    """
    # Imported here, since machines that only have torch's files may lack it.
    from safetensors.torch import save

    (variant,) = checkpoint.variants
    noted = Metadata(
        checkpoint.format,
        checkpoint.source,
        checkpoint.sha256,
        checkpoint.labels,
        variant=variant,
        non_local=checkpoint.non_local[0] if len(checkpoint.non_local) == 1 else "",
        preprocessing=checkpoint.preprocessing,
    )
    data = save(checkpoint.state_dict, noted.encoded())
    write_atomically(path, data)
    return hashlib.sha256(data).hexdigest()
