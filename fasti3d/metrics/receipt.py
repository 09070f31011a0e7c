"""The versions that a receipt records."""

from __future__ import annotations

import platform

import numpy as np
import torch

from fasti3d.version import __version__


def versions() -> dict[str, str]:
    """Return the versions of everything that a score depends on."""
    return {
        "fasti3d": __version__,
        "torch": torch.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
    }
