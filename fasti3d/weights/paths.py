"""Where weights can be read from, which the command line can check without importing torch."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from fasti3d.utils.resources import is_resource_error
from fasti3d.weights.errors import WeightsError

# A name or a path, a file open for binary reading, or a state dict.
Spec = str | os.PathLike[str] | IO[bytes] | Mapping[str, Any]


def find_file(spec: str | os.PathLike[str]) -> Path:
    """Return the path, if something is there.

    Raises:
        WeightsError: nothing is there, or it cannot be accessed; the message says why, without the path.
    """
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
