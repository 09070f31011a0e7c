"""Empty files, for tests of what lies where."""

from __future__ import annotations

from pathlib import Path


def touch(folder: Path, *names: str) -> Path:
    """The folder, with these files in it and in folders of its own."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return folder
