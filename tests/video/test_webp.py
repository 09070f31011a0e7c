"""Animated WebP: its images on their canvas, each for its time."""

from __future__ import annotations

import random
import struct
import warnings
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from fasti3d.video import VideoError, VideoWarning, count_frames, probe, read_frames

DISPOSE, REPLACE = 1, 2
Image = tuple[np.ndarray, tuple[int, int], int, int]  # RGBA, left and top, milliseconds, flags


def chunk(name: bytes, data: bytes) -> bytes:
    return name + struct.pack("<I", len(data)) + data + bytes(len(data) % 2)


def encoded(rgba: np.ndarray, lossless: bool) -> bytes:
    """The chunks of a still image without those of its container."""
    context = av.CodecContext.create("libwebp", "w")
    context.height, context.width = rgba.shape[:2]
    context.pix_fmt = "bgra" if lossless else "yuva420p"
    context.time_base = Fraction(1, 25)
    context.options = {"lossless": "1"} if lossless else {"quality": "100"}
    frame = av.VideoFrame.from_ndarray(rgba, format="rgba").reformat(format=context.pix_fmt)
    data = b"".join(map(bytes, [*context.encode(frame), *context.encode(None)]))
    chunks = data[12:]
    return chunks[18:] if chunks.startswith(b"VP8X") else chunks


def write(path: Path, size: int, images: list[Image], *, lossless: bool = True) -> Path:
    def number(value: int) -> bytes:
        return value.to_bytes(3, "little")

    body = chunk(b"VP8X", bytes([2 | 16, 0, 0, 0]) + number(size - 1) * 2) + chunk(b"ANIM", bytes(6))
    for rgba, (left, top), delay, flags in images:
        height, width = rgba.shape[:2]
        head = b"".join(map(number, (left // 2, top // 2, width - 1, height - 1, delay)))
        body += chunk(b"ANMF", head + bytes([flags]) + encoded(rgba, lossless))
    path.write_bytes(chunk(b"RIFF", b"WEBP" + body))
    return path


def flat(colour: tuple[int, int, int, int], size: int) -> np.ndarray:
    return np.full((size, size, 4), colour, np.uint8)


def animation(path: Path, count: int = 6) -> Path:
    return write(path, 16, [(flat((40 * i, 0, 0, 255), 16), (0, 0), 100 + 20 * i, 0) for i in range(count)])


def test_images_are_shown_for_their_time(tmp_path: Path) -> None:
    path = animation(tmp_path / "a.webp")
    frames = list(read_frames(path, fps=None, resize=None, crop=None, strict=True))
    assert [int(frame.image[0, 0, 0]) for frame in frames] == [0, 40, 80, 120, 160, 200]
    assert [frame.time for frame in frames] == pytest.approx([0, 0.1, 0.22, 0.36, 0.52, 0.7])
    sampled = [int(frame.image[0, 0, 0]) for frame in read_frames(path, fps=10, resize=None, crop=None)]
    assert sampled == [0, 40, 40, 80, 120, 120, 160, 200, 200]
    assert count_frames(path, fps=10) == count_frames(path, fps=10, decode=True) == 9
    info = probe(path)
    assert (info.frames, info.width, info.height, info.codec) == (6, 16, 16, "webp")
    assert (info.duration, info.fps) == pytest.approx((0.9, 6 / 0.9))


def test_images_are_laid_over_replaced_and_taken_away(tmp_path: Path) -> None:
    red, half_blue, nothing = (255, 0, 0, 255), (0, 0, 255, 128), (9, 9, 9, 0)
    images = [
        (flat(red, 8), (0, 0), 100, 0),
        (flat(half_blue, 4), (2, 2), 100, DISPOSE),  # over red, and gone afterwards
        (flat(nothing, 2), (0, 0), 100, 0),  # leaves what is there
        (flat(half_blue, 2), (0, 0), 0, REPLACE),
    ]
    path = write(tmp_path / "a.webp", 8, images)
    frames = list(read_frames(path, fps=None, resize=None, crop=None))
    shown = [(tuple(f.image[0, 0].tolist()), tuple(f.image[3, 3].tolist())) for f in frames]
    black = (0, 0, 0)
    assert shown == [
        ((255, 0, 0), (255, 0, 0)),
        ((255, 0, 0), (127, 0, 128)),
        ((255, 0, 0), black),
        ((0, 0, 128), black),
    ]
    assert count_frames(path) == 10  # an image of no time is shown for 100 ms, as by browsers


def test_lossy_images_with_alpha(tmp_path: Path) -> None:
    path = write(tmp_path / "a.webp", 16, [(flat((0, 200, 0, 128), 16), (0, 0), 40, 0)] * 2, lossless=False)
    assert b"ALPH" in path.read_bytes()
    first, second = read_frames(path, fps=None, resize=None, crop=None)
    assert abs(first.image.float().mean((0, 1)).numpy() - (0, 100, 0)).max() < 4
    assert abs(second.image.float().mean((0, 1)).numpy() - (0, 150, 0)).max() < 4


def test_cut_off(tmp_path: Path) -> None:
    path = animation(tmp_path / "a.webp")
    data = path.read_bytes()
    path.write_bytes(data[: data.rindex(b"ANMF") + 30])
    with pytest.warns(VideoWarning, match="is cut off"):
        assert len(list(read_frames(path, fps=None))) == 5
    with pytest.raises(VideoError, match="is cut off"):
        list(read_frames(path, strict=True))
    path.write_bytes(data[: data.index(b"ANMF") + 30])
    for read in (probe, lambda p: next(read_frames(p))):
        with pytest.raises(VideoError, match="gives no frame: is cut off"):
            read(path)


def test_canvases_and_places_beyond_reason(tmp_path: Path) -> None:
    path = animation(tmp_path / "a.webp", 1)
    data = bytearray(path.read_bytes())
    data[24:30] = b"\xff\x3f\0" * 2
    path.write_bytes(data)
    with pytest.raises(VideoError, match=r"16384x16384.*8192x8192|8192x8192"):
        next(read_frames(path))
    write(path, 16, [(flat((1, 2, 3, 255), 16), (4, 0), 40, 0)])
    with pytest.raises(VideoError, match="outside of its canvas"):
        next(read_frames(path))


def test_mutations(tmp_path: Path) -> None:
    from test_video_fuzz import MUTATIONS, mutated

    path = animation(tmp_path / "a.webp", 3)
    data, dice, errors = path.read_bytes(), random.Random(5), 0
    for _ in range(MUTATIONS):
        path.write_bytes(mutated(data, dice))
        for read in (probe, count_frames, lambda p: list(read_frames(p, fps=None, resize=None, crop=None))):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", VideoWarning)
                try:
                    read(path)
                except VideoError:
                    errors += 1
    assert 0 < errors < 3 * MUTATIONS
