"""Files of a few bytes that ask for very much, and real ones that are slow: which is which."""

from __future__ import annotations

import struct
import warnings
import zlib
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from video_making import WriteVideo, grey

from fasti3d.limits import MAX_LAST, MAX_REPEATS, REPEATS_PER_PICTURE
from fasti3d.video import VideoError, VideoWarning, count_frames, probe, read_frames
from fasti3d.video.clock import MAX_STEP, MAX_STEP_RESTARTING, Clock
from fasti3d.video.sample import sample


def write_y4m(
    path: Path, frames: int, rate: str = "25:1", aspect: str = "1:1", size: str = "W16 H16"
) -> Path:
    """Frames of 16x16 pixels, whatever the header says."""
    frame = b"FRAME\n" + bytes([100]) * 256 + bytes([128]) * 128
    path.write_bytes(f"YUV4MPEG2 {size} F{rate} Ip A{aspect} C420jpeg\n".encode() + frame * frames)
    return path


def write_png(path: Path, width: int, height: int) -> Path:
    """Black; a thousandth of its pixels in bytes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    pixels = zlib.compress(bytes((width + 1) * height), 1)
    parts = chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + parts)
    return path


# How many frames ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("frames", "rate", "said"),
    [
        (1, "1:1000000000", r"stays for 1e\+09 s, from 0\.00 s on, which is cut to 60 s"),
        (20, "1:1000000000", r"stays for 1e\+09 s, from 0\.00 s on, which is cut to 800\.04 s"),
        (12, "1:3600", r"stays for 3600 s"),
    ],
)
def test_a_slow_rate_is_repeated_within_limits(tmp_path: Path, frames: int, rate: str, said: str) -> None:
    path = write_y4m(tmp_path / "slow.y4m", frames, rate)
    with pytest.warns(VideoWarning, match=said) as caught:
        times = [frame.time for frame in read_frames(path, resize=16, crop=8)]
    assert len(caught) == 1
    assert times == [i / 25 for i in range(len(times))]
    assert 1500 <= len(times) <= MAX_REPEATS + (REPEATS_PER_PICTURE + 1) * frames
    with pytest.warns(VideoWarning, match=said):
        assert count_frames(path) == len(times)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert count_frames(path, fps=None) == sum(1 for _ in read_frames(path, fps=None)) == frames


def test_gaps_that_add_up_are_repeated_within_limits(write_video: WriteVideo) -> None:
    path = write_video("gaps.mkv", [grey(i) for i in range(60)], pts=[59_000 * i for i in range(60)])
    with pytest.warns(
        VideoWarning, match=r"stays for 59 s, from 826\.00 s on, which is cut to 34\.6 s"
    ) as caught:
        frames = sum(1 for _ in read_frames(path, resize=16, crop=8))
    assert len(caught) == 1
    assert frames < MAX_REPEATS + (REPEATS_PER_PICTURE + 1) * 60


def test_a_rate_beyond_reason_is_refused_and_a_high_one_limited(tmp_path: Path) -> None:
    path = write_y4m(tmp_path / "v.y4m", 3)
    for fps in (1e9, 1e-9, 5e-324, 1e308):
        for read in (read_frames, count_frames):
            with pytest.raises(ValueError, match=r"fps must be a positive number, from 1e-06 to 1e\+06"):
                read(path, fps=fps)
    with pytest.warns(VideoWarning, match="stays for 0.04 s"):
        assert count_frames(path, fps=1e6) == MAX_REPEATS + 3 * REPEATS_PER_PICTURE + 3
    assert count_frames(path, fps=1e-6) == 1


def test_each_limit_to_the_frame() -> None:
    def given(times: list[float], last: float) -> tuple[list[int], list[str]]:
        pictures = [SimpleNamespace(time=t, duration=last) for t in times]
        said: list[str] = []
        counts = [0] * len(times)
        for index, time, picture in sample(iter(pictures), 1.0, said.append):
            assert time == index == sum(counts)
            counts[pictures.index(picture)] += 1
        return counts, said

    most = MAX_REPEATS + 1
    assert given([0.0, most, most + 1.0], 1.0) == ([most, 1, 1], [])
    counts, (said,) = given([0.0, most + 1.0, most + 2.0], 1.0)
    assert counts == [most, 1, 1]
    assert "stays for 20002 s, from 0.00 s on, which is cut to 20001 s" in said
    # All together: 20,000 and a hundred for each picture so far.
    counts, (said,) = given([0.0, most, 2.0 * most, 3.0 * most], 1.0)
    assert counts == [most, 2 * REPEATS_PER_PICTURE + 1, REPEATS_PER_PICTURE + 1, 1]
    assert "from 20001.00 s on" in said
    assert given([0.0], MAX_LAST) == ([60], [])
    counts, (said,) = given([0.0], MAX_LAST + 1)
    assert counts == [60]


def no_warnings() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


silent = pytest.fixture(no_warnings)


@pytest.mark.usefixtures("silent")
def test_real_slow_videos_are_given_whole(write_video: WriteVideo) -> None:
    def frames(name: str, stamps: list[int], **options: object) -> int:
        path = write_video(name, [grey(i) for i in range(len(stamps))], pts=stamps, **options)
        return count_frames(path)

    # A screen recording that rests for ten minutes; a film at a frame per second; slides of 30 s each.
    assert frames("still.mkv", [*range(0, 400, 40), *range(600_000, 600_400, 40)]) == 15_010
    assert frames("lapse.mp4", [1000 * i for i in range(220)], codec="mpeg4", rate=1) == 220 * 25
    assert frames("slides.mkv", [30_000 * i for i in range(25)]) >= 24 * 750


@pytest.mark.usefixtures("silent")
@pytest.mark.parametrize("name", ["lapse.mkv", "lapse.mp4"])
@pytest.mark.parametrize("seconds", [70, 600])
def test_a_time_lapse_is_no_broken_clock(write_video: WriteVideo, name: str, seconds: int) -> None:
    stamps = [1000 * seconds * i for i in range(8)]
    path = write_video(name, [grey(i) for i in range(8)], pts=stamps, codec="mpeg4")
    assert [frame.time for frame in read_frames(path, fps=None)] == [seconds * i for i in range(8)]
    assert count_frames(path, fps=None) == 8


@pytest.mark.parametrize(
    ("stamps", "first", "max_step", "repaired"),
    [
        ([0, 70, 140], 0.04, MAX_STEP, False),
        ([0, 70, 140], 0.04, MAX_STEP_RESTARTING, True),
        ([0, 3600, 7200, 10800], 3600, MAX_STEP, False),  # the file says that it is so slow
        ([0, 3600, 7200, 10800], 0.04, MAX_STEP, True),
        ([0, 500, 1400, 3100, 5900], 0.04, MAX_STEP, False),  # slower and slower
        ([0, 500, 1600, 4100], 0.04, MAX_STEP, True),  # more than twice as slow
        ([-5, 0, 5, 900], 5, MAX_STEP, False),
        ([0, 1, 2, 1e6, 1e6 + 1], 1, MAX_STEP, True),
    ],
)
def test_what_is_a_break(stamps: list[float], first: float, max_step: float, repaired: bool) -> None:
    clock = Clock(0.04, max_step)
    times = [clock(stamp, first if i == 0 else 0.0)[0] for i, stamp in enumerate(stamps)]
    assert clock.repaired == repaired
    assert times == sorted(set(times))
    if not repaired:
        assert times == [stamp - stamps[0] for stamp in stamps]


# How large a frame -------------------------------------------------------------------------------


@pytest.mark.parametrize("aspect", ["1000:1", "1:1000", "65535:1", "1:65535"])
def test_a_proportion_beyond_reason_is_not_scaled(tmp_path: Path, aspect: str) -> None:
    path = write_y4m(tmp_path / "v.y4m", 3, aspect=aspect)
    with pytest.raises(
        VideoError, match=r"is 16x16, and scaled \d+x\d+: at most 8192x8192 pixels, and 32 to 1"
    ):
        next(read_frames(path))
    assert len(list(read_frames(path, resize=None, crop=None))) == 3


def test_an_aspect_of_pixels_that_is_none_is_left_out(tmp_path: Path) -> None:
    (frame,) = read_frames(write_y4m(tmp_path / "v.y4m", 1, aspect="-5:1"), resize=32, crop=None)
    assert frame.image.shape == (32, 32, 3)


@pytest.mark.parametrize(("width", "height"), [(8200, 8200), (60_000, 2_000)])
def test_huge_frames_are_refused_before_they_are_decoded(tmp_path: Path, width: int, height: int) -> None:
    png = write_png(tmp_path / "1.png", width, height)
    y4m = write_y4m(tmp_path / "v.y4m", 1, size=f"W{width} H{height}")
    for path in (png, y4m):
        for read in (
            probe,
            lambda p: next(read_frames(p)),
            lambda p: next(read_frames(p, resize=None, crop=None)),
        ):
            with pytest.raises(VideoError, match=r"8192x8192 pixels|cannot|not a video"):
                read(path)


@pytest.mark.parametrize("options", [{"resize": 10**6}, {"resize": None, "crop": 10**6}])
def test_sizes_beyond_reason_are_refused(tmp_path: Path, options: dict[str, int | None]) -> None:
    with pytest.raises(
        ValueError, match=r"(resize|crop) must be at least 1 pixel and at most 8192.*got 1000000"
    ):
        read_frames(tmp_path, **options)


def test_a_large_enlargement_is_refused(write_video: WriteVideo) -> None:
    path = write_video("v.mkv", [grey(0, 96, 48)])
    with pytest.raises(VideoError, match="is 96x48, and scaled 16384x8192"):
        next(read_frames(path, resize=8192, crop=None))


def test_a_list_of_other_files_is_no_video(write_video: WriteVideo, tmp_path: Path) -> None:
    write_video("v.mkv", [grey(0)] * 3)
    path = tmp_path / "list.mp4"
    path.write_text("ffconcat version 1.0\n" + "file v.mkv\n" * 1000)
    with pytest.raises(VideoError, match="is a playlist, not a video"):
        next(read_frames(path))
