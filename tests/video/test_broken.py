"""Files that give no frames, or not all of them, and names that mean something to FFmpeg."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from av.video.reformatter import VideoReformatter
from video_making import WriteVideo, grey, number

from fasti3d.video import VideoError, VideoWarning, probe, read_frames, windows

WriteImage = Callable[[Path, np.ndarray], Path]


def numbers(path: Path | str, **options: object) -> list[int]:
    return [number(f.image) for f in read_frames(path, fps=None, resize=None, crop=None, **options)]


def write_audio(path: Path, *, cover: bool = False) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libmp3lame" if path.suffix == ".mp3" else "pcm_s16le", rate=16000)
        stream.layout = "mono"
        picture = None
        if cover:
            picture = container.add_stream("png", rate=1)
            picture.width, picture.height, picture.pix_fmt = 32, 32, "rgb24"
            picture.disposition = av.stream.Disposition.attached_pic.value
        packets = []
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 16000), np.int16), format="s16", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = 16000, 0, Fraction(1, 16000)
        if picture is not None:
            packets += picture.encode(av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8)))
            packets += picture.encode(None)
        for resampled in av.AudioResampler(format=stream.format, layout="mono", rate=16000).resample(frame):
            packets += stream.encode(resampled)
        container.mux(packets + stream.encode(None))
    return path


def assert_refused(path: Path, reason: str) -> None:
    for read in (probe, lambda p: next(read_frames(p)), lambda p: next(windows(p))):
        with pytest.raises(VideoError, match=reason) as caught:
            read(path)
        assert caught.value.path == path
        assert str(caught.value) == f"{path}: {caught.value.reason}"


# Nothing to be had -------------------------------------------------------------------------------


def test_missing(tmp_path: Path) -> None:
    assert_refused(tmp_path / "none.mp4", "cannot be opened: No such file or directory")


def test_empty(tmp_path: Path) -> None:
    path = tmp_path / "empty.mp4"
    path.touch()
    assert_refused(path, "is empty")


@pytest.mark.parametrize("name", ["v.mp4", "v.gif", "v.mkv", "v.avi", "v"])
def test_garbage(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(np.random.default_rng(1).integers(0, 256, 20_000, dtype=np.uint8).tobytes())
    assert_refused(path, r"is not a video that FFmpeg can read|gives no frame|no video stream")


@pytest.mark.parametrize("name", ["readme.txt", "subtitles.srt", "video.mp4", "video.nfo"])
def test_text(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_text("1\n00:00:00,000 --> 00:00:10,000\nThis is no video.\n" * 50)
    assert_refused(path, "is text|is not a video|has no video stream")


def test_audio_only(tmp_path: Path) -> None:
    assert_refused(write_audio(tmp_path / "a.wav"), "has no video stream, only audio")


def test_audio_with_a_cover_picture(tmp_path: Path) -> None:
    path = write_audio(tmp_path / "a.mp3", cover=True)
    with av.open(str(path)) as container:
        assert len(container.streams.video) == 1  # FFmpeg calls the cover a video
    assert_refused(path, "has no video stream")


def test_header_only(write_video: WriteVideo) -> None:
    path = write_video("v.mp4", [grey(0)] * 10, codec="libx264")
    path.write_bytes(path.read_bytes()[:200])  # its index is at the end
    assert_refused(path, "is not a video that FFmpeg can read")


def test_folder_without_images(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("none")
    (tmp_path / "sub.png").mkdir()
    assert_refused(tmp_path, "is a folder without images")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="named pipes are POSIX")
def test_pipe(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.mp4")
    assert_refused(tmp_path / "pipe.mp4", "is not a regular file")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
def test_unreadable(write_video: WriteVideo) -> None:
    path = write_video("v.mkv", [grey(0)])
    path.chmod(0)
    assert_refused(path, "Permission denied")


def test_playlist_does_not_reach_the_network(tmp_path: Path) -> None:
    path = tmp_path / "v.mp4"
    path.write_text(
        "#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\nhttp://127.0.0.1:9/a.ts\n#EXT-X-ENDLIST\n"
    )
    assert_refused(path, "is not a video that FFmpeg can read|has no video stream")


# Breaks in the middle ----------------------------------------------------------------------------


def assert_breaks(path: Path, wanted: list[int], least: int, reason: str) -> None:
    """The frames before the break and a warning; the same frames and an error if strict."""
    with pytest.warns(VideoWarning, match=reason) as caught:
        got = numbers(path)
    assert len(caught) == 1
    assert str(path) in str(caught[0].message)
    assert least <= len(got) < len(wanted)
    assert got == wanted[: len(got)]
    strict = read_frames(path, fps=None, resize=None, crop=None, strict=True)
    assert [number(next(strict).image) for _ in got] == got
    with pytest.raises(VideoError, match=reason):
        next(strict)


@pytest.mark.parametrize(
    ("name", "codec", "options"),
    [
        ("v.mkv", "ffv1", {}),
        ("v.mp4", "libx264", {"movflags": "faststart"}),
        ("v.mov", "libx264", {"movflags": "faststart"}),
        ("v.webm", "libvpx-vp9", {}),
        ("v.avi", "ffv1", {}),
    ],
)
def test_cut_off(write_video: WriteVideo, name: str, codec: str, options: dict[str, str]) -> None:
    wanted = list(range(0, 200, 2))
    frames = [grey(i) for i in wanted]
    for i, frame in enumerate(frames):  # something that does not compress to nothing
        rows = np.random.default_rng(i).integers(-8, 9, frame.planes[0].buffer_size) + 16 + wanted[i]
        rows[1::2] = 2 * (16 + wanted[i]) - rows[::2]
        frame.planes[0].update(rows.clip(0, 255).astype(np.uint8).tobytes())
    lossless = {"libx264": {"qp": "0"}, "libvpx-vp9": {"lossless": "1", "deadline": "realtime"}}
    path = write_video(name, frames, codec=codec, options=lossless.get(codec), container_options=options)
    whole = numbers(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 6 // 10])
    assert_breaks(path, whole, 20, "is cut off|breaks off")


def test_real_corrupted_file(shared_data: Path) -> None:
    """The file's 31st packet of 50, which is shown as frame 30, has a NAL unit of negative size.

    Frame 29 depends on it, so 29 frames come before the break, on any number of cores.
    """
    path = shared_data / "videos" / "corrupted.mp4"
    with pytest.warns(VideoWarning, match=r"corrupted\.mp4: breaks off: Invalid data found"):
        frames = list(read_frames(path, fps=None))
    assert [f.time for f in frames] == pytest.approx([i / 10 for i in range(29)])
    with pytest.raises(VideoError, match="breaks off"):
        list(read_frames(path, strict=True))


def test_damage_to_one_packet(write_video: WriteVideo) -> None:
    frames = [VideoReformatter().reformat(grey(i), format="yuvj420p") for i in range(60)]
    path = write_video("v.mkv", frames, codec="mjpeg")
    with av.open(str(path)) as container:
        spots = [(p.pos, p.size) for p in container.demux(video=0) if p.size]
    data = bytearray(path.read_bytes())
    at, size = spots[40]
    jpeg = data.index(b"\xff\xd8", at)
    data[jpeg : jpeg + size - 20] = bytes(size - 20)
    path.write_bytes(data)
    with pytest.warns(VideoWarning, match="breaks off"):
        got = numbers(path)
    assert len(got) == 40


def test_whole_files_do_not_warn(write_video: WriteVideo) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name, codec in (("v.mkv", "ffv1"), ("v.mp4", "libx264"), ("v.avi", "mpeg4"), ("v.ts", "libx264")):
            path = write_video(name, [grey(0)] * 30, codec=codec)
            assert len(numbers(path, strict=True)) == 30
        # A still picture at the end of a variable-rate file
        path = write_video("still.mkv", [grey(0)] * 3, pts=[0, 40, 3000])
        assert len(numbers(path, strict=True)) == 3


def test_real_whole_files_do_not_warn(shared_data: Path) -> None:
    counts = {"arm_wrestling.mp4": 250, "clean_and_jerk.mp4": 453, "flipping_pancake.mkv": 259}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name, count in counts.items():
            assert sum(1 for _ in read_frames(shared_data / "videos" / name, strict=True)) == count


def test_ffmpeg_prints_nothing(tmp_path: Path, shared_data: Path) -> None:
    (tmp_path / "garbage.mp4").write_bytes(bytes(range(256)) * 100)
    script = (
        "import sys\n"
        "from fasti3d.video import VideoError, read_frames\n"
        "for path in sys.argv[1:]:\n"
        "    try: print(len(list(read_frames(path, fps=None))))\n"
        "    except VideoError: print('refused')\n"
    )
    paths = [shared_data / "videos" / "corrupted.mp4", tmp_path / "garbage.mp4"]
    command = [sys.executable, "-W", "ignore", "-c", script, *map(str, paths)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["29", "refused"]
    assert done.stderr == ""


# Folders -----------------------------------------------------------------------------------------


def flat(level: int, height: int = 32, width: int = 48) -> np.ndarray:
    return np.full((height, width, 3), level, np.uint8)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".bmp", ".webp", ".PNG"])
def test_folder_in_natural_order(tmp_path: Path, write_image: WriteImage, suffix: str) -> None:
    for i in (10, 9, 2, 1, 100):
        write_image(tmp_path / f"frame{i}{suffix}", flat(2 * i))
    (tmp_path / "thumbs.db").write_bytes(b"none")
    (tmp_path / f"._frame1{suffix}").write_bytes(b"none")
    frames = list(read_frames(tmp_path, resize=None, crop=None))
    assert [round(float(f.image.float().mean())) for f in frames] == pytest.approx([2, 4, 18, 20, 200], abs=1)
    assert [f.time for f in frames] == pytest.approx([0, 0.04, 0.08, 0.12, 0.16])
    info = probe(tmp_path)
    assert (info.frames, info.width, info.height, info.fps, info.duration) == (5, 48, 32, None, None)


def test_folder_is_taken_at_the_asked_rate(tmp_path: Path, write_image: WriteImage) -> None:
    for i in range(12):
        write_image(tmp_path / f"{i}.png", flat(i))
    assert [f.time for f in read_frames(tmp_path, fps=5)] == pytest.approx([i / 5 for i in range(12)])
    assert [f.time for f in read_frames(tmp_path, fps=None)] == pytest.approx([i / 25 for i in range(12)])
    assert [w.frames.shape[0] for w in windows(tmp_path)] == [12]


def test_folder_mixes_layouts(tmp_path: Path, write_image: WriteImage) -> None:
    write_image(tmp_path / "1.png", flat(50)[..., 0])
    write_image(tmp_path / "2.png", flat(60))
    write_image(tmp_path / "3.png", np.dstack([flat(70), np.full((32, 48), 255, np.uint8)]))
    write_image(tmp_path / "4.bmp", flat(80))
    levels = [float(f.image.float().mean()) for f in read_frames(tmp_path, resize=None, crop=None)]
    assert levels == [50, 60, 70, 80]


def test_folder_of_different_sizes(tmp_path: Path, write_image: WriteImage) -> None:
    write_image(tmp_path / "1.png", flat(1))
    write_image(tmp_path / "2.png", flat(1, 32, 50))
    with pytest.raises(VideoError, match=r"1\.png is 48x32, 2\.png is 50x32"):
        list(read_frames(tmp_path))


def test_folder_with_a_broken_image(tmp_path: Path, write_image: WriteImage) -> None:
    for i in range(3):
        write_image(tmp_path / f"{i}.png", flat(i))
    (tmp_path / "1.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(50))
    with pytest.warns(VideoWarning, match=r"breaks off before 1\.png"):
        assert len(list(read_frames(tmp_path))) == 1
    with pytest.raises(VideoError, match=r"1\.png"):
        list(read_frames(tmp_path, strict=True))
    (tmp_path / "0.png").write_bytes(b"")
    with pytest.raises(VideoError, match=r"0\.png: is empty"):
        list(read_frames(tmp_path))


# Names -------------------------------------------------------------------------------------------

NAMES = ["with space.mkv", "Füße 跳.mkv", "100%d.mkv", "%03d.mkv", "-i.mkv", "a'b\"c#?*[1].mkv"]


@pytest.mark.parametrize("name", NAMES)
def test_names(write_video: WriteVideo, name: str) -> None:
    path = write_video(name, [grey(5)] * 3)
    assert numbers(path) == [5, 5, 5]
    assert numbers(str(path)) == [5, 5, 5]


@pytest.mark.parametrize("name", ["http:v.mkv", "concat:v.mkv|v.mkv", "file:v.mkv", "pipe:0", "-"])
def test_names_of_protocols(
    write_video: WriteVideo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    write_video("v.mkv", [grey(9)])
    write_video(name, [grey(5)] * 3, format="matroska")
    monkeypatch.chdir(tmp_path)
    assert numbers(name) == [5, 5, 5]
    (tmp_path / name).unlink()
    with pytest.raises(VideoError, match="cannot be opened: No such file"):
        numbers(name)


def test_patterns_are_names(tmp_path: Path, write_image: WriteImage) -> None:
    folder = tmp_path / "%d"
    folder.mkdir()
    for i, name in enumerate(("img%03d.png", "img001.png", "img1.png", "img*.png")):
        write_image(folder / name, flat(10 * i))
    levels = [float(f.image.float().mean()) for f in read_frames(folder, resize=None, crop=None)]
    assert sorted(levels) == [0, 10, 20, 30]
    assert float(next(read_frames(folder / "img%03d.png")).image.float().mean()) == 0


# Arguments ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fps": 0}, "fps must be a positive number"),
        ({"fps": -1.0}, "fps must be a positive number"),
        ({"fps": float("nan")}, "fps must be a positive number"),
        ({"fps": float("inf")}, "fps must be a positive number"),
        ({"resize": 0}, "resize must be at least 1"),
        ({"crop": 0}, "crop must be at least 1"),
        ({"crop": 300}, "crop must be at most resize=256, got 300"),
        ({"resize": 128}, "crop must be at most resize=128, got 224"),
    ],
)
def test_wrong_arguments(tmp_path: Path, options: dict[str, float], message: str) -> None:
    for read in (read_frames, windows):
        with pytest.raises(ValueError, match=message):
            read(tmp_path, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"window": 8}, "window must be at least 9"),
        ({"stride": 0}, "stride must be at least 1"),
        ({"short": "shrink"}, "short must be one of loop, pad, error"),
    ],
)
def test_wrong_window_arguments(tmp_path: Path, options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        windows(tmp_path, **options)
