"""A machine that runs out of memory, descriptors or disk: the job ends and says so, and blames no video."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import pytest
import torch
from typer.testing import CliRunner

import fasti3d
from fasti3d.cli import app
from fasti3d.utils.resources import is_resource_error
from fasti3d.video import VideoError, count_frames, decode, probe, read_frames, transform, windows

SHORT: dict[str, Callable[[], Exception]] = {
    "memory": MemoryError,
    "memory of FFmpeg": lambda: av.error.MemoryError(errno.ENOMEM, os.strerror(errno.ENOMEM), "v.mkv"),
    "descriptors": lambda: OSError(errno.EMFILE, os.strerror(errno.EMFILE), "v.mkv"),
    "descriptors of FFmpeg": lambda: av.error.OSError(errno.ENFILE, os.strerror(errno.ENFILE), "v.mkv"),
    "disk": lambda: OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)),
    "memory of torch": lambda: RuntimeError("DefaultCPUAllocator: can't allocate memory: 1 bytes"),
    "memory of a GPU": lambda: torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB."),
}
pytestmark = pytest.mark.usefixtures("narrow")
every_shortage = pytest.mark.parametrize("short", SHORT.values(), ids=SHORT.keys())
some = pytest.mark.parametrize(
    "short", [SHORT["memory"], SHORT["descriptors of FFmpeg"], SHORT["memory of a GPU"]]
)


@pytest.fixture(autouse=True)
def no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """FFmpeg's lack of memory is believed where there is none."""
    monkeypatch.setattr("fasti3d.video.errors._has_memory", lambda: False)


def run_short_on(
    monkeypatch: pytest.MonkeyPatch, name: str, short: Callable[[], Exception], place: str = "open"
) -> None:
    """From now on there is not enough for the video of this name: as it is opened, or as it is converted."""
    if place == "convert":

        def fail(*_: object, **__: object) -> Any:
            raise short()

        monkeypatch.setattr(transform.FrameTransform, "_rgb", fail)
        return
    opened = av.open

    def open_(file: str, *arguments: Any, **options: Any) -> Any:
        if Path(str(file)).name == name:
            raise short()
        return opened(file, *arguments, **options)

    monkeypatch.setattr(decode.av, "open", open_)


def call(*arguments: object) -> tuple[int, str, str]:
    done = CliRunner(env={"COLUMNS": "400", "NO_COLOR": "1"}).invoke(app, [str(item) for item in arguments])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done.exit_code, done.stdout, done.stderr


def assert_stopped(result: tuple[int, str, str]) -> None:
    code, _, said = result
    assert code == 1
    (line,) = said.splitlines()
    assert line.startswith("error: stopped, as this machine ran out of memory, file descriptors or disk: ")


@every_shortage
@pytest.mark.parametrize("place", ["open", "convert"])
def test_reading_raises_what_ran_short(
    clips: dict[str, Path], monkeypatch: pytest.MonkeyPatch, short: Callable[[], Exception], place: str
) -> None:
    run_short_on(monkeypatch, "a.mkv", short, place)
    reads = [lambda path: next(read_frames(path)), lambda path: next(windows(path))]
    if place == "open":
        reads += [probe, count_frames, lambda path: count_frames(path, decode=True)]
    for read in reads:
        with pytest.raises(type(short())) as caught:
            read(clips["a"])
        assert not isinstance(caught.value, VideoError)
    assert sum(1 for _ in read_frames(clips["b"], resize=None, crop=None)) == 12 if place == "open" else True


def test_sizes_that_only_a_broken_file_declares_are_its_fault(
    clips: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    run_short_on(monkeypatch, "a.mkv", SHORT["memory of FFmpeg"])
    with pytest.raises(VideoError, match="Cannot allocate memory"):
        probe(clips["a"])


@pytest.mark.skipif(sys.platform == "win32", reason="limits are POSIX")
def test_reading_with_no_descriptor_left(clips: dict[str, Path], tmp_path: Path) -> None:
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    caught = []
    reads = (probe, count_frames, lambda path: next(read_frames(path)), lambda _: next(read_frames(tmp_path)))
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
    try:
        for read in reads:
            try:
                read(clips["a"])
            except Exception as error:
                caught.append(error)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert [error.errno for error in caught] == [errno.EMFILE] * 4  # type: ignore[attr-defined]
    assert not any(isinstance(error, VideoError) for error in caught)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_reading_with_no_memory_left(tmp_path: Path) -> None:
    script = """
import resource, sys
from fasti3d.utils.resources import is_resource_error
from fasti3d.video import VideoError, read_frames
path = sys.argv[1]
pages = int(open("/proc/self/statm").read().split()[0])
resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + (48 << 20),) * 2)
try:
    next(read_frames(path))
except Exception as error:
    print(is_resource_error(error), isinstance(error, VideoError))
"""
    frame = av.VideoFrame(8000, 8000, "gray")
    for plane in frame.planes:
        plane.update(bytes(plane.buffer_size))
    context = av.CodecContext.create("png", "w")
    context.width = context.height = 8000
    context.pix_fmt, context.time_base = "gray", Fraction(1, 25)
    context.options = {"compression_level": "1"}
    (tmp_path / "1.png").write_bytes(b"".join(map(bytes, [*context.encode(frame), *context.encode(None)])))
    command = [sys.executable, "-c", script, str(tmp_path / "1.png")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.stdout.split() == ["True", "False"], done.stderr


@some
@pytest.mark.parametrize("mode", [(), ("--mode", "dense")], ids=["windows", "dense"])
def test_extract(
    clips: dict[str, Path],
    narrow_weights: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    short: Callable[[], Exception],
    mode: tuple[str, ...],
) -> None:
    listed = tmp_path / "list.txt"
    listed.write_text(f"{clips['a']}\n{clips['b']}\n")
    out = tmp_path / "out"
    command = (
        "extract",
        listed,
        "-o",
        out,
        "--weights",
        narrow_weights,
        "--workers",
        1,
        "--device",
        "cpu",
        *mode,
    )
    monkeypatch.setattr(fasti3d.I3D, "extract_features", lambda self, clip: torch.zeros(len(clip), 4, 1))
    if mode:
        monkeypatch.setattr("fasti3d.extraction.dense_features.DenseFeatures._rows", lambda *_: iter(()))
    run_short_on(monkeypatch, "b.mkv", short)
    assert_stopped(call(*command))
    assert not [path for path in out.iterdir() if path.name.startswith(("b", ".", "errors"))]


def test_flow(clips: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for i, short in enumerate(SHORT.values()):
        with monkeypatch.context() as patched:
            run_short_on(patched, "a.mkv", short)
            done = call(
                "flow", clips["a"], clips["b"], "-o", tmp_path / str(i), "--resize", "none", "--fps", 5
            )
        assert_stopped(done)
        assert not (tmp_path / str(i)).exists()


def test_flow_on_a_full_disk(clips: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, flow: object) -> None:
        raise SHORT["disk"]()

    monkeypatch.setattr("fasti3d.flow.export.folder.write_flo", full)
    command = ("flow", clips["a"], clips["b"], "-o", tmp_path, "--resize", "none", "--fps", 5)
    assert_stopped(call(*command))
    assert os.listdir(tmp_path) == ["a"]
    assert os.listdir(tmp_path / "a") == ["flow.json"]  # and no lock
    monkeypatch.undo()
    assert call(*command)[0] == 0


def test_classify_and_fvd(
    clips: dict[str, Path], narrow_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = ("--weights", narrow_weights, "--device", "cpu")
    for short in (SHORT["memory"], SHORT["descriptors"], SHORT["memory of a GPU"]):
        with monkeypatch.context() as patched:
            run_short_on(patched, "a.mkv", short)
            assert_stopped(call("classify", clips["a"], clips["b"], "--json", *weights))
            code, out, said = call("fvd", clips["a"].parent, clips["a"].parent, "--frames", 9, *weights)
            assert (code, out, len(said.splitlines())) == (1, "", 1)
            assert not is_resource_error(VideoError("a", said))
