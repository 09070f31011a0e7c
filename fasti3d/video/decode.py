"""Decodes a file to frames in order of presentation; VideoError is the only error of a file."""

from __future__ import annotations

import stat
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Literal

import av
from av.container import InputContainer
from av.error import ArgumentError, FFmpegError
from av.packet import Packet
from av.stream import Disposition
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from fasti3d.limits import MAX_PIXELS, MAX_SIDE
from fasti3d.video import webp
from fasti3d.video.clock import MAX_STEP, MAX_STEP_RESTARTING, Clock
from fasti3d.video.errors import BreakError, VideoError, blamed, is_shortage

# Only plain files: a playlist that poses as a video must not reach the network, and a name is not a pattern:
# "frame%03d.png" is one file.
_OPTIONS = {"protocol_whitelist": "file", "pattern_type": "none"}
# Also while FFmpeg looks for what streams there are, for which it decodes some frames.
_DECODER_OPTIONS = {"max_pixels": str(MAX_PIXELS)}

# FFmpeg renders text files as video of a terminal.
_TEXT_FORMATS = frozenset({"tty", "bin", "xbin", "adf", "idf"})
# Formats that only name other files, any number of times.
_PLAYLISTS = frozenset({"concat", "hls", "dash", "imf", "sdp", "rtsp", "webm_dash_manifest"})
# AVFMT_TS_DISCONT: time stamps may restart in the middle.
_RESTARTING = 0x200

# For files that do not declare a rate: the rate that the network was trained at.
DEFAULT_FPS = 25.0

# A file that ends this much before its declared end, in seconds, is truncated.
_MISSING = 0.5


# What PyAV itself raises for broken files, for example for streams that appear late.
PYAV_ERRORS = (LookupError, ValueError, ArithmeticError, NotImplementedError)


def said(error: Exception) -> str:
    """What an error says, without the name of a file."""
    return getattr(error, "strerror", None) or str(error)


@contextmanager
def opened(path: Path) -> Iterator[tuple[InputContainer, VideoStream]]:
    """The container and its main video stream.

    Raises:
        VideoError: no such file, or nothing in it that can be decoded.
    """
    with _container(path) as container:
        stream = container.streams.best("video")
        if not isinstance(stream, VideoStream) or stream.disposition & Disposition.attached_pic:
            kinds = sorted({s.type for s in container.streams})
            raise VideoError(path, f"has no video stream, only {' and '.join(kinds) or 'no stream at all'}")
        if container.format.name in _TEXT_FORMATS:
            raise VideoError(path, "is text, not a video")
        if not _PLAYLISTS.isdisjoint(container.format.name.split(",")):
            raise VideoError(path, "is a playlist, not a video: give the videos that it names")
        if stream.codec_context is None:
            raise VideoError(path, "holds video in a codec that this build of FFmpeg cannot decode")
        width, height = stream.codec_context.width, stream.codec_context.height
        if width * height > MAX_PIXELS:
            raise VideoError(
                path, f"has frames of {width}x{height}, more than {MAX_SIDE}x{MAX_SIDE} pixels: scale it down"
            )
        stream.codec_context.options = _DECODER_OPTIONS
        yield container, stream


def _container(path: Path) -> InputContainer:
    try:
        status = path.stat()
    except OSError as error:
        raise blamed(path, f"cannot be opened: {error.strerror}", error) from error
    except ValueError as error:
        raise VideoError(path, f"cannot be opened: {error}") from error  # a zero byte in the name
    if not stat.S_ISREG(status.st_mode):
        raise VideoError(path, "is not a regular file")
    if status.st_size == 0:
        raise VideoError(path, "is empty (0 bytes)")
    try:
        # With the protocol spelled out, no name ("http:x", "concat:a|b") can mean another one.
        return av.open(f"file:{path}", options=_OPTIONS | _DECODER_OPTIONS, metadata_errors="replace")
    except Exception as error:
        raise blamed(path, f"is not a video that FFmpeg can read ({said(error)})", error) from error


def is_animated_webp(stream: VideoStream, path: Path) -> bool:
    """Whether a stream's file is an animated WebP, and this build of FFmpeg reads only still ones."""
    return stream.container.format.name == "webp_pipe" and webp.is_animated(path)


def frame_rate(stream: VideoStream) -> float | None:
    """Frames per second as the file declares them."""
    rate = stream.average_rate or stream.guessed_rate
    return float(rate) if rate and rate > 0 else None


def clock(stream: VideoStream, origin: float | None = None) -> Clock:
    """What turns the stream's stamps into seconds; ``origin`` as for ``Clock``."""
    restarting = stream.container.format.flags & _RESTARTING
    max_step = MAX_STEP_RESTARTING if restarting else MAX_STEP
    return Clock(1.0 / (frame_rate(stream) or DEFAULT_FPS), max_step, origin)


def pixel_aspect(stream: VideoStream) -> float:
    """Width of a pixel over its height; 1 where the file does not say."""
    aspect = stream.sample_aspect_ratio
    return float(aspect) if aspect and aspect > 0 else 1.0


def duration(stream: VideoStream) -> float | None:
    """Seconds of video as the file declares them."""
    if stream.duration and stream.duration > 0 and stream.time_base:
        return float(stream.duration * stream.time_base)
    container = stream.container
    if isinstance(container, InputContainer) and container.duration and container.duration > 0:
        return container.duration / av.time_base
    return None


def decoded(path: Path) -> Generator[tuple[VideoFrame, VideoStream]]:
    """Every frame of a file, in order of presentation.

    Where the decoder meets damage that it can conceal, as most do with a few flipped bits, the
    frames go on. Where it gives up, the frames end.

    Raises:
        BreakError: after all the frames before the place where the file breaks off.
        VideoError: the file gives no frame at all.
    """
    given = 0
    try:
        try:
            for frame in _decode(path, "AUTO"):
                yield frame
                given += 1
        except (FFmpegError, *PYAV_ERRORS) as error:
            if is_shortage(error):
                raise
            # Threads that decode ahead report an error late, by as many frames as there are cores.
            # One thread gives the same frames on every machine: all those before the break.
            for frame in islice(_decode(path, "NONE"), given, None):
                yield frame
                given += 1
    except BreakError as error:
        if not given:
            raise VideoError(path, f"gives no frame: {error}") from error
        raise
    if not given:
        raise VideoError(path, "gives no frame: its video stream is empty")


def _decode(path: Path, threads: Literal["AUTO", "NONE"]) -> Iterator[tuple[VideoFrame, VideoStream]]:
    with opened(path) as (container, stream):
        if is_animated_webp(stream, path):
            for frame in webp.frames(path):
                yield frame, stream
            return
        stream.thread_type = threads
        packet: Packet | None = None
        extent = Extent()
        try:
            for packet in container.demux():
                extent.add(packet)
                if packet.stream.index != stream.index:
                    continue
                for frame in stream.codec_context.decode(packet):
                    frame.time_base = stream.time_base
                    yield frame, stream
        except (FFmpegError, *PYAV_ERRORS) as error:
            if threads == "AUTO":
                raise
            if is_shortage(error):
                raise
            for frame in _held_back(stream, packet):
                yield frame, stream
            hint = ""
            if isinstance(error, ArgumentError):  # what FFmpeg says of sizes, and of other things
                hint = f" (frames of more than {MAX_SIDE}x{MAX_SIDE} pixels are not decoded)"
            raise BreakError(f"breaks off: {said(error)}{hint}") from error
        missing = extent.missing(container, stream)
        if missing is not None:
            raise BreakError(missing)


def _held_back(stream: VideoStream, broken: Packet | None) -> list[VideoFrame]:
    """The frames that the decoder still holds for reordering and that are shown before the broken packet."""
    try:
        frames = stream.codec_context.decode(None)
    except (FFmpegError, *PYAV_ERRORS) as error:
        if is_shortage(error):
            raise
        return []
    if broken is not None and broken.pts is not None:
        frames = [frame for frame in frames if frame.pts is None or frame.pts < broken.pts]
    for frame in frames:
        frame.time_base = stream.time_base
    return frames


class Extent:
    """How far the packets of a file reach, against what it announces."""

    def __init__(self) -> None:
        self._end: float | None = None
        self._longest = 0.0

    def add(self, packet: Packet) -> None:
        if packet.pts is None or packet.time_base is None:
            return
        end = float((packet.pts + (packet.duration or 0)) * packet.time_base)
        if self._end is not None:
            self._longest = max(self._longest, end - self._end)
        self._end = end if self._end is None else max(self._end, end)

    def missing(self, container: InputContainer, stream: VideoStream) -> str | None:
        """A sentence about what is missing; None if nothing is, or if it is unknown."""
        if self._end is None or container.duration is None:
            return None
        # Some formats count their duration from zero and some from the first stamp: where the two
        # differ, the lenient one is taken.
        end = self._end
        announced = container.duration / av.time_base
        if container.format.name == "avi" and stream.average_rate:
            # FFmpeg shortens the duration of an AVI to what is left of it, but not its count of frames.
            announced = max(announced, float(stream.frames / stream.average_rate))
        # A still picture at the end may stay for as long as another one did.
        if announced - end <= max(_MISSING, 2 * self._longest):
            return None
        return f"is cut off: it ends at {end:.2f} s of the {announced:.2f} s that it announces"
