"""Clips from folders of videos and of images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from clip_making import numbered, write_image, write_video

from fasti3d.metrics.choice import Clip, Skipped
from fasti3d.metrics.videos import VideoSource
from fasti3d.video import VideoError


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five videos of 12 to 40 frames, whose levels are their numbers; one is of images."""
    root = tmp_path_factory.mktemp("videos")
    for name, frames in (("a.mkv", 12), ("b.mkv", 20), ("deep/er/c.mkv", 40), ("deep/d.avi", 12)):
        write_video(root / name, numbered(frames))
    for i, image in enumerate(numbered(15)):
        write_image(root / "frames" / f"{i}.png", image)
    for name in ("deep/d.png", ".hidden/x.png"):  # a video's poster, and what nobody sees
        write_image(root / name, numbered(1)[0])
    (root / "notes.txt").write_text("no video")
    return root


def taken(folder: Path, frames: int = 10, count: int | None = None, seed: int = 0) -> list[Clip]:
    clips = list(VideoSource(folder).clips(frames, count, seed))
    assert all(isinstance(clip, Clip) for clip in clips)
    return clips  # type: ignore[return-value]


NAMES = ["a.mkv", "b.mkv", "deep/d.avi", "deep/er/c.mkv", "frames"]


def test_one_clip_of_each(folder: Path) -> None:
    clips = taken(folder)
    assert sorted(clip.name for clip in clips) == NAMES
    for clip in clips:
        assert (clip.frames.dtype, clip.frames.shape) == (torch.uint8, (10, 16, 20, 3))
        assert clip.frames[:, 0, 0, 0].tolist() == list(range(clip.start, clip.start + 10))
        assert 0 <= clip.start <= clip.length - 10
    found = {clip.name: (clip.length, clip.rate) for clip in clips}
    assert found["deep/er/c.mkv"] == (40, pytest.approx(25, rel=1e-3))
    assert found["frames"] == (15, None)
    assert VideoSource(folder).expected(None) == 5


def test_the_seed_says_which(folder: Path) -> None:
    def chosen(count: int | None, seed: int) -> list[tuple[str, int]]:
        return [(clip.name, clip.start) for clip in taken(folder, count=count, seed=seed)]

    assert chosen(None, 0) == chosen(None, 0)
    assert len({tuple(chosen(3, seed)) for seed in range(5)}) > 1
    assert chosen(3, 0) == chosen(None, 0)[:3]
    # In a longer video the place is any of them.
    starts = {dict(chosen(None, seed))["deep/er/c.mkv"] for seed in range(25)}
    assert len(starts) > 12
    assert max(starts) > 20 > 10 > min(starts)


def test_more_clips_than_videos_are_spread(folder: Path) -> None:
    clips = taken(folder, count=13)
    assert len({(clip.name, clip.start) for clip in clips}) == 13
    counts = [sum(clip.name == name for clip in clips) for name in NAMES]
    assert sum(counts) == 13
    assert set(counts) == {2, 3}
    with pytest.raises(ValueError, match=r"at most 16 for each of the 5 videos .* got 81"):
        taken(folder, count=81)


def test_frames_at_a_rate(folder: Path) -> None:
    source = VideoSource(folder, fps=12.5)
    clips = [clip for clip in source.clips(9, None, 0) if isinstance(clip, Clip)]
    (long,) = (clip for clip in clips if clip.name == "deep/er/c.mkv")
    assert (long.length, long.rate) == (20, 12.5)
    assert set(np.diff(long.frames[:, 0, 0, 0].numpy())) == {2}


def test_bad_and_short_videos_are_told_and_replaced(folder: Path, tmp_path: Path) -> None:
    for name in ("one", "two", "three"):
        write_video(tmp_path / f"{name}.mkv", numbered(12))
    write_video(tmp_path / "short.mkv", numbered(5))
    (tmp_path / "junk.mp4").write_bytes(b"junk" * 100)
    (tmp_path / "empty.mp4").touch()
    for seed in range(4):
        found = list(VideoSource(tmp_path).clips(10, 3, seed))
        assert sorted(item.name for item in found if isinstance(item, Clip)) == [
            "one.mkv",
            "three.mkv",
            "two.mkv",
        ]
        assert {item.name for item in found if isinstance(item, Skipped)} <= {
            "short.mkv",
            "junk.mp4",
            "empty.mp4",
        }
    assert sum(isinstance(item, Clip) for item in VideoSource(tmp_path).clips(10, None, 0)) == 3
    reasons = {
        item.name: item.reason
        for item in VideoSource(tmp_path).clips(10, None, 0)
        if isinstance(item, Skipped)
    }
    assert set(reasons) == {"short.mkv", "junk.mp4", "empty.mp4"}
    assert reasons["short.mkv"] == "has 5 frames, fewer than the 10 of a clip"
    with pytest.raises(VideoError, match=r"short|junk|empty"):
        list(VideoSource(tmp_path, strict=True).clips(10, None, 0))


def test_folders_without_videos(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"holds no videos \(\.mp4"):
        VideoSource(tmp_path)
    with pytest.raises(ValueError, match="holds images, which are one video: give the folder above"):
        VideoSource(folder / "frames")
