"""Writes and reads one side's statistics."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fasti3d.metrics.side import Side
from fasti3d.utils.archives import Archive, ArchiveError, damaged
from fasti3d.utils.files import write_atomically
from fasti3d.utils.parsing import brief, parse_json
from fasti3d.utils.plain_files import open_regular
from fasti3d.utils.targets import check_statistics

# The array that identifies such a file: JSON that describes the statistics.
KEY = "fasti3d_fvd"

_ARRAYS, _FEATURES = ("mean", "scatter"), "features"
_COUNTS = ("count", "sizes")
_HEADER = ("preset", "weights", "frames", "kind")
_RATIO = 8


def write(path: str | PathLike[str], side: Side, identity: dict[str, Any]) -> None:
    """Write a side atomically; ``np.load`` reads it.

    Raises:
        ValueError: a name that does not end in .npz.
        OSError: a place that cannot be written.
    """
    target = check_statistics(path)
    state = side.state()
    arrays: dict[str, Any] = {name: state[name].numpy() for name in _ARRAYS}
    if state[_FEATURES] is not None:
        arrays[_FEATURES] = state[_FEATURES].numpy()
    notes = identity | {"count": state["count"], "sizes": state["sizes"]}
    data = io.BytesIO()
    arrays[KEY] = np.array(json.dumps(notes))
    np.savez(data, **arrays)
    write_atomically(target, data.getvalue())


def is_saved(path: Path) -> bool:
    """Whether a file looks like saved statistics; False if it is not an archive.

    Raises:
        OSError: a file that cannot be read.
    """
    try:
        with open_regular(path) as file:
            return f"{KEY}.npy" in Archive(file, ratio=_RATIO).names
    except ArchiveError:
        return False


def read(path: str | PathLike[str]) -> tuple[Side, dict[str, Any]]:
    """Return a side, and the header that it was written with.

    Raises:
        ValueError: not such a file, or a damaged one.
        OSError: a file that cannot be read.
    """
    try:
        with open_regular(path) as file, damaged("the file"):
            archive = Archive(file, ratio=_RATIO)
            arrays = {
                name: archive.array(f"{name}.npy")
                for name in (KEY, *_ARRAYS, _FEATURES)
                if name != _FEATURES or f"{name}.npy" in archive.names
            }
            notes = parse_json(str(arrays.pop(KEY)))
            if any(array.dtype.kind != "f" for array in arrays.values()):
                raise ArchiveError("its arrays are not floating point")
            state = {name: torch.from_numpy(array) for name, array in arrays.items()}
            side = Side.from_state({_FEATURES: None} | state | {key: notes[key] for key in _COUNTS})
            header = {key: notes[key] for key in _HEADER}
            check_header(header)
    except ArchiveError as error:
        raise ValueError(f"{path} holds no statistics saved by fasti3d, or is damaged: {error}") from error
    return side, header


def check_header(header: Mapping[str, Any]) -> None:
    """Raise a ValueError for a header that is never written."""
    frames, kind = header["frames"], header["kind"]
    texts = all(isinstance(header[key], str) for key in ("preset", "weights"))
    empty = frames is None and kind is None
    if not texts or not (empty or (type(frames) is int and frames > 0 and kind in ("uint8", "float"))):
        raise ValueError(f"its header is {brief(dict(header))}")
