"""``fasti3d classify``: what it prints, where, and with which exit code."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import typer
from safetensors.torch import save_file
from torch import Tensor
from typer.testing import CliRunner, Result
from waiting import PATIENCE

import fasti3d
from fasti3d.classification.classify import classify
from fasti3d.cli import app
from fasti3d.cli.classify import _targets
from fasti3d.flow import stream
from fasti3d.flow.params import TVL1Params
from fasti3d.models import load_model
from fasti3d.utils.files import write_atomically

pytestmark = pytest.mark.usefixtures("narrow")


def call(*arguments: object) -> Result:
    """A call in this process."""
    runner = CliRunner(env={"COLUMNS": "300", "NO_COLOR": "1"})
    done = runner.invoke(app, ["classify", *map(str, arguments)])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done


def test_json_is_the_library_s_result_and_errors_have_their_lines(
    clips: dict[str, Path], narrow_weights: Path
) -> None:
    missing = clips["a"].with_name("clips*.mp4")
    options = ("--weights", narrow_weights, "--json", "--top", 2)
    done = call(clips["a"], missing, clips["b"], *options)
    assert done.exit_code == 1
    first, failed, second = map(json.loads, done.stdout.splitlines())
    assert failed.keys() == {"file", "error"}
    assert failed["file"] == str(missing)
    assert "clips*.mp4" in failed["error"]
    assert "clips*.mp4" in done.stderr
    assert "Traceback" not in done.stderr

    assert first["file"] == str(clips["a"])
    assert second["file"] == str(clips["b"])
    result = classify(clips["a"], model=load_model(narrow_weights, device="cpu"))
    assert first["top"] == [
        {
            "label": score.label,
            "index": score.index,
            "probability": pytest.approx(score.probability, rel=1e-4),
            "logit": pytest.approx(score.logit, rel=1e-4),
        }
        for score in result.top(2)
    ]
    assert (first["fps"], first["frames"], first["warnings"]) == (25.0, 12, [])
    (window,) = first["windows"]
    assert (window["start"], window["end"]) == (0.0, pytest.approx(0.48))
    assert window["top"] == first["top"]
    assert first["frames_per_second"] == pytest.approx(12 / first["seconds"])
    assert {"device", "dtype"} <= first.keys()


def test_table_and_timelines(clips: dict[str, Path], narrow_weights: Path, tmp_path: Path) -> None:
    pattern = tmp_path / "{stem}.png"
    options = ("--weights", narrow_weights, "--timeline", pattern, "--top", 3, "--device", "cpu")
    done = call(clips["a"], clips["b"], *options)
    assert (done.exit_code, done.stderr) == (0, "")
    assert done.stdout.count("class ") == 6 + 2  # rows and the two headings
    assert "a.mkv" in done.stdout
    assert "12 frames in 1 window," in done.stdout
    assert "\x1b" not in done.stdout
    assert {path.name for path in tmp_path.iterdir()} == {"a.png", "b.png"}


def usage_error(*arguments: object) -> str:
    """What a wrong call says; it must end with exit code 2."""
    done = call(*arguments)
    assert done.exit_code == 2, done.output
    assert done.stdout == ""
    return done.stderr


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--stride", "-3"], "--stride"),
        (["--window", "8"], "--window"),
        (["--top", "0"], "--top"),
        (["--top", "many"], "--top"),
        (["--fps", "0"], "native"),
        (["--fps", "nan"], "native"),
        (["--device", "tpu"], "cuda:N"),
        (["--device", "cuda:99"], "cuda:99"),
        (["--dtype", "int8"], "float16"),
        (["--weights", "kinetics-400"], "kinetics400-rgb"),
        (["--timeline", "x.gif"], ".svg"),
        (["--timeline", "no/such/folder/x.png"], "no/such/folder"),
        (["--colour"], "--colour"),
    ],
)
def test_wrong_usage_says_what_is_wrong(clips: dict[str, Path], options: list[str], said: str) -> None:
    assert said in usage_error(clips["a"], *options)


def test_no_video_is_wrong_usage() -> None:
    assert "VIDEO" in usage_error()


def test_one_timeline_for_two_videos_is_wrong_usage(clips: dict[str, Path], tmp_path: Path) -> None:
    assert "{stem}" in usage_error(clips["a"], clips["b"], "--timeline", tmp_path / "one.png")
    assert "{stem}" in usage_error(clips["a"], clips["a"], "--timeline", tmp_path / "{stem}.png")


def test_weights_of_the_other_stream_are_wrong_usage(
    clips: dict[str, Path], narrow_weights: Path, narrow_flow_weights: Path
) -> None:
    said = usage_error(clips["a"], "--weights", narrow_flow_weights)
    assert "Invalid value for --weights: " in said
    assert "got one of 2 channels" in said
    options = ("--streams", "flow", "--flow-weights", narrow_weights)
    said = usage_error(clips["a"], *options)
    assert "Invalid value for --flow-weights: " in said
    assert "got one of 3 channels" in said


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--streams", "depth"], "one of rgb, flow, both, got 'depth'"),
        (["--streams", "both"], "needs --flow-weights: a checkpoint's path"),
        (["--streams", "flow"], "fasti3d weights get pytorch-i3d-flow-imagenet"),
        (["--flow-weights", "x.pt"], "--flow-weights is given, but streams is 'rgb'"),
        (["--streams", "flow", "--flow-weights", "x.pt"], "'x.pt' is neither a file nor a name"),
        (["--streams", "flow", "--flow-weights", "x.pt", "--flow-preset", "raw"], "readme, mediapipe"),
        (["--streams", "flow", "--flow-weights", "x.pt", "--tvl1-preset", "i4d"], "opencv-cuda"),
        (["--streams", "flow", "--flow-weights", "x.pt", "--window", "9"], "at least 10 with flow"),
    ],
)
def test_wrong_usage_of_the_flow_stream_says_what_is_wrong(
    clips: dict[str, Path], options: list[str], said: str
) -> None:
    assert said in usage_error(clips["a"], *options)


def test_streams_of_different_classes_are_wrong_usage(
    clips: dict[str, Path], narrow_flow_weights: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other.safetensors"
    save_file(fasti3d.I3D(4).state_dict(), other)
    options = ("--streams", "both", "--flow-weights", narrow_flow_weights, "--weights", other)
    assert "rgb has 4 and flow 5" in usage_error(clips["a"], *options)


def json_of(*arguments: object) -> dict[str, Any]:
    done = call("--json", *arguments)
    assert (done.exit_code, done.stderr) == (0, "")
    return json.loads(done.stdout)


def test_json_of_both_streams_has_each_one_s_own_classes(
    clips: dict[str, Path],
    narrow_weights: Path,
    narrow_flow_weights: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def solve(grey: Tensor, *, params: TVL1Params) -> Tensor:
        return (grey[1:].float() - grey[:-1].float())[:, None].repeat(1, 2, 1, 1)

    monkeypatch.setattr(stream, "tvl1_video", solve)
    rgb = json_of(clips["a"], "--weights", narrow_weights)
    options = ("--flow-weights", narrow_flow_weights, "--timeline", tmp_path / "timeline.png")
    flow = json_of(clips["a"], "--streams", "flow", *options)
    assert (tmp_path / "timeline.png").read_bytes().startswith(b"\x89PNG")
    both = json_of(clips["a"], "--streams", "both", "--weights", narrow_weights, *options[:2])
    assert rgb["streams"] == {"rgb": {"top": rgb["top"]}}
    assert flow["streams"] == {"flow": {"top": flow["top"]}}
    assert both["streams"] == rgb["streams"] | flow["streams"]

    def logits(scores: list[dict[str, Any]]) -> dict[int, float]:
        return {score["index"]: score["logit"] for score in scores}

    first, second = logits(rgb["top"]), logits(flow["top"])
    assert logits(both["top"]) == pytest.approx({i: first[i] + second[i] for i in first})


def test_presets_are_those_of_the_library(
    clips: dict[str, Path], narrow_flow_weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def solve(grey: Tensor, *, params: TVL1Params) -> Tensor:
        seen.append((grey.shape[1:], params))
        return torch.zeros(len(grey) - 1, 2, *grey.shape[1:])

    monkeypatch.setattr(stream, "tvl1_video", solve)
    options = ("--streams", "flow", "--flow-weights", narrow_flow_weights)
    json_of(clips["a"], *options)
    json_of(clips["a"], *options, "--flow-preset", "mediapipe", "--tvl1-preset", "large-motion")
    assert seen == [((256, 256), TVL1Params()), ((224, 224), TVL1Params.preset("large-motion"))]


def test_a_file_that_is_no_checkpoint_fails_without_a_traceback(
    clips: dict[str, Path], tmp_path: Path
) -> None:
    junk = tmp_path / "junk.pt"
    junk.write_bytes(b"junk")
    done = call(clips["a"], "--weights", junk)
    assert done.exit_code == 1
    assert "junk.pt" in done.stderr
    assert "Traceback" not in done.output


@pytest.mark.skipif(os.name != "posix", reason="interrupts are sent otherwise here")
def test_an_interrupt_ends_quietly(clips: dict[str, Path], narrow_weights: Path) -> None:
    options = ["--weights", str(narrow_weights), "--window", "9", "--stride", "1", "--json"]
    script = str(Path(__file__).parent.parent / "narrow_cli.py")
    command = [sys.executable, script, "classify", str(clips["a"]), str(clips["long"]), *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert json.loads(process.stdout.readline())["file"] == str(clips["a"])
        time.sleep(0.5)  # into the middle of the long one
        process.send_signal(signal.SIGINT)
        assert process.stdout.read() == ""
        assert process.wait(timeout=PATIENCE) == 130
        assert "Traceback" not in process.stderr.read()


def test_odd_names_have_pictures_of_their_own(tmp_path: Path) -> None:
    names = ["..mp4", "...mp4", "a.mp4", "A.mp4", "new\nline.mp4", "x" * 251 + ".mp4"]
    targets = _targets(tmp_path / "t-{stem}.png", [tmp_path / name for name in names])
    found = [target.name for target in targets if target is not None]
    assert found[:5] == ["t-..mp4.png", "t-...mp4.png", "t-a.png", "t-A.png", "t-new\nline.png"]
    assert found[5].startswith("t-" + "x" * 200)
    for target in targets:
        assert target is not None
        write_atomically(target, b"")
        assert target.parent == tmp_path
    with pytest.raises(typer.BadParameter, match="more than once"):
        _targets(tmp_path / "t-{stem}.png", [tmp_path / "a.mp4", tmp_path / "a.mkv"])
