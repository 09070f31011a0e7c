"""Training clips: 64 frames from a random place, to be cropped and flipped at random on the device."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from fasti3d.train.data.index import Index
from fasti3d.train.data.video_dataset import DatasetError, Video
from fasti3d.video import VideoError
from fasti3d.video.errors import collected_warnings
from fasti3d.video.seek import read_span

# The short side that frames are scaled to, and the side of the square that is cut from them.
SHORT_SIDE, CROP = 256, 224


class Crop(NamedTuple):
    """A square of a clip's frames, in pixels, and whether it is mirrored."""

    top: int
    left: int
    size: int
    flip: bool


@dataclass(frozen=True, eq=False)
class ClipSample:
    """A training clip before it is cropped.

    Attributes:
        frames: uint8 (T, H, W, C), the short side 256; C is 3 for RGB, 2 for flow (x first), whose bytes are
            128 + 127 v / 20 of v pixels.
        crop: the part of them to train on.
        label: the class's index.
        key: the video's.
    """

    frames: Tensor
    crop: Crop
    label: int
    key: str


def clip_rng(seed: int, epoch: int, index: int) -> np.random.Generator:
    """Return the random numbers of a clip, which depend on nothing else."""
    return np.random.default_rng((seed, epoch, index))


def order(seed: int, epoch: int, count: int) -> list[int]:
    """Return the permutation of an epoch's ``count`` videos, which depends on nothing else.

    Example:
        >>> sorted(order(0, 3, 5))
        [0, 1, 2, 3, 4]
    """
    return np.random.default_rng((seed, epoch)).permutation(count).tolist()


class TrainingClips(Dataset[ClipSample]):
    """One random clip per video and epoch.

    Item (epoch, i) is a clip of video i, drawn from (seed, epoch, i) alone: its start is uniform among those
    that leave ``frames`` frames, its crop among the places of 224x224 in frames of short side 256, and it is
    flipped half of the time. A video of fewer frames is repeated from its start.

    Args:
        index: of the videos; those that cannot be read are left out.
        stream: ``rgb`` or ``flow``.
        frames: of a clip.
        seed: of all random numbers.
        flip: whether clips are flipped.
        max_bad: the share of videos that may be unreadable.

    Raises:
        DatasetError: more are; or a video has no label.

    Example:
        >>> clips = TrainingClips(index(UCF101("UCF-101")))  # doctest: +SKIP
        >>> clips[0, 7].frames.shape  # doctest: +SKIP
        torch.Size([64, 256, 342, 3])
    """

    def __init__(
        self,
        index: Index,
        *,
        stream: Literal["rgb", "flow"] = "rgb",
        frames: int = 64,
        seed: int = 0,
        flip: bool = True,
        max_bad: float = 0.01,
    ) -> None:
        self._index = index
        self._stream = stream
        self._frames = frames
        self._seed = seed
        self._flip = flip
        self.videos = index.usable(max_bad)
        if any(video.label is None for video in self.videos):
            raise DatasetError(
                f"the videos of {index.dataset.subset} have no labels: expected a list that has them"
            )

    def __len__(self) -> int:
        return len(self.videos)

    def __getitem__(self, item: tuple[int, int]) -> ClipSample:
        """Return the clip of video ``i`` in an epoch: ``clips[epoch, i]``.

        Raises:
            VideoError: The video cannot be decoded there.
        """
        epoch, i = item
        video = self.videos[i]
        rng = clip_rng(self._seed, epoch, i)
        count = self._index.info[video.key].frames
        start = int(rng.integers(max(count - self._frames, 0) + 1))
        flip = bool(rng.random() < 0.5) and self._flip
        down, across = rng.random(2)
        frames = self._decoded(video, start, min(count, self._frames))
        frames = frames[torch.arange(self._frames) % len(frames)]
        height, width = frames.shape[1:3]
        top, left = (int(share * (side - CROP + 1)) for share, side in ((down, height), (across, width)))
        assert video.label is not None
        return ClipSample(frames, Crop(top, left, CROP, flip), video.label, video.key)

    def _decoded(self, video: Video, start: int, count: int) -> Tensor:
        with collected_warnings([]):  # what is worth saying of a file is in the index
            frames = read_span(
                video.path,
                start,
                count,
                fps=self._index.fps,
                resize=SHORT_SIDE,
                known=self._index.info[video.key],
            )
        if len(frames) < count:
            raise VideoError(
                video.path, f"ends after {start + len(frames)} frames, and the index has {start + count}"
            )
        return frames
