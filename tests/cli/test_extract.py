"""``fasti3d extract``: what it writes and says, and that a kill costs next to nothing."""

from __future__ import annotations

import importlib
import io
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from rich.console import Console
from typer.testing import CliRunner
from waiting import PATIENCE, until

import fasti3d
from fasti3d.cli import app, output
from fasti3d.extraction import Progress
from fasti3d.models import load_model

pytestmark = pytest.mark.usefixtures("narrow")


def call(*arguments: object) -> SimpleNamespace:
    """A call in this process."""
    runner = CliRunner(env={"COLUMNS": "400", "NO_COLOR": "1"})
    done = runner.invoke(app, ["extract", *map(str, arguments), "--device", "cpu"])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return SimpleNamespace(code=done.exit_code, out=done.stdout, err=done.stderr)


def test_files_are_those_of_the_library(clips: dict[str, Path], narrow_weights: Path, tmp_path: Path) -> None:
    folder = clips["a"].parent
    (tmp_path / "list.txt").write_text(f"{folder / 'a.mkv'}\n{folder / 'b.mkv'}\n{tmp_path / 'gone.mp4'}\n")
    options = ("--stack", 12, "--features", "MaxPool3d_2a_3x3", "--weights", narrow_weights)
    log = tmp_path / "job.log"
    out = tmp_path / "new" / "out"
    done = call(tmp_path / "list.txt", "-o", out, *options, "--log", log)
    assert done.code == 1
    assert "gone.mp4: cannot be opened: No such file or directory" in done.err
    assert "2 of 3 videos done in " in done.out
    assert f"1 failed (see {out}/errors.jsonl); 2 rows, " in done.out
    assert "\x1b" not in done.out + done.err

    model = load_model(narrow_weights, device="cpu")
    fasti3d.extract(
        [clips["a"], clips["b"]], tmp_path / "library", model=model, stack=12, features="MaxPool3d_2a_3x3"
    )
    for name in ("a.json", "a_rgb.npy", "b.json", "b_rgb.npy"):
        assert (out / name).read_bytes() == (tmp_path / "library" / name).read_bytes()
    assert np.load(out / "a_rgb.npy").shape == (1, 24, 6, 56, 56)
    (entry,) = map(json.loads, (out / "errors.jsonl").read_text().splitlines())
    assert entry["video"] == "gone"
    lines = log.read_text().splitlines()
    assert sum("INFO" in line and "1 rows" in line for line in lines) == 2
    assert sum("ERROR" in line and "gone.mp4" in line for line in lines) == 1

    quiet = call(clips["a"], clips["b"], "-o", out, *options, "--quiet")
    assert (quiet.code, quiet.out, quiet.err) == (0, "", "")


def test_options_reach_the_settings(
    clips: dict[str, Path], narrow_weights: Path, narrow_flow_weights: Path, tmp_path: Path
) -> None:
    options = ["--stack", 12, "--step", 400, "--fps", "native", "--flip", "--tail", "loop", "--partial"]
    options += ["--format", "safetensors", "--features", "MaxPool3d_2a_3x3", "--streams", "both"]
    options += ["--weights", narrow_weights, "--flow-weights", narrow_flow_weights]
    options += ["--flow-preset", "mediapipe", "--tvl1-preset", "opencv-cuda", "--dtype", "float32"]
    done = call(clips["a"], "-o", tmp_path, *options, "--workers", 1, "--shard", "1/1")
    assert (done.code, done.err) == (0, "")
    settings = json.loads((tmp_path / "a.json").read_text())["made"]["settings"]
    tvl1 = settings.pop("tvl1")
    assert tvl1["mode"] == "opencv-cuda"
    assert settings == {
        "streams": "both",
        "mode": "windows",
        "features": "MaxPool3d_2a_3x3",
        "stack": 12,
        "step": 400,
        "fps": None,
        "crops": 1,
        "flip": True,
        "tail": "loop",
        "partial": True,
        "format": "safetensors",
        "layout": "default",
        "flow_preset": "mediapipe",
        "device": "cpu",
        "dtype": "float32",
    }


def test_dense_rows(clips: dict[str, Path], narrow_weights: Path, tmp_path: Path) -> None:
    options = ("--weights", narrow_weights, "--mode", "dense", "--features", "Conv3d_1a_7x7")
    done = call(clips["a"], "-o", tmp_path, *options)
    assert (done.code, done.err) == (0, "")
    made = json.loads((tmp_path / "a.json").read_text())
    assert made["made"]["settings"]["mode"] == "dense"
    assert made["rows"]["start_frame"] == list(range(0, made["frames"], 2))


def test_other_features_are_refused_until_overwritten(
    clips: dict[str, Path], narrow_weights: Path, tmp_path: Path
) -> None:
    options = ("-o", tmp_path, "--weights", narrow_weights, "--stack", 12, "--features", "MaxPool3d_2a_3x3")
    assert call(clips["a"], *options).code == 0
    refused = call(clips["a"], *options, "--layout", "video_features")
    assert refused.code == 2
    assert "settings.layout default there and video_features now" in refused.err
    assert "--overwrite" in refused.err
    options += ("--layout", "video_features", "--tail", "pad", "--overwrite")
    assert call(clips["a"], *options).code == 0
    names = ["a.json", "a_fps.npy", "a_rgb.npy", "a_timestamps_ms.npy"]
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    assert call(clips["a"], *options).out.startswith("0 of 1 video done in ")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--stack", "8"], "stack must be at least 9 frames"),
        (["--mode", "sparse"], "mode must be one of windows, dense, got 'sparse'"),
        (["--mode", "dense", "--stack", "16"], "stack is of windows, and mode dense has none"),
        (["--step", "0"], "step must be at least 1 frame, got 0"),
        (["--crops", "2"], "crops must be one of 1, 3, 5, 10, got 2"),
        (["--features", "pool"], "features must be one of pooled, map, Conv3d_1a_7x7"),
        (["--format", "h5"], "format must be one of npy, npz, safetensors"),
        (["--tail", "keep"], "tail must be one of drop, pad, loop"),
        (["--fps", "0"], "native"),
        (["--streams", "flow"], "needs --flow-weights"),
        (["--streams", "flow", "--flow-weights", "x", "--stack", "9"], "at least 10 frames with flow"),
        (["--tvl1-preset", "i4d"], "opencv-cuda"),
        (["--shard", "1"], "must be I/N, such as 1/4, got '1'"),
        (["--shard", "5/4", "--weights", "WEIGHTS"], "I from 1 to N, got 5/4"),
        (["--workers", "0"], "--workers"),
        (["--weights", "nothing"], "'nothing' is neither a file nor a name"),
        (["--log", "no/such/folder/log", "--weights", "WEIGHTS"], "--log"),
    ],
)
def test_wrong_usage_says_what_is_wrong(
    clips: dict[str, Path], narrow_weights: Path, tmp_path: Path, options: list[str], said: str
) -> None:
    options = [str(narrow_weights) if option == "WEIGHTS" else option for option in options]
    done = call(clips["a"], "-o", tmp_path / "out", *options)
    assert done.code == 2
    assert said in done.err
    assert done.out == ""
    assert not list(tmp_path.glob("out/*"))


def test_without_arguments_it_says_what_is_missing() -> None:
    done = call()
    assert done.code == 2
    assert "Missing argument" in done.err


def test_sources_that_are_not_there_and_folders_that_cannot_be(
    clips: dict[str, Path], narrow_weights: Path, tmp_path: Path
) -> None:
    assert "gone.mp4 is not there" in call(tmp_path / "gone.mp4", "-o", tmp_path / "out").err
    (tmp_path / "file").touch()
    done = call(clips["a"], "-o", tmp_path / "file", "--weights", narrow_weights)
    assert done.code == 1
    assert "file cannot be written" in done.err


def test_the_bar_shows_videos_clips_and_failures(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.StringIO()
    monkeypatch.setattr(output, "err", Console(file=screen, force_terminal=True, width=120))
    verb = importlib.import_module("fasti3d.cli.extract")
    with verb._bar(False) as report:
        assert report is not None
        report(Progress(videos=200, finished=2, failed=1, rows=30, share=0.25))
    shown = screen.getvalue()
    for text in ("3/200 videos", "25%", " clips/s", "1 failed"):
        assert text in shown
    with verb._bar(True) as report:
        assert report is None


def start(videos: dict[str, Path], out: Path, *options: object) -> subprocess.Popen[str]:
    script = Path(__file__).parent.parent / "narrow_cli.py"
    command = [sys.executable, script, "extract", *videos.values(), "-o", out, *options]
    return subprocess.Popen(
        list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture(scope="module")
def long_options(narrow_weights: Path) -> tuple[object, ...]:
    """Fifty windows of ``long``, which take a while."""
    return ("--weights", narrow_weights, "--stack", 9, "--features", "MaxPool3d_2a_3x3", "--step", 8)


@pytest.fixture(scope="module")
def undisturbed(
    narrow: None,
    clips: dict[str, Path],
    long_options: tuple[object, ...],
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, bytes]:
    out = tmp_path_factory.mktemp("undisturbed")
    assert call(*clips.values(), "-o", out, *long_options).code == 0
    found = files(out)
    assert sorted(found) == ["a.json", "a_rgb.npy", "b.json", "b_rgb.npy", "long.json", "long_rgb.npy"]
    return found


@pytest.mark.skipif(os.name != "posix", reason="signals are sent otherwise here")
@pytest.mark.parametrize("ray", [False, True], ids=["here", "ray"])
def test_an_interrupt_ends_quietly_and_leaves_what_another_run_goes_on_with(
    clips: dict[str, Path],
    long_options: tuple[object, ...],
    undisturbed: dict[str, bytes],
    tmp_path: Path,
    ray: bool,
) -> None:
    if ray:
        pytest.importorskip("ray.data", reason="needs Ray Data: pip install 'fasti3d[ray]'")
    out = tmp_path / "out"
    with start(clips, out, *["--ray"][: int(ray)], *long_options, "--device", "cpu") as process:
        until((out / "a.json").exists)
        process.send_signal(signal.SIGINT)
        said = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130
    assert said == ("", "warning: interrupted; the same command continues where it stopped\n")
    assert not list(out.glob("long*"))
    assert call(*clips.values(), "-o", out, *long_options).code == 0
    assert files(out) == undisturbed


def test_ray_takes_an_address_or_none_and_says_what_is_missing(
    clips: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)  # as where it is not installed
    verb = importlib.import_module("fasti3d.extraction.api")
    seen = []
    cluster = verb.on_ray.cluster
    monkeypatch.setattr(verb.on_ray, "cluster", lambda address: seen.append(address) or cluster(address))
    for given in (["--ray", clips["a"]], [clips["a"], "--ray"], ["--ray", "head:6379", clips["a"]]):
        done = call("-o", tmp_path, *given)
        assert done.code == 1
        assert "pip install 'fasti3d[ray]'" in done.err
    assert seen == ["local", "local", "head:6379"]
