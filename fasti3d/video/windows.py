"""Cuts a video of any length into sliding windows, in bounded memory."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, get_args

import torch
from torch import Tensor

from fasti3d.limits import check_arguments
from fasti3d.network import MIN_FRAMES
from fasti3d.video.errors import VideoError
from fasti3d.video.read import Frame, read_frames

Short = Literal["loop", "pad", "error"]


@dataclass(frozen=True, eq=False)
class Window:
    """Consecutive frames of the sampled sequence.

    Attributes:
        index: its place among the windows, from 0.
        start: its first frame's index in the sampled sequence.
        frames: uint8 (T, H, W, 3), RGB; ``to_clip`` makes the network's input of it.
        times: seconds since the video's first frame, one for each frame.
    """

    index: int
    start: int
    frames: Tensor
    times: tuple[float, ...]


def windows(
    path: str | os.PathLike[str],
    *,
    window: int = 64,
    stride: int = 32,
    fps: float | None = 25.0,
    resize: int | None = 256,
    crop: int | None = 224,
    short: Short = "loop",
    strict: bool = False,
) -> Iterator[Window]:
    """Cut a video into windows of ``window`` frames, ``stride`` apart, with one window in memory.

    If the last window would not end on the last frame, a further one is shifted back to end there, so that
    with stride <= window every frame is in a window. A video shorter than ``window`` yields one window of
    all its frames, but never of fewer than the 9 that the network needs.

    Args:
        path, fps, resize, crop, strict: as for ``read_frames``.
        window: frames per window, at least 9.
        stride: frames from one window's start to the next one's, at least 1.
        short: for a video of fewer than 9 frames, "loop" repeats it from its start, "pad" repeats its last
            frame (both with the times of the repeated frames), and "error" raises VideoError.

    Yields:
        Window, in order.

    Raises:
        ValueError: an argument is out of range; raised by the call.
        VideoError: as ``read_frames``; raised with the first window.

    Example:
        >>> [window.start for window in windows("video.mp4")]  # doctest: +SKIP
        [0, 32, 64]
    """
    check_arguments(fps, resize, crop)
    if window < MIN_FRAMES:
        raise ValueError(
            f"window must be at least {MIN_FRAMES} frames, the network's shortest clip, got {window}"
        )
    if stride < 1:
        raise ValueError(f"stride must be at least 1 frame, got {stride}")
    if short not in get_args(Short):
        raise ValueError(f"short must be one of {', '.join(get_args(Short))}, got {short!r}")
    frames = read_frames(path, fps=fps, resize=resize, crop=crop, strict=strict)
    return covering_windows(Path(path), frames, window, stride, MIN_FRAMES, short)


def cut_windows(frames: Iterable[Frame], window: int, stride: int) -> Iterator[Window]:
    """Cut frames into windows of ``window``, ``stride`` apart; the last may be shorter.

    The shorter one starts where the next whole one would, and is left out where no frame is left for it that
    was in no window before. One window is held in memory.
    """
    ring = _Ring(window)
    whole = yield from _whole_windows(ring, frames, stride)
    start = whole * stride
    if ring.seen > max(start, _end(whole, window, stride)):
        yield ring.window(whole, start)


def windows_at(frames: Iterable[Frame], starts: Sequence[int], length: int) -> Iterator[Window]:
    """Cut a window of ``length`` frames at each start, shorter where the frames end within it.

    A start at which there are no frames has no window. Frames after the last window are not read, and one
    window is held in memory.

    Args:
        frames: those of a video, from the first on.
        starts: increasing.
        length: at least 1.
    """
    ring = _Ring(length)
    index = 0
    for frame in frames:
        ring.append(frame)
        if ring.seen == starts[index] + length:
            yield ring.window(index)
            index += 1
            if index == len(starts):
                return
    for start in starts[index:]:
        if start < ring.seen:
            yield ring.window(index, start)
            index += 1


def covering_windows(
    path: Path, frames: Iterator[Frame], window: int, stride: int, least: int, short: Short = "loop"
) -> Iterator[Window]:
    """Cut frames into windows as ``windows`` does, none of them of fewer than ``least`` frames."""
    ring = _Ring(window)
    whole = yield from _whole_windows(ring, frames, stride)
    if ring.seen > _end(whole, window, stride):
        yield _lengthened(least, ring.window(whole), path, short)


def _whole_windows(ring: _Ring, frames: Iterable[Frame], stride: int) -> Generator[Window, None, int]:
    """The windows as long as the ring, and as the generator's own value how many there are."""
    index = 0
    for frame in frames:
        ring.append(frame)
        if ring.seen == ring.size + index * stride:
            yield ring.window(index)
            index += 1
    return index


def _end(count: int, window: int, stride: int) -> int:
    """How many frames there are up to the end of ``count`` windows."""
    return window + (count - 1) * stride if count else 0


class _Ring:
    """The latest ``size`` frames, in one tensor that is written round and round.

    One tensor per frame would be simpler, but freeing thousands of them in turn leaves holes in the heap that
    amount to many windows.
    """

    def __init__(self, size: int) -> None:
        self.seen = 0
        self.size = size
        self._images = torch.empty(0, dtype=torch.uint8)
        self._times: deque[float] = deque(maxlen=size)

    def append(self, frame: Frame) -> None:
        capacity = len(self._images)
        if self.seen == capacity < self.size:
            # Memory grows with the frames, since a window may be far longer than the video.
            room = min(max(64, capacity), self.size - capacity)
            self._images = torch.cat((self._images, frame.image.new_empty((room, *frame.image.shape))))
        self._images[self.seen % self.size] = frame.image
        self._times.append(frame.time)
        self.seen += 1

    def window(self, index: int, start: int = 0) -> Window:
        """The frames that are held, those before frame ``start`` left out."""
        held = len(self._times)
        oldest = self.seen % self.size if held == self.size else 0
        first = self.seen - held
        left_out = max(start - first, 0)
        return Window(
            index=index,
            start=first + left_out,
            frames=torch.cat((self._images[oldest:held], self._images[:oldest]))[left_out:],
            times=tuple(self._times)[left_out:],
        )


def _lengthened(frames: int, window: Window, path: Path, short: Short) -> Window:
    """The window with at least so many frames, by ``short``."""
    count = len(window.times)
    if count >= frames:
        return window
    if short == "error":
        raise VideoError(path, f"has {count} frames, fewer than the {frames} that the network needs")
    taken = [i % count if short == "loop" else min(i, count - 1) for i in range(frames)]
    return replace(window, frames=window.frames[taken], times=tuple(window.times[i] for i in taken))
