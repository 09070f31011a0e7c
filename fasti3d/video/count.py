"""Counts the frames of a video before it is read."""

from __future__ import annotations

import heapq
import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

from av.error import FFmpegError

from fasti3d.limits import check_arguments
from fasti3d.video import webp
from fasti3d.video.decode import DEFAULT_FPS, PYAV_ERRORS, clock, is_animated_webp, opened
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
    shown = file_frames(path, strict=False) if decode else _moments(path)
    return sum(1 for _ in sample(shown, fps, partial(warn, path)))


def _moments(path: Path) -> Iterator[_Moment]:
    """The packets of a file in order of presentation, by the clock that ``file_frames`` keeps."""
    with opened(path) as (container, stream):
        ticking = clock(stream)
        if is_animated_webp(stream, path):
            for delay in webp.delays(path):
                yield _Moment(*ticking(None, delay))
            return
        tick = float(stream.time_base or 0)
        waiting: list[tuple[int, int]] = []
        try:
            for packet in container.demux(stream):
                duration = packet.duration or 0
                if not packet.size or packet.is_discard:
                    continue
                if packet.pts is None:
                    yield _Moment(*ticking(None, duration * tick))
                    continue
                heapq.heappush(waiting, (packet.pts, duration))
                if len(waiting) > _REORDERED:
                    pts, duration = heapq.heappop(waiting)
                    yield _Moment(*ticking(pts * tick, duration * tick))
        except (FFmpegError, *PYAV_ERRORS) as error:
            if is_shortage(error):
                raise
            # The file breaks off: what came before it counts.
        for pts, duration in sorted(waiting):
            yield _Moment(*ticking(pts * tick, duration * tick))
