"""Where fasti3d keeps what it fetches and measures."""

from __future__ import annotations

import os
from pathlib import Path


def cache_dir() -> Path:
    """The folder everything fetched is kept in: ``FASTI3D_HOME``, or the platform's cache folder."""
    if home := os.environ.get("FASTI3D_HOME"):
        return Path(home).expanduser()
    # Here and not at the top: machines that only run the operators may lack it.
    import platformdirs

    return platformdirs.user_cache_path("fasti3d", appauthor=False)
