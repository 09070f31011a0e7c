"""Some frames from the middle of a video, against the same frames of a whole run, bit for bit."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from av.video.frame import VideoFrame
from video_making import WriteVideo

from fasti3d.video import VideoError, VideoWarning, count_frames, read_frames, seek
from fasti3d.video.seek import read_span
from fasti3d.video.survey import survey

FRAMES = 60
COUNT = 7


def moving(frames: int = FRAMES, width: int = 64, height: int = 48) -> list[VideoFrame]:
    """Frames of noise that a moving square covers: a decoder that starts wrong does not end up right."""
    rng = np.random.default_rng(0)
    pictures = []
    for i in range(frames):
        image = rng.integers(0, 60, (height, width, 3)).astype(np.uint8) + np.uint8(i * 3 % 190)
        image[8:24, i * 3 % 50 : i * 3 % 50 + 8] = 255
        pictures.append(VideoFrame.from_ndarray(image, format="rgb24").reformat(format="yuv420p"))
    return pictures


@pytest.fixture
def starts(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The first frames of spans that were decoded from the start of the file."""
    seen: list[int] = []
    from_start = seek._from_start

    def recorded(path, first, *rest):
        seen.append(first)
        return from_start(path, first, *rest)

    monkeypatch.setattr(seek, "_from_start", recorded)
    return seen


def assert_exact(path: Path, fps: float, firsts: range) -> None:
    """Every span equals that of a whole run."""
    whole = torch.stack([frame.image for frame in read_frames(path, fps=fps, resize=24, crop=None)])
    known = survey(path, fps=fps)
    assert known.frames == len(whole)
    for first in firsts:
        span = read_span(path, first, COUNT, fps=fps, resize=24, known=known)
        assert torch.equal(span, whole[first : first + COUNT]), first


X264 = "open-gop=1:keyint=12:bframes=3:b-pyramid=normal"
CASES = {
    "H.264, open GOPs": ("a.mp4", "libx264", {"x264-params": X264}),
    "H.264, one GOP": ("a.mp4", "libx264", {"x264-params": "keyint=infinite:bframes=3"}),
    "H.264 in Matroska": ("a.mkv", "libx264", {"x264-params": X264}),
    "H.264, intra refresh": ("a.mp4", "libx264", {"x264-params": "intra-refresh=1:keyint=12"}),
    "HEVC, open GOPs": ("a.mp4", "libx265", {"x265-params": "open-gop=1:keyint=12:log-level=none"}),
    "MPEG-4 in AVI": ("a.avi", "mpeg4", {"g": "12"}),
    "MPEG-4 in AVI, B frames": ("a.avi", "mpeg4", {"g": "12", "bf": "2"}),
    "WMV": ("a.asf", "wmv2", {"g": "12"}),
    "VP9": ("a.webm", "libvpx-vp9", {"g": "12", "deadline": "realtime", "cpu-used": "8"}),
    "FLV": ("a.flv", "flv", {"g": "12"}),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("fps", [25.0, 12.0])
def test_spans_from_key_frames(write_video: WriteVideo, starts: list[int], case: str, fps: float) -> None:
    name, codec, options = CASES[case]
    if codec not in av.codecs_available:
        pytest.skip(f"this build of FFmpeg has no {codec}")
    path = write_video(name, moving(), codec=codec, options=options)
    count = count_frames(path, fps=fps)
    assert_exact(path, fps, range(1, count, 2 if fps == 25 else 1))
    # From the start they are exact as well: this says which were not decoded so.
    assert bool(starts) == (case == "H.264, intra refresh")


@pytest.mark.parametrize("name", ["a.ts", "a.mpg"])
def test_streams_without_an_index(write_video: WriteVideo, name: str) -> None:
    format = {"a.ts": "mpegts", "a.mpg": "mpeg"}[name]
    path = write_video(name, moving(), codec="mpeg2video", format=format, options={"g": "12", "bf": "2"})
    assert_exact(path, 25.0, range(1, 60, 5))


def test_a_variable_rate(write_video: WriteVideo, starts: list[int]) -> None:
    rng = np.random.default_rng(1)
    stamps = np.cumsum(rng.integers(5, 200, FRAMES)).tolist()
    path = write_video(
        "v.mkv", moving(), pts=stamps, codec="libx264", options={"x264-params": "keyint=9:bframes=2"}
    )
    assert_exact(path, 25.0, range(1, survey(path).frames, 3))
    assert starts == []


def test_a_rate_above_the_file_s_and_an_offset_of_its_clock(
    write_video: WriteVideo, starts: list[int]
) -> None:
    stamps = [5000 + 125 * i for i in range(FRAMES)]
    path = write_video("v.mkv", moving(), pts=stamps, codec="mpeg4", options={"g": "12", "bf": "2"})
    assert_exact(path, 30.0, range(1, 200, 7))
    assert starts == []


@pytest.mark.filterwarnings("ignore::fasti3d.video.VideoWarning")
def test_stamps_that_lie_are_decoded_from_the_start(write_video: WriteVideo, starts: list[int]) -> None:
    # AVI stores no times of presentation, and FFmpeg then takes those of decoding for them.
    path = write_video("a.avi", moving(), codec="libx264", options={"x264-params": "keyint=12:bframes=3"})
    assert survey(path).origin is None
    assert_exact(path, 25.0, range(1, 60, 9))
    assert len(starts) == 7


@pytest.mark.filterwarnings("ignore::fasti3d.video.VideoWarning")
def test_a_clock_with_a_break(write_video: WriteVideo, tmp_path: Path, starts: list[int]) -> None:
    # Two transport streams one after the other: the clock goes back in the middle.
    part = write_video("part.ts", moving(30), codec="mpeg2video", options={"g": "10"}).read_bytes()
    path = tmp_path / "v.ts"
    path.write_bytes(part + part)
    assert survey(path).origin is None
    assert_exact(path, 25.0, range(1, 50, 11))
    assert starts


def test_a_gap_beyond_the_limit_on_repeats(write_video: WriteVideo) -> None:
    path = write_video("v.mkv", moving(3, 16, 16), pts=[0, 870_000, 870_040], rate=25, codec="mpeg4")
    with pytest.warns(VideoWarning, match="limit on repeats"):
        assert survey(path, fps=30.0).origin is None


def test_interlaced_frames(write_video: WriteVideo, starts: list[int]) -> None:
    path = write_video(
        "i.avi", moving(), codec="mpeg4", options={"flags": "+ildct+ilme", "g": "12", "field_order": "tt"}
    )
    with av.open(str(path)) as container:
        assert next(container.decode(video=0)).interlaced_frame
    assert_exact(path, 25.0, range(1, 60, 9))
    assert len(starts) == 7


def test_a_size_that_changes(write_video: WriteVideo, tmp_path: Path, starts: list[int]) -> None:
    # Elementary streams can be put together as they are; times come with the container.
    parts = [
        write_video(
            f"{i}.h264", moving(30, *size), codec="libx264", format="h264", options={"bf": "0", "g": "10"}
        )
        for i, size in enumerate([(64, 48), (32, 48)])
    ]
    joined = tmp_path / "joined.h264"
    joined.write_bytes(b"".join(path.read_bytes() for path in parts))
    path = tmp_path / "joined.mkv"
    with av.open(str(joined)) as source, av.open(str(path), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for i, packet in enumerate(packet for packet in source.demux(video=0) if packet.size):
            packet.pts = packet.dts = i * 40
            packet.time_base, packet.stream = Fraction(1, 1000), stream
            target.mux(packet)
    assert_exact(path, 25.0, range(1, 60, 6))
    assert max(starts) > 30


def test_real_clips(shared_data: Path, starts: list[int]) -> None:
    for name in ("arm_wrestling.mp4", "flipping_pancake.mkv"):
        path = shared_data / "videos" / name
        whole = [frame.image for frame in read_frames(path, fps=25.0, resize=32, crop=None)]
        known = survey(path)
        for first in range(1, len(whole), 41):
            span = read_span(path, first, COUNT, resize=32, known=known)
            assert torch.equal(span, torch.stack(whole[first : first + COUNT]))
    assert starts == []


def test_turned_video_and_folders_of_images(shared_data: Path, tmp_path: Path, write_image) -> None:
    turned = shared_data / "videos" / "rotated_180.mov"
    assert_exact(turned, 25.0, range(1, 3))
    for i in range(9):
        write_image(tmp_path / f"img_{i:05}.png", np.full((48, 64, 3), i * 20, np.uint8))
    span = read_span(tmp_path, 4, 3, resize=None, known=survey(tmp_path))
    assert span[:, 0, 0, 0].tolist() == [80, 100, 120]


def test_spans_that_end_with_the_video(write_video: WriteVideo) -> None:
    path = write_video("a.mp4", moving(20), codec="libx264")
    known = survey(path)
    assert len(read_span(path, 15, 64, known=known)) == 5
    assert len(read_span(path, 15, 64)) == 5
    with pytest.raises(VideoError, match="ends before"):
        read_span(path, 20, 1, known=known)
    with pytest.raises(ValueError, match="at least 0"):
        read_span(path, -1, 1)


def test_a_survey_says_what_is_cut_off_and_counts_what_can_be_decoded(write_video: WriteVideo) -> None:
    path = write_video("d.avi", moving(), codec="mpeg4")
    whole = path.read_bytes()
    assert survey(path).problem is None
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.warns(VideoWarning):
        cut = survey(path)
    with pytest.warns(VideoWarning):
        there = sum(1 for _ in read_frames(path, crop=None))
    assert cut.problem is not None
    assert "cut off" in cut.problem
    assert cut.frames == there < FRAMES
    path.write_bytes(b"\0" * 1000)
    with pytest.raises(VideoError):
        survey(path)
