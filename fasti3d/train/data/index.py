"""Probes the videos of a data set once: how many frames each has, and which cannot be read."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from fasti3d.train.data.video_dataset import DatasetError, Video, VideoDataset
from fasti3d.utils.naming import quoted
from fasti3d.video import VideoError, count_frames, probe
from fasti3d.video.errors import collected_warnings


@dataclass(frozen=True)
class IndexedVideo:
    """What the index knows of a video.

    Attributes:
        frames: the number of frames at the index's rate, as ``fasti3d.video.count_frames`` counts them.
        fps: frames per second as the file declares them; None if it does not.
        duration: seconds as the file declares them; None if it does not.
        width, height: in stored pixels, after rotation.
        problem: what is wrong with a video that can be read in part; None for a whole one.
    """

    frames: int
    fps: float | None
    duration: float | None
    width: int
    height: int
    problem: str | None = None


@dataclass(frozen=True)
class Index:
    """The videos of a data set as they are on disk.

    Attributes:
        dataset: whose.
        fps: frames per second that frames are counted at.
        info: of each video that can be read, by key.
        unreadable: what is wrong with each other one, by key.
    """

    dataset: VideoDataset
    fps: float
    info: dict[str, IndexedVideo]
    unreadable: dict[str, str]

    def usable(self, max_bad: float = 0.01) -> tuple[Video, ...]:
        """Return the videos that can be read, in the data set's order.

        Args:
            max_bad: The share of videos that may be unreadable, 0 to 1.

        Raises:
            DatasetError: More are.
        """
        count = len(self.unreadable)
        if count > max_bad * len(self.dataset.videos):
            key, reason = next(iter(self.unreadable.items()))
            raise DatasetError(
                f"{count:,} of {len(self.dataset.videos):,} videos in {quoted(self.dataset.root)} cannot be "
                f"read, such as {quoted(key)}, which {reason}: expected at most {max_bad:.3g} of them; "
                "replace them, or allow more with --max-bad"
            )
        return tuple(video for video in self.dataset.videos if video.key in self.info)


def index(
    dataset: VideoDataset,
    *,
    fps: float = 25.0,
    workers: int | None = None,
    progress: Callable[[int, int], object] | None = None,
) -> Index:
    """Probe every video of a data set.

    Args:
        dataset: Whose videos.
        fps: Frames per second to count frames at.
        workers: Videos that are probed at a time; None is one per core, 32 at most.
        progress: Called with the number of videos that are done, and of all.

    Example:
        >>> index(UCF101("UCF-101")).info["ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01"].frames  # doctest: +SKIP
        120
    """
    info: dict[str, IndexedVideo] = {}
    unreadable: dict[str, str] = {}
    with ThreadPoolExecutor(workers or min(32, os.cpu_count() or 1)) as pool:
        results = pool.map(lambda video: _probed(video, fps), dataset.videos)
        for done, (video, result) in enumerate(zip(dataset.videos, results, strict=True), 1):
            if isinstance(result, str):
                unreadable[video.key] = result
            else:
                info[video.key] = result
            if progress is not None:
                progress(done, len(dataset.videos))
    return Index(dataset, fps, info, unreadable)


def _probed(video: Video, fps: float) -> IndexedVideo | str:
    try:
        with collected_warnings([]):
            declared = probe(video.path)
            frames = count_frames(video.path, fps=fps)
    except VideoError as error:
        return error.reason
    return IndexedVideo(frames, declared.fps, declared.duration, declared.width, declared.height)
