"""Counts the frames of a video before it is read."""

from __future__ import annotations

import heapq
import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

from av.container import InputContainer
from av.error import FFmpegError
from av.video.stream import VideoStream

from fasti3d.limits import check_arguments
from fasti3d.video import webp
from fasti3d.video.clock import Clock
from fasti3d.video.decode import DEFAULT_FPS, PYAV_ERRORS, Extent, clock, is_animated_webp, opened, said
from fasti3d.video.errors import is_shortage, warn
from fasti3d.video.sample import sample
from fasti3d.video.source import file_frames, folder_frames, images

# Packets come in order of decoding; no codec reorders one by more than this many.
_REORDERED = 32


class _Moment(NamedTuple):
    """When a packet's picture is shown, in seconds."""

    time: float
    duration: float


def count_frames(path: str | os.PathLike[str], *, fps: float | None = 25.0, decode: bool = False) -> int:
    """Count the frames that ``read_frames`` yields.

    By default the time stamps of a file's packets, or the images of a folder, are counted, which takes much
    less time than decoding. The result is exact for undamaged files. For a file with damage or a broken
    clock the number of decoded frames may differ, so a caller that relies on the count must check it when
    reading.

    Args:
        path, fps: as for ``read_frames``.
        decode: decode every frame, for an exact count of damaged files too.

    Returns:
        The number of frames.

    Raises:
        ValueError: ``fps`` is out of range.
        VideoError: the video is missing, empty or has no video stream; with ``decode``, also if it cannot be
            decoded.

    Warns:
        VideoWarning: frames are repeated up to a limit, as for ``read_frames``.

    Example:
        >>> count_frames("video.mp4", fps=25.0)  # doctest: +SKIP
        250
    """
    check_arguments(fps, None, None)
    path = Path(path)
    if os.path.isdir(path):
        if not decode:
            return len(images(path))
        return sum(1 for _ in folder_frames(path, fps=fps or DEFAULT_FPS, strict=False))
    shown = file_frames(path, strict=False) if decode else PacketMoments(path)
    return sum(1 for _ in sample(shown, fps, partial(warn, path)))


class PacketMoments:
    """The packets of a file in order of presentation, by the clock that ``file_frames`` keeps.

    Attributes, complete after the iteration:
        problem: why the file ends early; None if it does not.
        is_regular: whether the clock has no breaks, and every packet a stamp of its own that a seek can find.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.problem: str | None = None
        self.is_regular = True

    def __iter__(self) -> Iterator[_Moment]:
        with opened(self._path) as (container, stream):
            ticking = clock(stream)
            if is_animated_webp(stream, self._path):
                self.is_regular = False
                for delay in webp.delays(self._path):
                    yield _Moment(*ticking(None, delay))
                return
            extent = Extent()
            try:
                yield from self._presented(container, stream, ticking, extent)
                self.problem = extent.missing(container, stream)
            finally:
                self.is_regular = self.is_regular and not ticking.repaired

    def _presented(
        self, container: InputContainer, stream: VideoStream, ticking: Clock, extent: Extent
    ) -> Iterator[_Moment]:
        tick = float(stream.time_base or 0)
        waiting: list[tuple[int, int]] = []
        latest: int | None = None
        is_reordered = False
        try:
            for packet in container.demux():
                extent.add(packet)
                if packet.stream.index != stream.index:
                    continue
                duration = packet.duration or 0
                if not packet.size or packet.is_discard:
                    continue
                if packet.pts is None:
                    self.is_regular = False
                    yield _Moment(*ticking(None, duration * tick))
                    continue
                is_reordered |= latest is not None and packet.pts < latest
                latest = packet.pts
                heapq.heappush(waiting, (packet.pts, duration))
                if len(waiting) > _REORDERED:
                    pts, duration = heapq.heappop(waiting)
                    yield _Moment(*ticking(pts * tick, duration * tick))
        except (FFmpegError, *PYAV_ERRORS) as error:
            if is_shortage(error):
                raise
            # What came before it counts.
            self.problem = f"breaks off: {said(error)}"
        for pts, duration in sorted(waiting):
            yield _Moment(*ticking(pts * tick, duration * tick))
        # Where frames are reordered and stamps are not, as of H.264 in AVI, those are not of presentation.
        # Of MPEG-4, FFmpeg knows the reordered ones by itself.
        context = stream.codec_context
        if context.has_b_frames and not is_reordered and context.name != "mpeg4":
            self.is_regular = False
