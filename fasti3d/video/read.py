"""Sampled RGB frames of a video, one at a time."""

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
    """Decodes a video and samples it by its time stamps, in bounded memory.

    Frames are turned upright as their metadata says, deinterlaced where flagged (yadif), laid on
    black where transparent, and converted to RGB with the matrix and range of their metadata (BT.601
    limited where it says nothing, as FFmpeg does; HDR is not tone-mapped). They are scaled straight
    from the decoder's pixels, so that no more than one frame is ever in memory at full size in RGB.

    Args:
        path: a video file of any kind that FFmpeg reads, or a folder of images (png, jpg, bmp, webp)
            of one size in natural order (frame2 before frame10). The name is never taken for a
            pattern or an address.
        fps: frames a second of the result. At each of the times 0, 1/fps, 2/fps, … the frame that is
            shown then is taken: the last one that starts no later (to a millisecond). A video of a
            lower rate gets frames repeated, as by FFmpeg's fps filter, within limits: one frame at most
            20,000 times (13 minutes at 25), all together as often and 100 times more per frame of the
            file, and the last one for at most a minute. Time beyond that is left out, with a
            VideoWarning per file. None gives every frame once. The images of a folder are taken one to
            one, as if already at this rate (25 for None). 1e-6 to 1e6.
        resize: the short side in pixels after bilinear scaling (swscale's, which averages when it
            shrinks), 1 to 8,192; smaller videos are enlarged, non-square pixels made square. None keeps
            the stored size.
        crop: the side in pixels of the square cut from the centre, 1 to 8,192; None keeps the whole frame.
        strict: a file that breaks in the middle, or ends well before the length that it announces
            (GIF and MPEG-TS announce none), gives the frames before the break and a VideoWarning;
            with strict=True a VideoError in the warning's place. Time stamps that go back, or jump by
            more than 15 minutes (in MPEG-TS and FLV, whose stamps may start anew, by more than one) in a
            file that is not as slow throughout, are mended with a VideoWarning: the frame follows the one
            before it.

    Yields:
        Frame, in order.

    Raises:
        ValueError: an argument out of range, at the call.
        VideoError: missing, empty, without video, not decodable, smaller than ``crop`` where
            ``resize`` is None; frames of more than 2**26 pixels (8192x8192), stored or scaled, or to be
            scaled and more than 32 times as long as wide; when the first frame is asked for.
        MemoryError, OSError: memory or descriptors ran out.
    """
    check_arguments(fps, resize, crop)
    return _read_frames(Path(path), fps, FrameTransform(resize, crop), strict)


def read_transformed(
    path: str | os.PathLike[str],
    transform: Callable[[VideoFrame, float], Tensor],
    *,
    fps: float | None,
    strict: bool,
) -> Iterator[Frame]:
    """As ``read_frames``, but for what makes an image (H, W, 3) of a decoded frame and its pixels' aspect."""
    check_arguments(fps, None, None)
    return _read_frames(Path(path), fps, transform, strict)


def _read_frames(
    path: Path, fps: float | None, transform: Callable[[VideoFrame, float], Tensor], strict: bool
) -> Iterator[Frame]:
    pictures: Iterator[TimedFrame]
    if os.path.isdir(path):
        pictures = folder_frames(path, fps=fps or DEFAULT_FPS, strict=strict)
        samples = sample(pictures, None)
    else:
        pictures = deinterlaced(file_frames(path, strict=strict))
        samples = sample(pictures, fps, partial(warn, path))
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
