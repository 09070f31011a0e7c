"""Training clips: 64 frames from a random place, to be cropped and flipped at random on the device."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from fasti3d.flow.checks import BOUND, check_flow_from
from fasti3d.flow.params import PRESETS, TVL1Params
from fasti3d.train.data.flow_source import flow_path, open_flow, solved_clip, stored_clip
from fasti3d.train.data.index import Index
from fasti3d.train.data.video_dataset import DatasetError, Video
from fasti3d.utils.naming import quoted
from fasti3d.video import VideoError
from fasti3d.video.errors import collected_warnings
from fasti3d.video.seek import read_span

# The short side that frames are scaled to, and the side of the square that is cut from them.
SHORT_SIDE, CROP = 256, 224
# No motion, of the bytes that ``encode_centered`` gives.
STILL = 128

_I3D_FLOW = PRESETS["i3d"]


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
        frames: uint8 (T, H, W, C), the short side 256; C is 3 for RGB, 2 for flow (x first) in the bytes of
            ``flow.encoding.encode_centered``.
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
    flipped half of the time. A video of fewer frames is repeated from its start. Clips of flow have
    ``frames`` flows, which need a frame more.

    Args:
        index: of the videos; those that cannot be read are left out.
        stream: ``rgb`` or ``flow``.
        frames: of a clip, at least 1.
        seed: of all random numbers.
        flip: whether clips are flipped.
        max_bad: the share of videos that may be unreadable, or without flow.
        flow_from: a folder of the videos' flow by their keys or file names: files ``NAME.flow`` of
            ``fasti3d flow --cache``, or folders ``NAME`` of ``flow_x_00001.jpg`` and ``flow_y_00001.jpg``,
            extracted at the index's rate and short side 256. None computes it with ``tvl1_params``.
        flow_bound: of pictures of flow, the motion in pixels that 0 and 255 stand for.
        tvl1_params: of the solver.

    Raises:
        DatasetError: too many videos are unreadable or have no flow; or a video has no label.

    Example:
        >>> clips = TrainingClips(index(UCF101("UCF-101")))  # doctest: +SKIP
        >>> clips[0, 7].frames.shape  # doctest: +SKIP
        torch.Size([64, 256, 341, 3])
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
        flow_from: str | os.PathLike[str] | None = None,
        flow_bound: float = BOUND,
        tvl1_params: TVL1Params = _I3D_FLOW,
    ) -> None:
        if stream not in ("rgb", "flow"):
            raise ValueError(f"stream must be rgb or flow, got {stream!r}")
        if frames < 1:
            raise ValueError(f"frames must be at least 1, got {frames}")
        check_flow_from(flow_from, flow_bound, flowing=stream == "flow", preset="readme", params=tvl1_params)
        self._index = index
        self._stream = stream
        self._frames = frames
        self._seed = seed
        self._flip = flip
        self._flow_bound, self._tvl1_params = flow_bound, tvl1_params
        self.videos = index.usable(max_bad)
        if any(video.label is None for video in self.videos):
            raise DatasetError(
                f"the {index.dataset.subset} videos of {index.dataset.name} have no labels: expected a list "
                "with them"
            )
        self._flow: dict[str, Path] | None = None
        if flow_from is not None:
            self._flow = _found_flow(Path(flow_from), self.videos, max_bad)
            self.videos = tuple(video for video in self.videos if video.key in self._flow)

    def __len__(self) -> int:
        return len(self.videos)

    def __getitem__(self, item: tuple[int, int]) -> ClipSample:
        """Return the clip of video ``i`` in an epoch: ``clips[epoch, i]``.

        Raises:
            VideoError: The video cannot be decoded there, or its flow not be read.
        """
        epoch, i = item
        video = self.videos[i]
        rng = clip_rng(self._seed, epoch, i)
        frames = self._index.info[video.key].frames
        available = frames if self._stream == "rgb" else frames - 1
        start = int(rng.integers(max(available - self._frames, 0) + 1))
        down, across = rng.random(2)
        flip = bool(rng.random() < 0.5) and self._flip
        count = min(available, self._frames)
        some = self._rgb(video, start, count) if self._stream == "rgb" else self._flows(video, start, count)
        height, width = some.shape[1:3]
        top, left = (int(share * (side - CROP + 1)) for share, side in ((down, height), (across, width)))
        assert video.label is not None
        return ClipSample(repeated(some, self._frames), Crop(top, left, CROP, flip), video.label, video.key)

    def _rgb(self, video: Video, start: int, count: int) -> Tensor:
        known = self._index.info[video.key]
        with collected_warnings([]):  # what is worth saying of a file is in the index
            frames = read_span(video.path, start, count, fps=self._index.fps, resize=SHORT_SIDE, known=known)
        if len(frames) < count:
            end = start + len(frames)
            raise VideoError(
                video.path, f"ends after {end} frames, but had {known.frames} when it was indexed"
            )
        return frames

    def _flows(self, video: Video, start: int, count: int) -> Tensor:
        if count == 0:  # a single frame, which does not move
            return torch.full_like(self._rgb(video, 0, 1)[..., :2], STILL)
        if self._flow is None:
            return solved_clip(self._rgb(video, start, count + 1), self._tvl1_params)
        flow = open_flow(self._flow[video.key], self._flow_bound, self._index.fps, SHORT_SIDE)
        flow.check_frames(self._index.info[video.key].frames)
        return stored_clip(flow, start, count, SHORT_SIDE)


def repeated(frames: Tensor, count: int) -> Tensor:
    """Return ``count`` frames, repeated from the first on where there are fewer."""
    return frames if len(frames) == count else frames[torch.arange(count) % len(frames)]


def _found_flow(folder: Path, videos: Sequence[Video], max_bad: float) -> dict[str, Path]:
    """Where the flow of each video is that has some, by key."""
    found = {video.key: path for video in videos if (path := flow_path(folder, video)) is not None}
    if len(videos) - len(found) > max_bad * len(videos) or not found:
        absent = next(video.key for video in videos if video.key not in found)
        raise DatasetError(
            f"{len(videos) - len(found):,} of {len(videos):,} videos have no flow in {quoted(folder)}, such "
            f"as {quoted(absent)}: expected NAME.flow of `fasti3d flow --cache` or NAME/flow_x_00001.jpg, "
            "NAME with or without its class"
        )
    return found
