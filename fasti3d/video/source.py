"""Reads a video file or a folder of images as frames in order, each with its time."""

from __future__ import annotations

import re
from collections.abc import Generator, Iterator
from contextlib import closing
from pathlib import Path

from fasti3d.utils.naming import quoted
from fasti3d.video.clock import Clock
from fasti3d.video.decode import clock, decoded, pixel_aspect
from fasti3d.video.errors import BreakError, VideoError, blamed, warn
from fasti3d.video.orientation import shown_size
from fasti3d.video.timed_frame import TimedFrame

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp")

# What denseflow writes beside frames.
_FLOW = re.compile(r"flow_[xy]_\d+\.", re.IGNORECASE)


def is_frame(name: str) -> bool:
    """Whether a file is an image of a video, by its name; hidden files are other programs' metadata."""
    image = name.lower().endswith(IMAGE_SUFFIXES)
    return image and not name.startswith(".") and not _FLOW.match(name)


def images(folder: Path) -> list[Path]:
    """The image files of a folder in natural order: frame2 before frame10; without pictures of flow.

    Raises:
        VideoError: there are none.
    """
    try:
        files = [p for p in folder.iterdir() if is_frame(p.name) and p.is_file()]
    except OSError as error:
        raise blamed(folder, f"cannot be read: {error.strerror}", error) from error
    if not files:
        raise VideoError(folder, f"is a folder without images ({', '.join(IMAGE_SUFFIXES)})")
    return sorted(files, key=_natural)


def _natural(path: Path) -> tuple[list[tuple[int, str]], str]:
    # Digits and the text between them alternate, so that numbers only ever meet numbers.
    parts = re.split(r"(\d+)", path.name)
    key = [(int(part), "") if i % 2 else (0, part.lower()) for i, part in enumerate(parts)]
    return key, path.name


def file_frames(path: Path, *, strict: bool) -> Generator[TimedFrame]:
    """Yield every frame of a video file.

    A file that breaks in the middle ends there with a VideoWarning, or with a VideoError if strict.
    A broken clock is repaired as ``Clock`` says, with a VideoWarning.

    Raises:
        VideoError: nothing can be decoded.
    """
    ticking: Clock | None = None
    try:
        for frame, stream in decoded(path):
            if ticking is None:
                ticking = clock(stream)
            repaired = ticking.repaired
            tick = float(frame.time_base or 0)
            time, duration = ticking(None if frame.pts is None else frame.pts * tick, frame.duration * tick)
            if ticking.repaired and not repaired:
                warn(path, f"its clock goes back or jumps, first at {time:.2f} s; the frames follow on")
            yield TimedFrame(frame, time, duration, pixel_aspect(stream))
    except BreakError as error:
        if strict:
            raise VideoError(path, str(error)) from error
        warn(path, f"{error}; the frames before that are given")


def folder_frames(folder: Path, *, fps: float, strict: bool, start: int = 0) -> Iterator[TimedFrame]:
    """Yield the images of a folder from number ``start`` on, ``fps`` of them per second.

    Raises:
        VideoError: there is no image, the first cannot be decoded (any, if strict), or two differ in size.
    """
    first: tuple[str, tuple[int, int]] | None = None
    for index, path in enumerate(images(folder)[start:], start):
        try:
            with closing(file_frames(path, strict=strict)) as pictures:
                picture = next(pictures)
        except VideoError as error:
            if strict or first is None:
                raise
            name = quoted(path.name)
            warn(folder, f"breaks off before {name}, which {error.reason}; the images before it are given")
            return
        size = shown_size(picture.frame)
        if first is None:
            first = (path.name, size)
        if size != first[1]:
            raise VideoError(
                folder,
                f"holds images of different size: {quoted(first[0])} is {first[1][0]}x{first[1][1]}, "
                f"{quoted(path.name)} is {size[0]}x{size[1]}",
            )
        yield picture._replace(time=index / fps, duration=1 / fps)
