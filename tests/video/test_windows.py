"""Which frames are in which window, and that memory does not grow with the video."""

from __future__ import annotations

import gc
import subprocess
import sys

import pytest
import torch
from av.video.frame import VideoFrame
from video_making import WriteVideo, grey, number

from fasti3d.video import VideoError, Window, windows


def cut(write_video: WriteVideo, frames: int, window: int, stride: int, **options: object) -> list[Window]:
    path = write_video("v.mkv", [grey(i) for i in range(frames)])
    return list(windows(path, window=window, stride=stride, resize=None, crop=None, **options))


def contents(window: Window) -> list[int]:
    return [number(frame) for frame in window.frames]


@pytest.mark.parametrize(
    ("frames", "window", "stride", "starts"),
    [
        (64, 64, 32, [0]),
        (96, 64, 32, [0, 32]),
        (97, 64, 32, [0, 32, 33]),
        (65, 64, 32, [0, 1]),
        (127, 64, 32, [0, 32, 63]),
        (128, 64, 32, [0, 32, 64]),
        (30, 10, 10, [0, 10, 20]),
        (35, 10, 10, [0, 10, 20, 25]),
        (20, 10, 1, list(range(11))),
        (50, 10, 20, [0, 20, 40]),
        (45, 10, 20, [0, 20, 35]),
        (9, 9, 32, [0]),
    ],
)
def test_windows(write_video: WriteVideo, frames: int, window: int, stride: int, starts: list[int]) -> None:
    got = cut(write_video, frames, window, stride)
    assert [w.index for w in got] == list(range(len(starts)))
    assert [w.start for w in got] == starts
    for w in got:
        assert contents(w) == list(range(w.start, w.start + window))
        assert w.times == pytest.approx([i / 25 for i in range(w.start, w.start + window)])
        assert w.frames.shape == (window, 48, 64, 3)
        assert w.frames.dtype == torch.uint8
        assert w.frames.is_contiguous()
    if stride <= window:
        assert {i for w in got for i in contents(w)} == set(range(frames))


@pytest.mark.parametrize("frames", [9, 10, 40, 63])
def test_a_video_shorter_than_the_window_is_one_window(write_video: WriteVideo, frames: int) -> None:
    (only,) = cut(write_video, frames, 64, 32)
    assert (only.index, only.start) == (0, 0)
    assert contents(only) == list(range(frames))
    assert len(only.times) == frames


def test_too_short_is_looped(write_video: WriteVideo) -> None:
    (only,) = cut(write_video, 4, 64, 32)
    assert contents(only) == [0, 1, 2, 3, 0, 1, 2, 3, 0]
    assert only.times == pytest.approx([0.0, 0.04, 0.08, 0.12] * 2 + [0.0])


def test_too_short_is_padded(write_video: WriteVideo) -> None:
    (only,) = cut(write_video, 4, 64, 32, short="pad")
    assert contents(only) == [0, 1, 2, 3, 3, 3, 3, 3, 3]


def test_too_short_is_an_error(write_video: WriteVideo) -> None:
    with pytest.raises(VideoError, match=r"v\.mkv: has 4 frames, fewer than the 9"):
        cut(write_video, 4, 64, 32, short="error")


def test_one_frame(write_video: WriteVideo) -> None:
    for short in ("loop", "pad"):
        (only,) = cut(write_video, 1, 64, 32, short=short)
        assert contents(only) == [0] * 9


def test_default_preset(write_video: WriteVideo) -> None:
    path = write_video("v.mkv", [grey(i) for i in range(70)])
    assert [(w.start, tuple(w.frames.shape)) for w in windows(path)] == [
        (0, (64, 224, 224, 3)),
        (6, (64, 224, 224, 3)),
    ]


def test_windows_do_not_share_memory(write_video: WriteVideo) -> None:
    path = write_video("v.mkv", [grey(100)] * 40)
    both = windows(path, window=20, stride=10, resize=None, crop=None)
    next(both).frames.zero_()
    assert contents(next(both)) == [100] * 20


def test_memory_is_bounded(write_video: WriteVideo) -> None:
    """400 frames at 256x256 are 79 MB; a run over all of them may grow by two windows at most."""
    pytest.importorskip("resource")
    path = write_video("long.mkv", (grey(i % 200) for i in range(400)), codec="mpeg4")
    script = (
        "import resource, sys\n"
        "from fasti3d.video import windows\n"
        "peaks = [(w.start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)\n"
        "         for w in windows(sys.argv[1], resize=256, crop=256, window=32, stride=32)]\n"
        "print(peaks[4][1], peaks[-1][1], peaks[-1][0])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(path)], capture_output=True, text=True, check=True
    )
    early, late, start = (int(word) for word in done.stdout.split())
    assert start == 400 - 32
    unit = 1 if sys.platform == "darwin" else 1024
    assert (late - early) * unit < 2 * 32 * 256 * 256 * 3


def test_no_more_than_a_few_decoded_frames_are_held(write_video: WriteVideo) -> None:
    """Decoded 4K frames in reference cycles would stay until the garbage collector comes by."""
    path = write_video("v.mkv", [grey(i) for i in range(60)])
    gc.collect()
    gc.disable()
    try:
        held = 0
        for _ in windows(path, window=9, stride=9, resize=None, crop=None):
            held = max(held, sum(type(o) is VideoFrame for o in gc.get_objects()))
    finally:
        gc.enable()
    assert 1 <= held <= 5
