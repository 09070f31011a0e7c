"""Reads what a video declares about itself."""

from __future__ import annotations

import os
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from fasti3d.video import webp
from fasti3d.video.decode import decoded, duration, frame_rate, is_animated_webp
from fasti3d.video.orientation import orientation
from fasti3d.video.source import images


@dataclass(frozen=True)
class VideoInfo:
    """What a video declares about itself; None for what it does not declare.

    Attributes:
        path: the file or folder.
        width, height: in stored pixels, after rotation.
        fps: average frames per second.
        duration: seconds.
        frames: the number of frames.
        codec: FFmpeg's name of the codec, of a folder that of its first image.
        rotation: degrees clockwise by which frames are turned to be shown: 0, 90, 180 or 270.
    """

    path: Path
    width: int
    height: int
    fps: float | None
    duration: float | None
    frames: int | None
    codec: str
    rotation: int


def probe(path: str | os.PathLike[str]) -> VideoInfo:
    """Read the header of a video file, or of the first image of a folder, and decode one frame.

    Args:
        path: a video file, or a folder of images.

    Raises:
        VideoError: the video is missing, empty or has no video stream, or its first frame cannot be decoded.

    Example:
        >>> probe("video.mp4").fps  # doctest: +SKIP
        29.97
    """
    path = Path(path)
    files = images(path) if os.path.isdir(path) else None
    with closing(decoded(files[0] if files else path)) as frames:
        frame, stream = next(frames)
        return describe(path, frame, stream, files)


def describe(
    path: Path, frame: VideoFrame, stream: VideoStream, files: list[Path] | None = None
) -> VideoInfo:
    """What a video declares, from its first frame; ``files`` are the images of a folder."""
    if files is None and is_animated_webp(stream, path):
        seconds = list(webp.delays(path))
        length = sum(seconds)
        return VideoInfo(
            path, frame.width, frame.height, len(seconds) / length, length, len(seconds), "webp", 0
        )
    turn = orientation(frame)
    width, height = turn.size(frame.width, frame.height)
    return VideoInfo(
        path=path,
        width=width,
        height=height,
        fps=None if files else frame_rate(stream),
        duration=None if files else duration(stream),
        frames=len(files) if files else stream.frames or None,
        codec=stream.codec_context.name,
        rotation=turn.rotation,
    )
