"""``fasti3d flow``: every kind of output, work that is cut short anywhere, and wrong calls."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import av
import cv2
import numpy as np
import pytest
import torch
from killing import killed_everywhere
from typer.testing import CliRunner
from waiting import PATIENCE, until

from fasti3d.cli import app
from fasti3d.flow import FlowFolder, TVL1Params, flow_to_rgb, read_flo, read_kitti_png, to_grey, tvl1_video
from fasti3d.flow.export import NpzOutput, Options, export, settings_of
from fasti3d.flow.export import video as video_output
from fasti3d.video import read_frames

FRAMES, HEIGHT, WIDTH = 6, 24, 33


def write_video(path: Path, frames: int = FRAMES, *, stamps: list[int] | None = None, speed: int = 1) -> Path:
    """A texture that moves to the right and down, with stamps in milliseconds."""
    noise = np.random.default_rng(0).integers(0, 256, (14, 16), np.uint8)
    texture = np.kron(noise, np.ones((4, 4), np.uint8))
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=25)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "bgr0"
        stream.codec_context.time_base = Fraction(1, 1000)
        for i in range(frames):
            moved = np.roll(texture, (i * speed, 2 * i * speed), (0, 1))[:HEIGHT, :WIDTH]
            image = np.ascontiguousarray(np.stack([moved] * 3, axis=-1))
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = stamps[i] if stamps else 40 * i, Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_video(tmp_path_factory.mktemp("video") / "a.mkv")


@pytest.fixture(scope="module")
def flows(video: Path) -> np.ndarray:
    """What the library says: (5, 2, 24, 33)."""
    return solve(video)


def solve(video: Path, *, fps: float | None = 25.0, preset: str = "i3d") -> np.ndarray:
    greys = [to_grey(frame.image.numpy()) for frame in read_frames(video, fps=fps, resize=None, crop=None)]
    return tvl1_video(np.stack(greys), params=TVL1Params.preset(preset))


def call(*arguments: object) -> SimpleNamespace:
    """A call at the size of the video, in this process."""
    runner = CliRunner(env={"COLUMNS": "400", "NO_COLOR": "1"})
    command = ["flow", *map(str, arguments), "--device", "cpu"]
    if "--resize" not in command:
        command += ["--resize", "none"]
    done = runner.invoke(app, command)
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return SimpleNamespace(code=done.exit_code, out=done.stdout, err=done.stderr)


def tree(folder: Path) -> dict[str, bytes]:
    """Every file under a folder, hidden ones too."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def pictures(path: Path) -> tuple[np.ndarray, list[float]]:
    """The frames of a video, (N, H, W, 3), and when they are shown."""
    with av.open(str(path)) as container:
        frames = list(container.decode(video=0))
    return np.stack([frame.to_ndarray(format="rgb24") for frame in frames]), [frame.time for frame in frames]


def test_folder_of_flo(video: Path, flows: np.ndarray, tmp_path: Path) -> None:
    out = tmp_path / "new" / "folder"
    done = call(video, "-o", out)
    assert (done.code, done.err) == (0, "")
    assert "5 flows of 33x24 from 6 frames" in done.out
    names = [f"flow_{i:06}.flo" for i in range(5)]
    assert sorted(os.listdir(out)) == ["flow.json", *names]
    assert np.array_equal(np.stack([read_flo(out / name) for name in names]), flows)
    record = json.loads((out / "flow.json").read_text())
    assert record["pairs"] == 5
    assert record["settings"]["params"]["lambda_"] == 0.15


def test_folder_of_kitti_and_of_pictures(video: Path, flows: np.ndarray, tmp_path: Path) -> None:
    assert call(video, "-o", tmp_path / "kitti", "--format", "kitti").code == 0
    assert call(video, "-o", tmp_path / "colour", "--viz", "--max-magnitude", 4).code == 0
    for i, flow in enumerate(flows):
        read, valid = read_kitti_png(tmp_path / "kitti" / f"flow_{i:06}.png")
        assert valid.all()
        assert np.abs(read - flow).max() <= 1 / 128
        image, _ = pictures(tmp_path / "colour" / f"flow_{i:06}.png")
        assert np.array_equal(image[0], flow_to_rgb(flow, max_magnitude=4))
    assert len(os.listdir(tmp_path / "kitti")) == len(os.listdir(tmp_path / "colour")) == 6


def test_folders_of_denseflow(video: Path, flows: np.ndarray, tmp_path: Path) -> None:
    out = tmp_path / "flows"
    done = call(video, "-o", out, "--layout", "denseflow")
    assert (done.code, done.err) == (0, "")
    names = [f"flow_{axis}_{i:05}.jpg" for axis in "xy" for i in range(1, 6)]
    assert sorted(os.listdir(out / "a")) == ["flow.json", *names]
    for i, flow in enumerate(flows, 1):
        wanted = np.rint((np.clip(flow.astype(float), -20, 20) + 20) * 255 / 40)
        for axis in range(2):
            picture = cv2.imread(str(out / "a" / f"flow_{'xy'[axis]}_{i:05}.jpg"), cv2.IMREAD_UNCHANGED)
            assert picture.shape == (HEIGHT, WIDTH)
            assert np.abs(picture - wanted[axis]).max() <= 3  # at quality 95
    record = json.loads((out / "a" / "flow.json").read_text())
    assert record["pairs"] == 5
    assert (record["settings"]["bound"], record["settings"]["quality"]) == (20, 95)
    assert "all flow is in" in call(video, "-o", out, "--layout", "denseflow").out
    done = call(video, "-o", out, "--layout", "denseflow", "--bound", 8)
    assert done.code == 2
    assert "bound 20.0 there and 8.0 now" in done.err
    assert call(video, "-o", out, "--layout", "denseflow", "--bound", 8, "--overwrite").code == 0
    found = FlowFolder(out / "a", 8).read(0, 5)
    assert np.abs(found - np.clip(flows, -8, 8)).mean() < 0.05
    assert np.abs(flows).max() > 1


def test_a_still_video_is_pictures_of_128(tmp_path: Path) -> None:
    video = write_video(tmp_path / "still.mkv", 3, speed=0)
    other = write_video(tmp_path / "other.mkv", 2)
    assert call(video, other, "-o", tmp_path / "flows", "--layout", "denseflow").code == 0
    assert sorted(os.listdir(tmp_path / "flows")) == ["other", "still"]
    for path in (tmp_path / "flows" / "still").glob("*.jpg"):
        assert (cv2.imread(str(path), cv2.IMREAD_GRAYSCALE) == 128).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--layout", "other"), "--layout: must be default or denseflow, got 'other'"),
        (("--layout", "denseflow", "--viz"), "denseflow has its own files: leave out --format and --viz"),
        (("--layout", "denseflow", "--bound", 0), "--bound: bound must be above 0, in pixels, got 0.0"),
        (("--layout", "denseflow", "-o", "a.npz"), "--layout denseflow is of a folder, not of a.npz"),
    ],
)
def test_wrong_layouts(arguments: tuple[object, ...], message: str, video: Path, tmp_path: Path) -> None:
    done = call(video, "-o", tmp_path / "out", *arguments)
    assert done.code == 2
    assert message in done.err.replace("'--", "--").replace("': ", ": ")


def test_arrays(video: Path, flows: np.ndarray, tmp_path: Path) -> None:
    out = tmp_path / "a.npz"
    assert call(video, "-o", out, "--preset", "large-motion").code == 0
    with np.load(out) as arrays:
        assert sorted(arrays) == ["flow", "fps", "params", "settings", "times"]
        assert arrays["flow"].dtype == np.float32
        assert np.array_equal(arrays["flow"], solve(video, preset="large-motion"))
        assert arrays["times"] == pytest.approx([0, 0.04, 0.08, 0.12, 0.16, 0.2])
        assert arrays["fps"] == 25
        assert TVL1Params(**json.loads(str(arrays["params"]))) == TVL1Params.preset("large-motion")
    assert os.listdir(tmp_path) == ["a.npz"]


def test_colour_video(
    video: Path, flows: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(video_output, "PART", 2)
    out = tmp_path / "a.mp4"
    assert call(video, "-o", out, "--viz", "--max-magnitude", 6).code == 0
    assert os.listdir(tmp_path) == ["a.mp4"]
    shown, times = pictures(out)
    assert times == pytest.approx([0, 0.04, 0.08, 0.12, 0.16])
    assert shown.shape == (5, 24, 34, 3)  # an even number of columns
    wanted = flow_to_rgb(flows, max_magnitude=6)
    wanted = np.concatenate((wanted, wanted[:, :, -1:]), axis=2)
    # Colours are shared by four pixels: the mean over such blocks is what comes through.
    blocks = (shown.astype(float) - wanted).reshape(5, 12, 2, 17, 2, 3).mean(axis=(2, 4))
    assert np.abs(blocks).mean() < 6
    with av.open(str(out)) as container:
        stream = container.streams.video[0]
        assert stream.average_rate == 25
        assert stream.codec_context.pix_fmt == "yuv420p"
        assert float(stream.duration * stream.time_base) == pytest.approx(0.2)


def test_without_h264_it_is_mpeg4(video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(av, "codecs_available", {"mpeg4"})
    assert call(video, "-o", tmp_path / "a.mp4").code == 0
    with av.open(str(tmp_path / "a.mp4")) as container:
        assert container.streams.video[0].codec_context.name == "mpeg4"
        assert len(list(container.decode(video=0))) == 5


def test_the_video_s_own_times(tmp_path: Path) -> None:
    video = write_video(tmp_path / "v.mkv", stamps=[0, 30, 100, 140, 300, 333])
    assert call(video, "-o", tmp_path / "a.npz", "--fps", "native").code == 0
    assert call(video, "-o", tmp_path / "a.mp4", "--fps", "native").code == 0
    with np.load(tmp_path / "a.npz") as arrays:
        assert np.array_equal(arrays["flow"], solve(video, fps=None))
        assert arrays["times"] == pytest.approx([0, 0.03, 0.1, 0.14, 0.3, 0.333])
        assert np.isnan(arrays["fps"])
    assert pictures(tmp_path / "a.mp4")[1] == pytest.approx([0, 0.03, 0.1, 0.14, 0.3], abs=1e-4)


def test_frames_are_resized_and_sampled(video: Path, tmp_path: Path) -> None:
    done = call(video, "-o", tmp_path / "a.npz", "--resize", 32, "--fps", 12.5)
    assert "2 flows of 44x32 from 3 frames" in done.out
    with np.load(tmp_path / "a.npz") as arrays:
        assert arrays["flow"].shape == (2, 2, 32, 44)


def test_a_folder_of_images(video: Path, flows: np.ndarray, tmp_path: Path) -> None:
    (tmp_path / "frames").mkdir()
    for i, frame in enumerate(read_frames(video, resize=None, crop=None)):
        with av.open(str(tmp_path / "frames" / f"{i}.png"), "w", format="image2") as container:
            stream = container.add_stream("png", rate=25)
            stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "rgb24"
            image = av.VideoFrame.from_ndarray(frame.image.numpy(), format="rgb24")
            container.mux(stream.encode(image))
            container.mux(stream.encode())
    assert call(tmp_path / "frames", "-o", tmp_path / "a.npz").code == 0
    with np.load(tmp_path / "a.npz") as arrays:
        assert np.array_equal(arrays["flow"], flows)


def test_several_videos_have_a_folder_each_and_a_bad_one_stops_nobody(video: Path, tmp_path: Path) -> None:
    second = write_video(tmp_path / "b.mkv", 3, speed=2)
    single = write_video(tmp_path / "single.mkv", 1)
    junk = tmp_path / "junk.mp4"
    junk.write_bytes(b"junk" * 100)
    missing = tmp_path / "missing.mp4"
    out = tmp_path / "out"
    done = call(video, single, junk, missing, second, "-o", out)
    assert done.code == 1
    assert "single.mkv: has only one frame" in done.err
    assert "junk.mp4: is not a video" in done.err
    assert "missing.mp4: cannot be opened" in done.err
    assert {name: len(os.listdir(out / name)) for name in os.listdir(out)} == {"a": 6, "b": 3}
    assert np.array_equal(read_flo(out / "b" / "flow_000001.flo"), solve(second)[1])


def test_a_damaged_video_warns_and_gives_what_it_has(video: Path, tmp_path: Path) -> None:
    cut = tmp_path / "cut.mkv"
    data = write_video(tmp_path / "long.mkv", 40).read_bytes()
    cut.write_bytes(data[: len(data) // 2])
    done = call(cut, "-o", tmp_path / "out")
    assert done.code == 0
    assert "warning: " in done.err
    assert "cut.mkv" in done.err
    record = json.loads((tmp_path / "out" / "flow.json").read_text())
    assert 5 < record["pairs"] < 39
    assert f"{record['pairs']} flows" in done.out


@pytest.mark.parametrize("name", ["out", "a.npz", "a.mp4"])
def test_finished_work_is_left_alone_and_other_settings_are_refused(
    video: Path, tmp_path: Path, name: str
) -> None:
    target = tmp_path / name
    first = call(video, "-o", target)
    assert first.code == 0
    before = tree(tmp_path)
    stamp = target.stat().st_mtime_ns
    again = call(video, "-o", target)
    assert (again.code, again.err) == (0, "")
    assert "already" in again.out
    for options, said in [
        (("--preset", "opencv-cuda"), "mode opencv-cpu there and opencv-cuda now"),
        (("--fps", "native"), "fps 25.0 there and native now"),
        (("--resize", 30), "resize none there and 30 now"),
    ]:
        refused = call(video, "-o", target, *options)
        assert refused.code == 2
        assert said in refused.err
        assert "--overwrite" in refused.err
    other = write_video(tmp_path.parent / f"{tmp_path.name}-other.mkv", 3)
    assert "video a.mkv there" in call(other, "-o", target).err
    assert tree(tmp_path) == before
    assert target.stat().st_mtime_ns == stamp

    assert call(other, "-o", target, "--overwrite").code == 0
    fresh = tmp_path / "fresh"
    fresh.mkdir()
    assert call(other, "-o", fresh / name).code == 0
    assert tree(fresh) == {key: data for key, data in tree(tmp_path).items() if not key.startswith("fresh")}


def test_files_of_others_are_not_overwritten(video: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    mine = tmp_path / "out" / "flow_000000.flo"
    for path in (mine, tmp_path / "a.npz", tmp_path / "a.mp4"):
        path.write_bytes(b"mine")
    for target in (mine.parent, tmp_path / "a.npz", tmp_path / "a.mp4"):
        done = call(video, "-o", target)
        assert done.code == 2
        assert "--overwrite" in done.err
    assert mine.read_bytes() == b"mine"
    for text in ('{"settings": 5}', '{"settings": {"params": 5}}', "[]"):
        (mine.parent / "flow.json").write_text(text)
        done = call(video, "-o", mine.parent)
        assert done.code == 2
        assert "of unknown origin" in done.err or "made otherwise (bytes none there" in done.err
    assert call(video, "-o", tmp_path / "a.npz", "--overwrite").code == 0
    assert np.load(tmp_path / "a.npz")["flow"].shape == (5, 2, HEIGHT, WIDTH)
    # A folder may hold other things.
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.txt").write_text("mine")
    assert call(video, "-o", tmp_path / "notes").code == 0
    assert (tmp_path / "notes" / "a.txt").read_text() == "mine"


WORK = """
import os, sys
from fasti3d.cli import app
import fasti3d.flow.export, fasti3d.classification.classify, fasti3d.ops.tvl1
from fasti3d.flow.export import video
video.PART = 2
video_path = sys.argv[1]
MORE = {"flows": ("--layout", "denseflow")}

def work(folder):
    name = os.path.basename(os.path.dirname(folder))
    target = os.path.join(folder, name)
    try:
        app(["flow", video_path, "-o", target, *MORE.get(name, ()), "--resize", "none", "--device", "cpu"])
    except SystemExit as error:
        return error.code or 0
    return 9
"""


FILES = {"out": 4, "a.npz": 1, "a.mp4": 1, "flows": 7}


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[list[Path], list[int]]]:
    if not hasattr(os, "fork"):
        pytest.skip("needs fork")
    home = tmp_path_factory.mktemp("killed")
    video = write_video(home / "v.mkv", 4)
    return killed_everywhere(WORK, home / "runs", video, kinds=tuple(FILES))


@pytest.mark.parametrize("name", FILES)
def test_killed_anywhere_and_called_again_it_gives_the_same_bytes(
    killed: dict[str, tuple[list[Path], list[int]]], name: str
) -> None:
    (*folders, undisturbed), codes = killed[name]
    assert len(folders) >= 10
    assert codes == [0] * (len(folders) + 1)
    wanted = tree(undisturbed)
    assert len(wanted) == FILES[name]
    for folder in folders:
        assert tree(folder) == wanted, folder.name


def test_a_pair_that_is_half_written_is_written_again(video: Path, tmp_path: Path) -> None:
    call(video, "-o", tmp_path / "whole.npz")
    partial = tmp_path / "a.npz.partial"
    output, options = npz_output(video, tmp_path / "a.npz")
    with pytest.raises(KeyboardInterrupt):
        export(video, output, options, progress=interrupt_at(3))
    raw = partial / "flow.raw"
    with raw.open("ab") as file:
        file.write(b"half a pair")
    done = call(video, "-o", tmp_path / "a.npz")
    assert "(3 were done already)" in done.out
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "whole.npz").read_bytes()
    assert not partial.exists()


def npz_output(video: Path, target: Path) -> tuple[NpzOutput, Options]:
    import torch

    options = Options(TVL1Params(), 25.0, None, torch.device("cpu"), 20.0)
    return NpzOutput(target, settings_of(video, "npz", options)), options


def interrupt_at(count: int):
    def progress(done: float) -> None:
        if done == count:
            raise KeyboardInterrupt

    return progress


def test_unfinished_work_of_other_settings_is_refused(video: Path, tmp_path: Path) -> None:
    output, options = npz_output(video, tmp_path / "a.npz")
    with pytest.raises(KeyboardInterrupt):
        export(video, output, options, progress=interrupt_at(2))
    refused = call(video, "-o", tmp_path / "a.npz", "--preset", "large-motion")
    assert refused.code == 2
    assert "a.npz.partial" in refused.err
    assert "scale_step 0.8 there and 0.5 now" in refused.err
    assert call(video, "-o", tmp_path / "a.npz", "--preset", "large-motion", "--overwrite").code == 0
    with np.load(tmp_path / "a.npz") as arrays:
        assert np.array_equal(arrays["flow"], solve(video, preset="large-motion"))
    assert os.listdir(tmp_path) == ["a.npz"]


def test_two_runs_do_not_write_to_one_place(video: Path, tmp_path: Path) -> None:
    output, _ = npz_output(video, tmp_path / "a.npz")
    with output.opened():
        done = call(video, "-o", tmp_path / "a.npz")
        assert done.code == 1
        assert "another run is writing" in done.err


@pytest.mark.skipif(os.name != "posix", reason="interrupts are sent otherwise here")
def test_an_interrupt_ends_quietly_and_can_be_gone_on_from(tmp_path: Path) -> None:
    video = write_video(tmp_path / "long.mkv", 300)
    out = tmp_path / "out"
    command = [sys.executable, "-m", "fasti3d", "flow", str(video), "-o", str(out), "--device", "cpu"]
    command += ["--resize", "48"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        until((out / "flow_000000.flo").exists)
        process.send_signal(signal.SIGINT)
        stdout, stderr = process.communicate(timeout=PATIENCE)
    assert (process.returncode, stdout) == (130, "")
    assert "Traceback" not in stderr
    assert "the same command continues where it stopped" in stderr
    there = {path.name: path.stat().st_mtime_ns for path in out.glob("*.flo")}
    assert 0 < len(there) < 299
    done = call(video, "-o", out, "--resize", 48)
    assert f"({len(there)} were done already)" in done.out
    assert len(list(out.glob("*.flo"))) == 299
    assert all((out / name).stat().st_mtime_ns == stamp for name, stamp in there.items())


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ([], "--out"),
        (["-o", "{tmp}/a.avi"], "a.avi must end in .mp4 or .npz"),
        (["-o", "{tmp}/none/a.mp4"], "none is not a folder"),
        (["-o", "{tmp}/none/a.npz"], "none is not a folder"),
        (["-o", "{tmp}/file"], "file is a file"),
        (["-o", "{tmp}/file/out"], "file is a file"),
        (["-o", "{tmp}/x", "--preset", "fast"], "large-motion, got 'fast'"),
        (["-o", "{tmp}/x", "--fps", "0"], "native, got '0'"),
        (["-o", "{tmp}/x", "--resize", "0"], "none, got '0'"),
        (["-o", "{tmp}/x", "--resize", "-5"], "none, got '-5'"),
        (["-o", "{tmp}/x", "--device", "tpu"], "cuda:N"),
        (["-o", "{tmp}/x", "--max-magnitude", "0"], "must be above 0, got 0"),
        (["-o", "{tmp}/x", "--max-magnitude", "nan"], "must be above 0, got nan"),
        (["-o", "{tmp}/x", "--format", "tiff"], "flo or kitti, got 'tiff'"),
        (["-o", "{tmp}/x", "--format", "kitti", "--viz"], "--viz"),
        (["-o", "{tmp}/x.npz", "--viz"], "for a folder"),
        (["-o", "{tmp}/x.mp4", "--format", "kitti"], "for a folder"),
        (["-o", "{tmp}/" + 300 * "x"], "File name too long"),
        (["-o", "{tmp}/" + 246 * "x" + ".npz"], "File name too long"),
        (["-o", "{tmp}/x", "--resize", "1000000"], "up to 8192"),
        (["-o", "{tmp}/x", "--fps", "1e9"], "to 1e+06"),
    ],
)
def test_wrong_usage_says_what_is_wrong(video: Path, tmp_path: Path, options: list[str], said: str) -> None:
    (tmp_path / "file").write_text("")
    command = [option.replace("{tmp}", str(tmp_path)) for option in options]
    done = CliRunner(env={"COLUMNS": "1000", "NO_COLOR": "1"}).invoke(app, ["flow", str(video), *command])
    assert done.exit_code == 2, done.output
    assert done.stdout == ""
    assert said in done.stderr
    assert os.listdir(tmp_path) == ["file"]


def test_several_videos_need_a_folder_and_names_of_their_own(video: Path, tmp_path: Path) -> None:
    done = call(video, video, "-o", tmp_path / "a.mp4")
    assert done.code == 2
    assert "one video, got 2" in done.err
    done = call(video, video, "-o", tmp_path / "out")
    assert done.code == 2
    assert "different names" in done.err
    assert os.listdir(tmp_path) == []


def test_odd_names_have_folders_of_their_own(tmp_path: Path) -> None:
    names = ["..mp4", "...mp4", "a.mp4", "A.mp4", "a..mp4", "flow.json.mp4", "new\nline.mp4", "\udcff.mp4"]
    (tmp_path / "in").mkdir()
    data = write_video(tmp_path / "v.mkv", 2).read_bytes()
    for name in names:
        (tmp_path / "in" / name).write_bytes(data)
    (tmp_path / "in" / "bad\nerror: forged.mp4").write_bytes(b"junk")
    done = call(*(tmp_path / "in").iterdir(), "-o", tmp_path / "out")
    assert done.code == 1
    assert len(done.err.splitlines()) == 1
    assert len(done.out.splitlines()) == len(names)
    folders = ["..mp4", "...mp4", "a", "A", "a.", "flow.json", "new\nline", "\udcff"]
    assert sorted(os.listdir(tmp_path / "out")) == sorted(folders)
    for folder in folders:
        assert sorted(os.listdir(tmp_path / "out" / folder)) == ["flow.json", "flow_000000.flo"]
    assert sorted(os.listdir(tmp_path)) == ["in", "out", "v.mkv"]


def test_a_video_is_never_replaced_by_its_flow(video: Path, tmp_path: Path) -> None:
    copy = tmp_path / "a.mp4"
    copy.write_bytes(video.read_bytes())
    for path in (copy, tmp_path):
        done = call(path, "-o", path, "--viz", "--overwrite")
        assert done.code == 2
        assert "is the video itself" in done.err
    assert tree(tmp_path) == {"a.mp4": video.read_bytes()}


def test_frames_too_small_for_flow_are_named(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "tiny.mkv"), "w") as container:
        stream = container.add_stream("ffv1", rate=25)
        stream.width, stream.height, stream.pix_fmt = 40, 2, "bgr0"
        for _ in range(3):
            image = np.zeros((2, 40, 3), np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    done = call(tmp_path / "tiny.mkv", "-o", tmp_path / "out")
    assert done.code == 1
    assert "is 40x2, too small for flow" in done.err
    assert not (tmp_path / "out").exists()


def test_frames_that_the_video_s_clock_or_codec_cannot_take(
    video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fast = write_video(tmp_path / "fast.mkv", 3)
    monkeypatch.setattr("fasti3d.video.sample.MAX_REPEATS", 2)
    monkeypatch.setattr("fasti3d.video.sample.REPEATS_PER_PICTURE", 0)
    assert call(fast, "-o", tmp_path / "a.mp4", "--fps", "1e6").code == 0
    shown, times = pictures(tmp_path / "a.mp4")
    assert len(shown) == 4
    assert times == sorted(set(times))
    monkeypatch.setattr(av, "codecs_available", {"mpeg4"})
    wide = [torch.zeros(2, 24, 8200)] * 2
    monkeypatch.setattr("fasti3d.flow.export.run.tvl1_video", lambda *_, **__: iter(wide))
    done = call(video, "-o", tmp_path / "b.mp4")
    assert done.code == 1
    assert "b.mp4: FFmpeg cannot encode these frames" in done.err
    assert len(done.err.splitlines()) == 1
