"""Where weights can be read from, which the command line can check without importing torch."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from fasti3d.utils.parsing import brief
from fasti3d.utils.resources import is_resource_error
from fasti3d.weights.errors import WeightsError

# Files listed in a message.
_SHOWN = 4

# Endings of weights files. Beside safetensors the others hold the same weights in older formats.
_SUFFIXES = ((".safetensors",), (".pt", ".pth", ".bin", ".ckpt", ".pkl", ".npz"))

# The file of a saved network, as model hubs call it.
_NETWORK = "model.safetensors"

Spec = str | os.PathLike[str] | IO[bytes] | Mapping[str, Any]
"""What weights may be given as: a name or a path, a file open for binary reading, or a state dict."""


def find_file(spec: str | os.PathLike[str]) -> Path:
    """Return the path, if something is there.

    Raises:
        WeightsError: nothing is there, or it cannot be accessed; the message says why, without the path.
    """
    # As which pathlib takes the current folder, whatever file may be there.
    if not os.fspath(spec):
        raise WeightsError("the path is empty")
    try:
        path = Path(spec).expanduser()
        os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        why = "nothing is at that path"
    except OSError as error:
        if is_resource_error(error):
            raise
        why = error.strerror or str(error)
    except (RuntimeError, ValueError) as error:  # no such user, or a NUL character
        why = str(error)
    else:
        return path
    raise WeightsError(why)


def file_in(folder: Path) -> Path:
    """Return the path of the one weights file in a folder, as a snapshot of a model hub is.

    Raises:
        WeightsError: the folder has none or several, or cannot be listed.
    """
    shown = brief(folder, 300)
    try:
        names = sorted(os.listdir(folder))
    except OSError as error:
        if is_resource_error(error):
            raise
        raise WeightsError(f"{shown} cannot be read: {error.strerror or error}") from error
    for suffixes in _SUFFIXES:
        found = [name for name in names if name.lower().endswith(suffixes)]
        if len(found) == 1:
            return folder / found[0]
        if found:
            some = ", ".join(map(brief, found[:_SHOWN])) + (", ..." if len(found) > _SHOWN else "")
            raise WeightsError(f"{shown} holds {len(found)} weights files: give the path of one of {some}")
    known = ", ".join(suffix for suffixes in _SUFFIXES for suffix in suffixes)
    raise WeightsError(f"{shown} holds no weights file ({known}): give the path of the file")


def network_file(folder: str | os.PathLike[str]) -> Path:
    """The file of a network in a folder, which is created.

    Raises:
        WeightsError: it cannot be created.
    """
    try:
        path = Path(folder).expanduser()
        path.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError, RuntimeError) as error:  # a NUL character, no such user
        why = getattr(error, "strerror", None) or error
        raise WeightsError(f"the folder {brief(folder, 300)} cannot be created: {why}") from error
    return path / _NETWORK
