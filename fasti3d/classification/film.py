"""Frames for a filmstrip, chosen while a video is read."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from fasti3d.video import Window


class FilmFrame(NamedTuple):
    """A frame of the video as the network saw it: uint8 (H, W, 3), shown at ``time`` seconds."""

    time: float
    image: Tensor


class Film:
    """A bounded number of frames, evenly spread over a video whose length is not known before its end.

    Args:
        min_frames: The least number of frames that a long video keeps; there are fewer than twice as many.
    """

    def __init__(self, min_frames: int) -> None:
        self._min_frames = min_frames
        self._step = 1
        self._kept: list[tuple[int, FilmFrame]] = []

    def add(self, window: Window) -> None:
        """Take the frames of a window that are new."""
        last = self._kept[-1][0] if self._kept else -1
        for offset, moment in enumerate(window.times):
            index = window.start + offset
            if index <= last or index % self._step:
                continue
            # A copy: a view would keep the whole window.
            self._kept.append((index, FilmFrame(moment, window.frames[offset].clone())))
            if len(self._kept) == 2 * self._min_frames:
                self._step *= 2
                self._kept = [(i, frame) for i, frame in self._kept if i % self._step == 0]

    def frames(self) -> tuple[FilmFrame, ...]:
        """Return the frames that are kept, in order."""
        return tuple(frame for _, frame in self._kept)
