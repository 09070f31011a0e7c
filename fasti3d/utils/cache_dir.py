"""The folder in which fasti3d keeps what it downloads and measures."""

from __future__ import annotations

import os
from pathlib import Path

from fasti3d.utils.environment import wrong


def cache_dir() -> Path:
    """Return the folder of everything downloaded: ``FASTI3D_HOME``, or the platform's cache folder.

    Raises:
        fasti3d.utils.environment.SettingError: ``FASTI3D_HOME`` names the home folder of an unknown user.

    Example:
        >>> cache_dir()  # doctest: +SKIP
        PosixPath('/home/user/.cache/fasti3d')
    """
    if home := os.environ.get("FASTI3D_HOME"):
        try:
            return Path(home).expanduser()
        except RuntimeError:
            raise wrong("FASTI3D_HOME", home, "a folder of an existing user") from None
    # Imported here: machines that only run the operators may lack it.
    import platformdirs

    return platformdirs.user_cache_path("fasti3d", appauthor=False)
