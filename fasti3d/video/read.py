"""Reads the sampled RGB frames of a video, one at a time."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from av.error import FFmpegError
from av.video.frame import VideoFrame
from torch import Tensor

from fasti3d.limits import check_arguments
from fasti3d.video.decode import DEFAULT_FPS, PYAV_ERRORS, said
from fasti3d.video.deinterlace import deinterlaced
from fasti3d.video.errors import VideoError, blamed, warn
from fasti3d.video.sample import sample
from fasti3d.video.source import file_frames, folder_frames
from fasti3d.video.timed_frame import TimedFrame
from fasti3d.video.transform import FrameTransform, SizeError


@dataclass(frozen=True, eq=False)
class Frame:
    """One frame of the sampled sequence.

    Attributes:
        index: its place in the sequence, from 0.
        time: seconds since the video's first frame at which it is presented: index / fps, or the
            frame's own time with ``fps=None``.
        image: uint8 (H, W, 3), RGB.
    """

    index: int
    time: float
    image: Tensor


def read_frames(
    path: str | os.PathLike[str],
    *,
    fps: float | None = 25.0,
    resize: int | None = 256,
    crop: int | None = 224,
    strict: bool = False,
) -> Iterator[Frame]:
    """Decode a video and sample it by its time stamps, in bounded memory.

    Frames are rotated upright, deinterlaced where flagged (yadif), blended onto black, and converted to RGB
    by their metadata (BT.601 limited by default; no tone mapping).

    Args:
        path: a video file that FFmpeg reads, or a folder of images (png, jpg, bmp, webp) of one size in
            natural order (frame2 before frame10).
        fps: frames per second, 1e-6 to 1e6: at each of the times 0, 1/fps, 2/fps, … the last
            frame that starts no later (to a millisecond). Frames repeat where the video is slower: one at
            most 20,000 times, all together as often plus 100 times per frame, the last for at most a minute;
            time beyond is dropped with a VideoWarning. None yields every frame once. Images of a folder are
            not resampled (25 per second for None).
        resize: the short side in pixels after bilinear scaling (swscale's, averaging when it shrinks), 1 to
            8,192; pixels become square. None keeps the stored size.
        crop: the side in pixels of the center square, 1 to 8,192; None keeps the whole frame.
        strict: raise a VideoError if a file breaks or ends before its declared length; by default the
            frames before are yielded with a VideoWarning. Time stamps that decrease, or jump by more than 15
            minutes (1 minute in MPEG-TS and FLV), are repaired with a VideoWarning.

    Yields:
        Frame, in order.

    Raises:
        ValueError: an argument is out of range; raised by the call.
        VideoError: the video is missing, empty, not decodable, smaller than ``crop`` with ``resize=None``,
            above 2**26 pixels, or scaled with sides above 32 to 1; raised with the first frame.
        MemoryError, OSError: memory or file descriptors ran out.

    Example:
        >>> frame = next(read_frames("video.mp4"))  # doctest: +SKIP
        >>> frame.image.shape  # doctest: +SKIP
        torch.Size([224, 224, 3])
    """
    check_arguments(fps, resize, crop)
    return _read_frames(Path(path), fps, FrameTransform(resize, crop), strict)


def read_sized(
    path: str | os.PathLike[str],
    size: int | tuple[int, int],
    crop: int | None,
    *,
    fps: float | None,
    strict: bool,
) -> Iterator[Frame]:
    """As ``read_frames``, with the short side at ``size``, or stretched to that height and width."""
    check_arguments(fps, size if isinstance(size, int) else min(size), crop)
    return _read_frames(Path(path), fps, FrameTransform(size, crop), strict)


def read_transformed(
    path: str | os.PathLike[str],
    transform: Callable[[VideoFrame, float], Tensor],
    *,
    fps: float | None,
    strict: bool,
) -> Iterator[Frame]:
    """As ``read_frames``, with a function of (frame, pixel aspect) that makes the image (H, W, 3)."""
    check_arguments(fps, None, None)
    return _read_frames(Path(path), fps, transform, strict)


def _read_frames(
    path: Path, fps: float | None, transform: Callable[[VideoFrame, float], Tensor], strict: bool
) -> Iterator[Frame]:
    return transformed(path, samples_of(path, fps, strict), transform)


def samples_of(path: Path, fps: float | None, strict: bool) -> Iterator[tuple[int, float, TimedFrame]]:
    """Yield (index, time, picture) of the sampled sequence that ``read_frames`` converts to RGB."""
    pictures: Iterator[TimedFrame]
    if os.path.isdir(path):
        pictures = folder_frames(path, fps=fps or DEFAULT_FPS, strict=strict)
        return sample(pictures, None)
    pictures = deinterlaced(file_frames(path, strict=strict))
    return sample(pictures, fps, partial(warn, path))


def transformed(
    path: Path,
    samples: Iterator[tuple[int, float, TimedFrame]],
    transform: Callable[[VideoFrame, float], Tensor],
) -> Iterator[Frame]:
    """Yield sampled pictures of a video as frames; a repeated picture is transformed once.

    Raises:
        VideoError: a picture that cannot be transformed.
    """
    latest: tuple[TimedFrame, Tensor] | None = None
    try:
        for index, time, picture in samples:
            if latest is not None and latest[0] is picture:
                image = latest[1].clone()
            else:
                image = transform(picture.frame, picture.pixel_aspect)
            latest = (picture, image)
            yield Frame(index, time, image)
    except (FFmpegError, *PYAV_ERRORS) as error:
        raise blamed(path, f"cannot be converted to RGB: {said(error)}", error) from error
    except SizeError as error:
        raise VideoError(path, str(error)) from error
