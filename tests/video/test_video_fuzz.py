"""Mutated files of many kinds: frames or a VideoError, and never more of them than the limits allow."""

from __future__ import annotations

import random
import warnings
from pathlib import Path

import pytest
from test_limits import write_png, write_y4m
from video_making import WriteVideo, grey

from fasti3d.limits import MAX_REPEATS, REPEATS_PER_PICTURE
from fasti3d.video import VideoError, VideoWarning, count_frames, probe, read_frames

KINDS = {
    "v.mp4": "mpeg4",
    "v.mov": "libx264",
    "v.mkv": "ffv1",
    "v.avi": "mpeg4",
    "v.ts": "mpeg2video",
    "v.flv": "flv",
    "v.webm": "libvpx",
    "v.y4m": "",
    "v.png": "",
}
MUTATIONS = 60

EXTREMES = (b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\x80\0\0\0", b"\0\0\0\0", b"\xff\xff", b"99999999")


def mutated(data: bytes, rng: random.Random) -> bytes:
    """Bits turned, values made extreme (mostly near the ends, in headers), cut off, or spliced."""
    changed = bytearray(data)
    how = rng.randrange(4)
    if how == 0:
        for _ in range(rng.choice((1, 8, 64))):
            changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    elif how == 1:
        value = rng.choice(EXTREMES)
        start = rng.choice((rng.randrange(len(changed)), rng.randrange(min(len(changed), 400))))
        start = rng.choice((start, len(changed) - start))
        changed[start : start + len(value)] = value
    elif how == 2:
        del changed[rng.randrange(len(changed)) :]
    else:
        start, end = sorted(rng.choices(range(len(changed)), k=2))
        changed[start:start] = changed[start : min(end, start + 500)]
    return bytes(changed)


@pytest.mark.parametrize("name", KINDS)
def test_mutations(write_video: WriteVideo, tmp_path: Path, name: str) -> None:
    if KINDS[name]:
        path = write_video(name, [grey(20 * i, 16, 16) for i in range(6)], codec=KINDS[name], rate=25)
    else:
        path = {"v.y4m": lambda p: write_y4m(p, 3), "v.png": lambda p: write_png(p, 16, 16)}[name](
            tmp_path / name
        )
    data = path.read_bytes()
    rng = random.Random(name)
    outcomes, said = set(), set()
    for _ in range(MUTATIONS):
        path.write_bytes(mutated(data, rng))
        # As many pictures as there are bytes would be very many.
        limit = MAX_REPEATS + (REPEATS_PER_PICTURE + 1) * (len(data) + 500)
        for read in (
            lambda: bool(probe(path)),
            lambda: count_frames(path),
            lambda: sum(1 for _ in read_frames(path, resize=16, crop=8)),
            lambda: sum(1 for _ in read_frames(path, fps=None, resize=None, crop=None, strict=True)),
        ):
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                warnings.simplefilter("ignore", VideoWarning)
                try:
                    assert 0 <= read() <= limit
                    outcomes.add("frames")
                except VideoError as error:
                    outcomes.add("error")
                    said.add(str(error))
    assert outcomes == {"frames", "error"}
    assert all(text.startswith(f"{path}: ") and "\n" not in text for text in said)
