"""What is known of the videos below a folder, in a file of the user's cache."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import math
import os
from pathlib import Path
from typing import Any

from fasti3d.utils.cache_dir import cache_dir
from fasti3d.utils.files import write_atomically
from fasti3d.utils.parsing import parse_json
from fasti3d.utils.plain_files import open_regular
from fasti3d.utils.resources import is_resource_error
from fasti3d.utils.resumable_output import locked
from fasti3d.video.survey import Survey

# Of the file, and of what a survey finds: another number makes all videos be surveyed again.
_VERSION = 1

State = tuple[int, int]  # size in bytes, time of change in ns


class IndexCache:
    """The surveys of videos, by their paths and states; a file that cannot be read is as none.

    Args:
        root: The folder of the videos, which has one file per rate.
        fps: The rate that the surveys are of.
    """

    def __init__(self, root: Path, fps: float) -> None:
        name = f"{os.path.abspath(root)}\n{fps!r}"
        digest = hashlib.sha256(os.fsencode(name)).hexdigest()[:24]
        self.path = cache_dir() / "index" / f"{digest}.json"
        self._old = read(self.path)
        self._new: dict[str, tuple[State, Survey | str]] = {}

    def get(self, video: str, state: State) -> Survey | str | None:
        """Return what is known of a video in this state: a survey, or why there is none."""
        known = self._old.get(video)
        return known[1] if known is not None and known[0] == state else None

    def put(self, video: str, state: State, found: Survey | str) -> None:
        """Add what was found of a video; several threads may."""
        self._new[video] = state, found

    def save(self) -> None:
        """Add what is new to the file, which other processes may write too; do nothing without a place."""
        if not self._new:
            return
        self._old |= self._new
        with contextlib.suppress(OSError):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with locked(self.path.with_suffix(".lock")):
                merged = read(self.path) | self._new
                videos = {
                    video: [*state, found if isinstance(found, str) else dataclasses.asdict(found)]
                    for video, (state, found) in merged.items()
                }
                write_atomically(self.path, json.dumps({"version": _VERSION, "videos": videos}).encode())


def read(path: Path) -> dict[str, tuple[State, Survey | str]]:
    """Return the entries of a file; none of one that is missing, damaged or of another version."""
    entries: dict[str, tuple[State, Survey | str]] = {}
    try:
        with open_regular(path) as file:
            content = parse_json(file.read())
    except (OSError, ValueError) as error:
        if is_resource_error(error):
            raise
        return entries
    if not isinstance(content, dict) or content.get("version") != _VERSION:
        return entries
    videos = content.get("videos")
    for video, entry in videos.items() if isinstance(videos, dict) else ():
        with contextlib.suppress(ValueError, TypeError):
            size, modified, found = entry
            if type(size) is int and type(modified) is int:
                entries[video] = (size, modified), found if isinstance(found, str) else _survey(found)
    return entries


def _survey(found: Any) -> Survey:
    """Raises TypeError or ValueError unless every field has its type."""
    survey = Survey(**found)
    counts = (survey.frames, survey.width, survey.height)
    numbers = (survey.fps, survey.duration, survey.origin)
    if not all(type(count) is int and count > 0 for count in counts):
        raise ValueError("a count is not above 0")
    if not all(number is None or (isinstance(number, float) and math.isfinite(number)) for number in numbers):
        raise ValueError("a number is not finite")
    if not isinstance(survey.problem, str | None):
        raise ValueError("the problem is not text")
    return survey
