"""Counting frames without reading them, against reading them."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from video_making import WriteVideo, grey

from fasti3d import video
from fasti3d.video import VideoError, VideoWarning, count_frames, read_frames

RATES = (25.0, 10.0, 29.97, 60.0, None)


def assert_counted(path: Path, *rates: float | None) -> None:
    """Both ways, at every rate."""
    for fps in rates or RATES:
        there = sum(1 for _ in read_frames(path, fps=fps, crop=None, resize=None))
        assert count_frames(path, fps=fps) == there, fps
        assert count_frames(path, fps=fps, decode=True) == there, fps


@pytest.mark.parametrize("rate", [25, 30, Fraction(30000, 1001), 12])
@pytest.mark.parametrize("name", ["a.mkv", "a.avi"])
def test_steady_rates(write_video: WriteVideo, name: str, rate: int | Fraction) -> None:
    assert_counted(write_video(name, [grey(i) for i in range(37)], rate=rate))


@pytest.mark.parametrize("frames", [1, 2, 100])
def test_pictures_that_are_stored_out_of_order(write_video: WriteVideo, frames: int) -> None:
    assert_counted(
        write_video("b.mp4", [grey(i) for i in range(frames)], codec="libx264", options={"bf": "3"})
    )


def test_a_variable_rate(write_video: WriteVideo) -> None:
    stamps = [0, 40, 80, 500, 533, 566, 2000, 2040, 2900]
    assert_counted(write_video("v.mkv", [grey(i) for i in range(9)], pts=stamps))


def test_real_clips(shared_data: Path) -> None:
    for name in ("arm_wrestling.mp4", "flipping_pancake.mkv", "rotated_180.mov"):
        assert_counted(shared_data / "videos" / name, 25.0)


def test_only_decoding_counts_what_is_damaged(write_video: WriteVideo) -> None:
    path = write_video("d.avi", [grey(i) for i in range(60)])
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    with pytest.warns(VideoWarning):
        there = sum(1 for _ in read_frames(path, crop=None))
    with pytest.warns(VideoWarning):
        assert count_frames(path, decode=True) == there
    assert 0 < count_frames(path) <= 60


def test_folders_of_images(
    tmp_path: Path, write_image: Callable[[Path, np.ndarray], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    for i in range(12):
        write_image(tmp_path / f"frame{i}.png", np.full((40, 48, 3), 20 * i, np.uint8))
    assert_counted(tmp_path)
    (tmp_path / "frame7.png").write_bytes(b"no image")
    with pytest.warns(VideoWarning, match="frame7"):
        assert count_frames(tmp_path, decode=True) == 7
    assert count_frames(tmp_path) == 12


@pytest.mark.parametrize("decode", [False, True])
def test_what_is_no_video_is_refused(tmp_path: Path, decode: bool) -> None:
    with pytest.raises(VideoError, match="cannot be opened"):
        count_frames(tmp_path / "missing.mp4", decode=decode)
    with pytest.raises(VideoError, match="without images"):
        count_frames(tmp_path, decode=decode)
    (tmp_path / "text.mp4").write_text("text")
    with pytest.raises(VideoError, match="not a video"):
        count_frames(tmp_path / "text.mp4", decode=decode)
    with pytest.raises(ValueError, match="fps must be a positive number"):
        count_frames(tmp_path, fps=0, decode=decode)
    assert video.count_frames is count_frames
