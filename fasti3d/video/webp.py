"""Reads animated WebP, whose container FFmpeg may not read: its images, one by one, on their canvas."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import IO

import numpy as np
from av.codec import CodecContext
from av.error import FFmpegError
from av.packet import Packet
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame
from av.video.reformatter import ColorRange

from fasti3d.limits import MAX_PIXELS, MAX_SIDE
from fasti3d.video.errors import BreakError, VideoError, blamed, is_shortage
from fasti3d.video.transform import INTERPOLATION

_ANIMATED, _ALPHA = 0x02, 0x10  # flags of the file
_DISPOSED, _NOT_BLENDED = 0x01, 0x02  # flags of an image
_MILLISECOND = Fraction(1, 1000)
# What browsers use for images with a delay of 0.
_DEFAULT_DELAY = 100


@dataclass(frozen=True)
class _Image:
    """One image of an animation: its place on the canvas, and where its data lie in the file."""

    left: int
    top: int
    width: int
    height: int
    delay: int
    flags: int
    start: int
    end: int


def is_animated(path: Path) -> bool:
    """Whether a file is an animated WebP."""
    with path.open("rb") as file:
        head = file.read(21)
    return (
        head[:4] == b"RIFF" and head[8:16] == b"WEBPVP8X" and len(head) == 21 and bool(head[20] & _ANIMATED)
    )


def delays(path: Path) -> Iterator[float]:
    """How long each image is shown, in seconds; as many as there are before the file breaks off."""
    try:
        with path.open("rb") as file:
            for image in _images(file):
                yield image.delay / 1000
    except BreakError:
        return
    except OSError as error:
        raise blamed(path, f"cannot be read: {error.strerror}", error) from error


def frames(path: Path) -> Iterator[VideoFrame]:
    """The canvas after each image, in RGBA, with a time stamp in milliseconds.

    Raises:
        BreakError: after the images before the place where the file breaks off.
        VideoError: a canvas that is too large.

    Source: the WebP container specification, developers.google.com/speed/webp/docs/riff_container.
    """
    try:
        with path.open("rb") as file:
            width, height = _canvas_size(file)
            if width * height > MAX_PIXELS:
                raise VideoError(
                    path, f"has frames of {width}x{height}, more than {MAX_SIDE}x{MAX_SIDE} pixels"
                )
            canvas = np.zeros((height, width, 4), np.uint8)
            time = 0
            for image in _images(file):
                if image.left + image.width > width or image.top + image.height > height:
                    raise BreakError("breaks off: an image of the animation lies outside of its canvas")
                place = canvas[image.top : image.top + image.height, image.left : image.left + image.width]
                _lay(_decoded(file, image), place, blended=not image.flags & _NOT_BLENDED)
                frame = VideoFrame.from_ndarray(canvas, format="rgba")
                frame.pts, frame.time_base, frame.duration = time, _MILLISECOND, image.delay
                yield frame
                time += image.delay
                if image.flags & _DISPOSED:
                    place[:] = 0
    except OSError as error:
        raise blamed(path, f"cannot be read: {error.strerror}", error) from error


def _chunks(file: IO[bytes], start: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """The name of each chunk between two places in a file, and where its data start and end."""
    while start + 8 <= end:
        file.seek(start)
        name, size = struct.unpack("<4sI", file.read(8))
        if start + 8 + size > end:
            raise BreakError("is cut off: it ends within an image of the animation")
        yield name, start + 8, start + 8 + size
        start += 8 + size + size % 2


def _canvas_size(file: IO[bytes]) -> tuple[int, int]:
    file.seek(24)
    data = file.read(6)
    if len(data) < 6:
        raise BreakError("is cut off in its header")
    return _number(data[:3]) + 1, _number(data[3:]) + 1


def _images(file: IO[bytes]) -> Iterator[_Image]:
    for name, start, end in _chunks(file, 12, os.fstat(file.fileno()).st_size):
        if name != b"ANMF":
            continue
        file.seek(start)
        head = file.read(min(16, end - start))
        if len(head) < 16:
            raise BreakError("breaks off: an image of the animation has no header")
        left, top, width, height, delay = (_number(head[i : i + 3]) for i in range(0, 15, 3))
        yield _Image(
            2 * left, 2 * top, width + 1, height + 1, delay or _DEFAULT_DELAY, head[15], start + 16, end
        )


def _decoded(file: IO[bytes], image: _Image) -> np.ndarray:
    """The pixels of an image, RGBA, by FFmpeg's decoder of still images."""
    parts = {}
    for name, start, end in _chunks(file, image.start, image.end):
        if name in (b"ALPH", b"VP8 ", b"VP8L"):
            file.seek(start)
            parts[name] = _chunk(name, file.read(end - start))
    body = b"".join(parts[name] for name in sorted(parts))  # alpha before what it belongs to
    if b"ALPH" in parts:
        sizes = (image.width - 1).to_bytes(3, "little") + (image.height - 1).to_bytes(3, "little")
        body = _chunk(b"VP8X", bytes([_ALPHA, 0, 0, 0]) + sizes) + body
    context = CodecContext.create("webp", "r")
    assert isinstance(context, VideoCodecContext)
    context.options = {"max_pixels": str(MAX_PIXELS)}
    try:
        found = [*context.decode(Packet(_chunk(b"RIFF", b"WEBP" + body))), *context.decode(None)]
    except FFmpegError as error:
        if is_shortage(error):
            raise
        raise BreakError(f"breaks off: {error.strerror}") from error
    if not found or (found[0].width, found[0].height) != (image.width, image.height):
        raise BreakError("breaks off: an image of the animation is not as its header says")
    rgba = found[0].reformat(format="rgba", interpolation=INTERPOLATION, dst_color_range=ColorRange.JPEG)
    return rgba.to_ndarray()


def _lay(image: np.ndarray, place: np.ndarray, *, blended: bool) -> None:
    """Puts pixels in a place of the canvas: over what is there, or instead of it."""
    alpha = image[..., 3:].astype(np.int32)
    if not blended or alpha.min() == 255:
        place[:] = image
        return
    above = alpha * 255
    below = place[..., 3:] * (255 - alpha)
    both = np.maximum(above + below, 1)
    place[..., :3] = (image[..., :3] * above + place[..., :3] * below + both // 2) // both
    place[..., 3:] = (above + below + 127) // 255


def _chunk(name: bytes, data: bytes) -> bytes:
    return name + struct.pack("<I", len(data)) + data + bytes(len(data) % 2)


def _number(data: bytes) -> int:
    return int.from_bytes(data, "little")
