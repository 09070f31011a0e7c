"""What finished work is recognised by: the settings, the weights and the state of the video."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import torch

from fasti3d.i3d import I3D
from fasti3d.video import VideoError
from fasti3d.video.errors import blamed
from fasti3d.video.source import images

Json = dict[str, Any]


def weights_digest(model: I3D) -> str:
    """SHA-256 over the names, dtypes, shapes and values of a network's weights."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        if name.endswith("num_batches_tracked"):
            continue  # the same weights in another format may bring another count
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy())
    return digest.hexdigest()


def source_state(path: Path) -> Json:
    """The size and time of change of a video file, or those of the images of a folder together.

    Raises:
        VideoError: it is not there.
    """
    files = images(path) if os.path.isdir(path) else [path]
    try:
        states = [file.stat() for file in files]
    except OSError as error:
        raise blamed(path, f"cannot be opened: {error.strerror}", error) from error
    except ValueError as error:
        raise VideoError(path, f"cannot be opened: {error}") from error  # a zero byte in the name
    state = {
        "file": path.absolute().name,
        "bytes": sum(state.st_size for state in states),
        "modified_ns": max(state.st_mtime_ns for state in states),
    }
    return state | {"images": len(files)} if os.path.isdir(path) else state


def digest(recipe: Json, source: Json | None) -> str:
    """SHA-256 of what is done (settings and weights) with what (``source_state``; None: not there)."""
    text = json.dumps([recipe, source], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def differences(there: Json, now: Json) -> str:
    """In words, where two records of what was done with what differ."""
    old, new = _flat(there), _flat(now)
    return ", ".join(
        f"{name} {_shown(old.get(name))} there and {_shown(new.get(name))} now"
        for name in sorted(old.keys() | new.keys())
        if old.get(name) != new.get(name)
    )


def _flat(record: Json, prefix: str = "") -> Json:
    flat: Json = {}
    for name, value in record.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return flat


def _shown(value: object) -> str:
    text = "none" if value is None else str(value)
    return text if len(text) < 20 else f"{text[:8]}…"
