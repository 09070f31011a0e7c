"""Probes the videos of a data set once: how many frames each has, and which cannot be read."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from fasti3d.train.data.index_cache import IndexCache
from fasti3d.train.data.video_dataset import DatasetError, Video, VideoDataset
from fasti3d.utils.naming import quoted
from fasti3d.utils.prefetch import batched
from fasti3d.video import VideoError
from fasti3d.video.errors import collected_warnings
from fasti3d.video.state import video_state
from fasti3d.video.survey import Survey, survey

# More do not help: what they share is the disk.
_MAX_WORKERS = 32
# Videos after which the cache is written: minutes of work.
_SAVED_AT_ONCE = 8192


@dataclass(frozen=True)
class Index:
    """The videos of a data set as they are on disk.

    Attributes:
        dataset: whose.
        fps: frames per second that frames are counted at.
        info: of each video that can be read, by key: frames, fps, duration, width, height; and ``problem``,
            why one that can be read in part ends early.
        unreadable: what is wrong with each other one, by key.
    """

    dataset: VideoDataset
    fps: float
    info: dict[str, Survey]
    unreadable: dict[str, str]

    @property
    def repeated(self) -> float:
        """The share of frames that repeat the one before, as those of videos with fewer frames per second."""
        frames = sum(video.frames for video in self.info.values())
        extra = sum(
            video.frames * max(0.0, 1 - (video.fps or self.fps) / self.fps) for video in self.info.values()
        )
        return extra / frames if frames else 0.0

    @property
    def broken(self) -> dict[str, str]:
        """Why videos end early that can be read up to there, by key."""
        return {key: video.problem for key, video in self.info.items() if video.problem is not None}

    def usable(self, max_bad: float = 0.01) -> tuple[Video, ...]:
        """Return the videos that can be read, in the data set's order.

        Args:
            max_bad: The share of videos that may be unreadable, 0 to 1.

        Raises:
            DatasetError: More are, or all; or there are no videos.
        """
        bad, count = len(self.unreadable), len(self.dataset.videos)
        if not count:
            raise DatasetError(
                f"{quoted(self.dataset.root)} holds no {self.dataset.subset} videos: expected some"
            )
        if bad > max_bad * count or not self.info:
            key, reason = next(iter(self.unreadable.items()))
            raise DatasetError(
                f"{bad:,} of {count:,} videos in {quoted(self.dataset.root)} cannot be read, such as "
                f"{quoted(key)}, which {reason}: expected at most {100 * max_bad:g}%; replace them, or "
                "allow more with --max-bad"
            )
        return tuple(video for video in self.dataset.videos if video.key in self.info)


def parse_max_bad(text: str) -> float:
    """Return the share that ``1%`` or ``0.01`` stands for.

    Raises:
        ValueError: It is neither, or not between 0 and 1.

    Example:
        >>> parse_max_bad("1%"), parse_max_bad("0.05")
        (0.01, 0.05)
    """
    number, percent = text.strip().removesuffix("%"), text.strip().endswith("%")
    try:
        share = float(number) / (100 if percent else 1)
    except ValueError:
        share = -1.0
    if not 0 <= share <= 1:
        raise ValueError(f"must be a share such as 1% or 0.01, from 0 to 100%, got {text!r}")
    return share


def index(
    dataset: VideoDataset,
    *,
    fps: float = 25.0,
    workers: int | None = None,
    progress: Callable[[int, int], object] | None = None,
) -> Index:
    """Survey every video of a data set, or recall it from the user's cache where the file is unchanged.

    A video is recalled by its path, size and time of change. What was done stays when a call is
    interrupted.

    Args:
        dataset: Whose videos.
        fps: Frames per second to count frames at.
        workers: Videos that are read at a time; None is one per core, 32 at most.
        progress: Called with the number of videos that are done, and of all.

    Raises:
        OSError, MemoryError: The machine ran out of memory or file descriptors.

    Example:
        >>> index(UCF101("UCF-101")).info["ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01"].frames  # doctest: +SKIP
        120
    """
    if workers is not None and workers < 1:
        raise ValueError(f"workers must be at least 1, got {workers}")
    cache = IndexCache(dataset.root, fps)
    info: dict[str, Survey] = {}
    unreadable: dict[str, str] = {}

    def look(video: Video) -> Survey | str:
        try:
            state = video_state(video.path)
            name, known = os.path.abspath(video.path), (state["bytes"], state["modified_ns"])
            found = cache.get(name, known)
            if found is None:
                found = _surveyed(video, fps)
                cache.put(name, known, found)
            return found
        except VideoError as error:
            return error.reason

    pool = ThreadPoolExecutor(workers or min(_MAX_WORKERS, os.cpu_count() or 1), "fasti3d-index")
    try:
        for some in batched(dataset.videos, _SAVED_AT_ONCE):
            for video, result in zip(some, pool.map(look, some), strict=True):
                if isinstance(result, str):
                    unreadable[video.key] = result
                else:
                    info[video.key] = result
                if progress is not None:
                    progress(len(info) + len(unreadable), len(dataset.videos))
            cache.save()
    finally:
        pool.shutdown(cancel_futures=True)
        cache.save()
    return Index(dataset, fps, info, unreadable)


def _surveyed(video: Video, fps: float) -> Survey | str:
    try:
        with collected_warnings([]):  # what is worth saying is in the survey
            return survey(video.path, fps=fps)
    except VideoError as error:
        return error.reason
