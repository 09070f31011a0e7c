"""One side's statistics in a file."""

from __future__ import annotations

import io
import json
import zipfile
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fasti3d.metrics.side import Side
from fasti3d.targets import check_statistics
from fasti3d.weights.files import write_atomically

# The array that tells such a file from others: in JSON, what the statistics are of.
KEY = "fasti3d_fvd"

_ARRAYS = ("mean", "scatter")


def write(path: str | PathLike[str], side: Side, identity: dict[str, Any]) -> None:
    """Writes a side, whole or not at all; ``np.load`` reads it.

    Raises:
        ValueError: a name that does not end in .npz.
        OSError: a place that cannot be written.
    """
    target = check_statistics(path)
    state = side.state()
    arrays: dict[str, Any] = {name: state[name].numpy() for name in _ARRAYS}
    if state["features"] is not None:
        arrays["features"] = state["features"].numpy()
    notes = identity | {"count": state["count"], "sizes": state["sizes"]}
    data = io.BytesIO()
    arrays[KEY] = np.array(json.dumps(notes))
    np.savez(data, **arrays)
    write_atomically(target, data.getvalue())


def is_saved(path: Path) -> bool:
    """Whether a file looks like saved statistics."""
    try:
        with zipfile.ZipFile(path) as archive:
            return f"{KEY}.npy" in archive.namelist()
    except (OSError, zipfile.BadZipFile):
        return False


def read(path: str | PathLike[str]) -> tuple[Side, dict[str, Any]]:
    """A side and what it was written with.

    Raises:
        ValueError: not such a file, or a damaged one.
        OSError: a file that cannot be read.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            notes = json.loads(str(file[KEY]))
            state = {name: torch.from_numpy(file[name]) for name in _ARRAYS}
            features = torch.from_numpy(file["features"]) if "features" in file else None
        side = Side.from_state(
            state | {"count": notes["count"], "sizes": notes["sizes"], "features": features}
        )
    except (ValueError, LookupError, TypeError, AttributeError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} holds no statistics saved by fasti3d, or is damaged: {error}") from error
    return side, {key: notes.get(key) for key in ("preset", "weights", "frames", "kind")}
