"""Reads clips from a folder of videos, of folders of frames, or of both."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Iterator
from pathlib import Path

import torch

from fasti3d.metrics.choice import Clip, Skipped, clip_rng, shuffled
from fasti3d.metrics.clips import Values
from fasti3d.video import Frame, VideoError, read_frames
from fasti3d.video.find import VIDEO_SUFFIXES, find_videos

# The clips of one video are held until its end, since any may still be replaced.
_MAX_CLIPS_PER_VIDEO = 16


class VideoSource:
    """The videos under a folder: files, and folders of images, which are a video each (see ``find_videos``).

    Raises:
        ValueError: a folder without any video, or one that cannot be read.
    """

    kind = "videos"
    values: Values = "uint8"

    def __init__(self, folder: Path, *, fps: float | None = None, strict: bool = False) -> None:
        self._folder = folder
        self._fps = fps
        self._strict = strict
        self._videos = list(find_videos(folder))
        if self._videos == [folder]:
            raise ValueError(
                f"{folder} holds images, which are one video: give the folder above, where such folders "
                "are side by side"
            )
        if not self._videos:
            raise ValueError(
                f"{folder} holds no videos ({', '.join(VIDEO_SUFFIXES)}) and no folders of images"
            )

    def expected(self, count: int | None) -> int:
        """The number of clips if all videos are good."""
        return len(self._videos) if count is None else count

    def check(self, frames: int, count: int | None) -> None:
        """Check that there can be such clips, before any is read; ``frames`` is checked by reading.

        Raises:
            ValueError: more clips per video than memory should hold.
        """
        if (wanted := self.expected(count)) > _MAX_CLIPS_PER_VIDEO * len(self._videos):
            raise ValueError(
                f"clips must be at most {_MAX_CLIPS_PER_VIDEO} for each of the {len(self._videos)} videos in "
                f"{self._folder}, got {wanted}: cut long videos into pieces"
            )

    def clips(self, frames: int, count: int | None, seed: int) -> Iterator[Clip | Skipped]:
        """Yield clips at random places of videos in random order.

        Without ``count`` every video gives one. A smaller count than that of the videos takes one each of so
        many, a larger one is spread evenly; a video that gives no clip is replaced by the next one.

        Raises:
            ValueError: as ``check``.
            VideoError: a damaged or short video, if strict.
        """
        self.check(frames, count)
        left = self.expected(count)
        for remaining, path in zip(
            range(len(self._videos), 0, -1), shuffled(self._videos, seed), strict=True
        ):
            if not left:
                return
            name = path.relative_to(self._folder).as_posix()
            try:
                wanted = 1 if count is None else -(-left // remaining)
                stretches, length = self._choose(path, frames, wanted, clip_rng(seed, name))
            except VideoError as error:
                if self._strict:
                    raise
                yield Skipped(name, error.reason)
                continue
            left -= len(stretches)
            while stretches:  # frames may be large: each stretch is released as it is yielded
                yield self._clip(path, name, stretches.pop(0), length)

    def _choose(
        self, path: Path, frames: int, wanted: int, numbers: random.Random
    ) -> tuple[list[list[Frame]], int]:
        """Return up to ``wanted`` different stretches of a video, in order, and the number of its frames.

        Source: Vitter's algorithm R, over all stretches.
        """
        recent: deque[Frame] = deque(maxlen=frames)
        kept: list[list[Frame]] = []
        length = 0
        for frame in read_frames(path, fps=self._fps, resize=None, crop=None, strict=self._strict):
            recent.append(frame)
            length += 1
            seen = length - frames + 1
            if seen < 1:
                continue
            if seen <= wanted:
                kept.append(list(recent))
            elif (place := numbers.randrange(seen)) < wanted:
                kept[place] = list(recent)
        if not kept:
            raise VideoError(path, f"has {length} frames, fewer than the {frames} of a clip")
        kept.sort(key=lambda stretch: stretch[0].index)
        return kept, length

    def _clip(self, path: Path, name: str, stretch: list[Frame], length: int) -> Clip:
        return Clip(
            frames=torch.stack([frame.image for frame in stretch]),
            name=name,
            start=stretch[0].index,
            length=length,
            rate=None if path.is_dir() else self._fps or _rate(stretch),
        )


def _rate(stretch: list[Frame]) -> float | None:
    """Frames per second, by their times."""
    seconds = stretch[-1].time - stretch[0].time
    return (len(stretch) - 1) / seconds if seconds > 0 else None
