"""Sampling against expectations worked out by hand; a frame's brightness is its number."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import pytest
from video_making import WriteVideo, grey, number

from fasti3d.video import VideoWarning, read_frames
from fasti3d.video.sample import sample
from fasti3d.video.timed_frame import TimedFrame


def shown(times: list[float], last: float, fps: float | None) -> list[int]:
    """The numbers of the pictures sampled from pictures at ``times``, the last one lasting ``last``."""
    pictures = [TimedFrame(grey(i), t, last, 1.0) for i, t in enumerate(times)]
    index = {id(p): i for i, p in enumerate(pictures)}
    samples = list(sample(pictures, fps))
    assert [i for i, _, _ in samples] == list(range(len(samples)))
    if fps is not None:
        assert [t for _, t, _ in samples] == pytest.approx([i / fps for i in range(len(samples))])
    return [index[id(p)] for _, _, p in samples]


def numbers(path: Path, fps: float | None, **options: object) -> list[int]:
    return [number(f.image) for f in read_frames(path, fps=fps, resize=None, crop=None, **options)]


def test_same_rate_takes_every_picture_once() -> None:
    assert shown([i / 25 for i in range(200)], 1 / 25, 25.0) == list(range(200))


def test_twice_the_rate_takes_every_other() -> None:
    assert shown([i / 50 for i in range(20)], 1 / 50, 25.0) == list(range(0, 20, 2))


def test_lower_rate_repeats() -> None:
    assert shown([0.0, 0.1, 0.2], 0.1, 20.0) == [0, 0, 1, 1, 2, 2]


def test_thirty_to_twenty_five() -> None:
    # 0, 40, 80, 120, 160, 200, 240 ms against steps of 33.3 ms
    assert shown([i / 30 for i in range(9)], 1 / 30, 25.0) == [0, 1, 2, 3, 4, 6, 7, 8]


def test_variable_rate_by_hand() -> None:
    # Wanted at 0, 100, …, 900 ms; the last picture is shown from 850 to 950 ms.
    assert shown([0.0, 0.05, 0.31, 0.32, 0.7, 0.85], 0.1, 10.0) == [0, 1, 1, 1, 3, 3, 3, 4, 4, 5]


def test_a_stamp_rounded_up_by_less_than_a_millisecond_counts() -> None:
    assert shown([0.0, 0.0334, 0.0667, 0.1], 1 / 30, 30.0) == [0, 1, 2, 3]
    assert shown([0.0, 0.0354, 0.0667, 0.1], 1 / 30, 30.0) == [0, 0, 2, 3]


def test_rates_above_the_tolerance_are_still_exact() -> None:
    assert shown([i / 2000 for i in range(10)], 1 / 2000, 2000.0) == list(range(10))


def test_no_rate_takes_all_at_their_own_times() -> None:
    pictures = [TimedFrame(grey(0), t, 1.0, 1.0) for t in (0.0, 0.5, 3.0)]
    assert [(i, t) for i, t, _ in sample(pictures, None)] == [(0, 0.0), (1, 0.5), (2, 3.0)]


def test_at_least_one_picture_and_none_from_nothing() -> None:
    assert shown([0.0], 1e-4, 25.0) == [0]
    assert list(sample([], 25.0)) == []


def test_variable_rate_file_by_hand(write_video: WriteVideo) -> None:
    # Milliseconds; the gap of 300 ms repeats, the burst at 500 ms is skipped over.
    stamps = [0, 40, 90, 390, 500, 505, 510, 515, 560]
    path = write_video("vfr.mkv", [grey(10 * i) for i in range(9)], pts=stamps)
    # Wanted at 0, 40, 80, …, 560 ms: the last picture that starts no later.
    by_hand = [0, 1, 1, 2, 2, 2, 2, 2, 2, 2, 3, 3, 3, 7, 8]
    got = numbers(path, 25.0)
    assert got[: len(by_hand)] == [10 * i for i in by_hand]
    assert set(got[len(by_hand) :]) <= {80}  # for as long as the muxer says the last one lasts
    assert numbers(path, None) == [10 * i for i in range(9)]
    times = [f.time for f in read_frames(path, fps=None, resize=None, crop=None)]
    assert times == pytest.approx([s / 1000 for s in stamps])


def test_variable_rate_mp4_with_reordered_frames(write_video: WriteVideo) -> None:
    stamps = [0, 100, 120, 400, 600, 610, 620, 630, 900, 1000]
    path = write_video(
        "vfr.mp4",
        [grey(20 * i) for i in range(10)],
        codec="libx264",
        pts=stamps,
        options={"qp": "0", "bf": "2"},
    )
    by_hand = [0, 1, 2, 2, 3, 3, 4, 7, 7, 8, 9]  # at 0, 100, …, 1000 ms
    assert numbers(path, 10.0)[: len(by_hand)] == [20 * i for i in by_hand]


@pytest.mark.parametrize("rate", [Fraction(30000, 1001), Fraction(24000, 1001), Fraction(25), Fraction(60)])
def test_rounded_stamps_at_the_native_rate_lose_and_repeat_nothing(
    write_video: WriteVideo, rate: Fraction
) -> None:
    path = write_video("native.mkv", [grey(i) for i in range(200)], rate=rate)
    assert numbers(path, float(rate)) == list(range(200))


def test_first_stamp_need_not_be_zero(write_video: WriteVideo) -> None:
    path = write_video("late.mkv", [grey(i) for i in range(5)], pts=[5000 + 40 * i for i in range(5)])
    frames = list(read_frames(path, resize=None, crop=None))
    assert [number(f.image) for f in frames] == [0, 1, 2, 3, 4]
    assert [f.time for f in frames] == pytest.approx([0, 0.04, 0.08, 0.12, 0.16])


def test_stream_without_stamps(write_video: WriteVideo) -> None:
    path = write_video(
        "raw.h264", [grey(i) for i in range(10)], codec="libx264", options={"qp": "0", "bf": "0"}
    )
    assert numbers(path, None) == list(range(10))
    assert numbers(path, 25.0) == list(range(10))


@pytest.mark.parametrize("offset", [0, 5_000_000], ids=["back", "jump"])
def test_clock_that_breaks_is_mended(write_video: WriteVideo, tmp_path: Path, offset: int) -> None:
    options = {"codec": "libx264", "options": {"qp": "0", "bf": "0"}}
    first = write_video("1.ts", [grey(i) for i in range(10)], pts=range(0, 400, 40), **options)
    second = write_video(
        "2.ts", [grey(10 + i) for i in range(10)], pts=range(offset, offset + 400, 40), **options
    )
    path = tmp_path / "joined.ts"
    path.write_bytes(first.read_bytes() + second.read_bytes())
    with pytest.warns(VideoWarning, match=r"joined\.ts: its clock goes back or jumps"):
        assert numbers(path, 25.0) == list(range(20))


def test_repeated_frames_do_not_share_memory(write_video: WriteVideo) -> None:
    path = write_video("slow.mkv", [grey(50), grey(60)], rate=5)
    frames = list(read_frames(path, resize=None, crop=None))
    assert len(frames) == 10
    frames[0].image.zero_()
    assert number(frames[1].image) == 50


@pytest.mark.parametrize("name", ["raw.h264", "reordered.avi"])
def test_reordered_frames_without_presentation_stamps(write_video: WriteVideo, name: str) -> None:
    options = {"qp": "0", "bf": "3"}
    path = write_video(name, [grey(i) for i in range(40)], codec="libx264", options=options)
    assert numbers(path, None) == list(range(40))
    assert numbers(path, 25.0) == list(range(40))
