"""Reads some consecutive frames of a video, decoding from the key frame before them."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import NoReturn

import numpy as np
import torch
from av.container import InputContainer
from av.error import FFmpegError
from av.video.frame import PictureType, VideoFrame
from av.video.stream import VideoStream
from numpy.typing import NDArray
from torch import Tensor

from fasti3d.limits import check_arguments
from fasti3d.video.decode import PYAV_ERRORS, clock, frame_rate, is_animated_webp, opened, pixel_aspect
from fasti3d.video.errors import VideoError, is_shortage
from fasti3d.video.orientation import shown_size
from fasti3d.video.read import Frame, samples_of, transformed
from fasti3d.video.sample import TOLERANCE, sample
from fasti3d.video.source import folder_frames
from fasti3d.video.survey import Survey
from fasti3d.video.timed_frame import TimedFrame
from fasti3d.video.transform import FrameTransform

# Containers index key frames by when they are decoded, which is some frames before they are shown.
_MARGIN = 4


class _SeekError(Exception):
    """The frames from the key frame on may differ from those of a whole run."""


def read_span(
    path: str | os.PathLike[str],
    first: int,
    count: int,
    *,
    fps: float = 25.0,
    resize: int | None = 256,
    crop: int | None = None,
    known: Survey | None = None,
) -> Tensor:
    """Return frames ``first`` to ``first + count - 1`` of those that ``read_frames`` yields, bit for bit.

    With a survey of the same video, decoding starts at the key frame before them. Where that may give other
    frames (a clock with breaks, interlaced frames, key frames that depend on others), or fails, and without
    a survey, it starts at the beginning.

    Args:
        path, fps, resize, crop: as for ``read_frames``.
        first: the first frame's index, from 0.
        count: the number of frames, at least 1.
        known: what ``survey`` returned for the video at this rate.

    Returns:
        uint8 (n, H, W, 3); n is less than ``count`` where the video ends before, at least 1.

    Raises:
        ValueError: an argument is out of range.
        VideoError: as ``read_frames``, or the video ends before frame ``first``.

    Example:
        >>> read_span("video.mp4", 100, 64).shape  # doctest: +SKIP
        torch.Size([64, 256, 340, 3])
    """
    check_arguments(fps, resize, crop)
    if first < 0 or count < 1:
        raise ValueError(f"first must be at least 0 and count at least 1, got {first} and {count}")
    path = Path(path)
    if known is not None and known.origin is not None and 0 < first < known.frames:
        frames = _sought(path, first, fps, FrameTransform(resize, crop), known)
        needed = min(count, known.frames - first)
        try:
            return _collected(path, frames, count, needed)
        except (_SeekError, VideoError, FFmpegError, *PYAV_ERRORS) as error:
            if is_shortage(error):
                raise
    transform = FrameTransform(resize, crop)
    return _collected(path, _from_start(path, first, fps, transform), count, 1)


def _collected(path: Path, frames: Iterator[Frame], count: int, needed: int) -> Tensor:
    """The images of the first ``count`` frames, of which there must be as many as are needed."""
    images: NDArray[np.uint8] | None = None
    done = 0
    for frame in islice(frames, count):
        image = frame.image.numpy()
        if images is None:
            images = np.empty((count, *image.shape), np.uint8)
        images[done] = image  # by NumPy, which wakes no other threads for it
        done += 1
    if images is None or done < needed:
        raise VideoError(path, "ends before the frames that are asked for")
    return torch.from_numpy(images[:done])


def _from_start(path: Path, first: int, fps: float, transform: FrameTransform) -> Iterator[Frame]:
    if os.path.isdir(path):
        samples = sample(folder_frames(path, fps=fps, strict=False, start=first), None)
        return transformed(path, samples, transform)
    # The first frame of a video fixes the size of all.
    samples = (item for item in samples_of(path, fps, False) if not 0 < item[0] < first)
    frames = transformed(path, samples, transform)
    return islice(frames, min(first, 1), None)


def _sought(path: Path, first: int, fps: float, transform: FrameTransform, known: Survey) -> Iterator[Frame]:
    with opened(path) as (container, stream):
        if is_animated_webp(stream, path) or not stream.time_base:
            raise _SeekError
        origin = known.origin
        assert origin is not None
        latest = first / fps + min(TOLERANCE, 0.25 / fps)
        before = latest - _MARGIN / (frame_rate(stream) or fps)
        if before > 0:
            container.seek(math.floor((before + origin) / stream.time_base), stream=stream)
        # Clips are read by many workers at a time, with one thread each.
        stream.thread_type = "NONE"
        pictures = _pictures(container, stream, latest, known, transform)
        yield from transformed(path, sample(pictures, fps, _refuse, first=first), transform)


def _refuse(said: str) -> NoReturn:
    raise _SeekError(said)


def _pictures(
    container: InputContainer, stream: VideoStream, latest: float, known: Survey, transform: FrameTransform
) -> Iterator[TimedFrame]:
    """The frames from the key frame on; _SeekError for anything that makes them other than in a whole run."""
    tick = float(stream.time_base or 0)
    ticking = clock(stream, known.origin)
    key: int | None = None
    begun = False
    for packet in container.demux(stream):
        if key is None:
            if packet.pts is None or not packet.is_keyframe:
                raise _SeekError
            key = packet.pts
        for frame in stream.codec_context.decode(packet):
            if frame.pts is None or frame.is_corrupt or frame.interlaced_frame:
                raise _SeekError
            if frame.pts < key:
                continue  # it depends on frames before the key frame
            frame.time_base = stream.time_base
            time, duration = ticking(frame.pts * tick, frame.duration * tick)
            if ticking.repaired:
                raise _SeekError
            if not begun:
                if frame.pts != key or time > latest or not _can_begin(frame, known):
                    raise _SeekError
                transform.begin(frame, pixel_aspect(stream))
                begun = True
            yield TimedFrame(frame, time, duration, pixel_aspect(stream))


def _can_begin(frame: VideoFrame, known: Survey) -> bool:
    """Whether a frame is whole by itself, unlike at a gradual refresh, and as large as the video's first."""
    return frame.pict_type == PictureType.I and shown_size(frame) == (known.width, known.height)
