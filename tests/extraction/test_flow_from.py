"""Flow read from pictures instead of computed: in features, classes and the two-stream network."""

from __future__ import annotations

import importlib
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from extraction_making import Shown, errors, moving, record, tree, write_video
from typer.testing import CliRunner

import fasti3d
from fasti3d import TVL1Params, TwoStreamI3D, classify, video
from fasti3d.cli import app
from fasti3d.extraction import ConflictError
from fasti3d.flow import FlowFolder
from fasti3d.flow.export import FolderOutput, Options, export, settings_of
from fasti3d.flow.stream import stream_flow

QUICK = TVL1Params(nscales=2, warps=1, inner_iterations=10, outer_iterations=1)
FRAMES = 14


class Means(fasti3d.I3D):
    """The means of a clip's channels, over its left half and its right, as logits; it keeps the clips."""

    def __init__(self, in_channels: int) -> None:
        super().__init__(2 * 2, in_channels)
        self.labels = None
        self.clips: list[torch.Tensor] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.clips += list(x)
        return x[:, [0, -1]].unflatten(4, (2, -1)).mean(dim=(2, 3, 5)).flatten(1)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """videos/v.mkv, and its flow as denseflow's pictures in flows/v."""
    home = tmp_path_factory.mktemp("home")
    path = write_video(home / "videos" / "v.mkv", moving(FRAMES))
    options = Options(QUICK, 25.0, 256, torch.device("cpu"), 20.0)
    output = FolderOutput(home / "flows" / "v", settings_of(path, "denseflow", options))
    assert export(path, output, options).solved == FRAMES - 1
    return home


def extract(path: Path, out: Path, **options: Any) -> fasti3d.Extraction:
    given = {"flow_model": Shown(2), "streams": "flow", "stack": 10, "step": 4, "device": "cpu"} | options
    return fasti3d.extract(path, out, **given)


def cosine(one: np.ndarray, other: np.ndarray) -> float:
    return float((one * other).sum() / np.linalg.norm(one) / np.linalg.norm(other))


@pytest.mark.parametrize("crops", [1, 5])
def test_features_are_those_of_computed_flow(home: Path, tmp_path: Path, crops: int) -> None:
    for name, how in (("read", {"flow_from": home / "flows"}), ("computed", {"tvl1_params": QUICK})):
        assert not extract(home / "videos" / "v.mkv", tmp_path / name, crops=crops, **how).failed
    found, computed = (np.load(tmp_path / name / "v_flow.npy") for name in ("read", "computed"))
    assert found.shape == computed.shape
    assert cosine(found, computed) > 0.999
    assert not np.array_equal(found, computed)


def test_features_of_a_network_are_those_of_computed_flow(home: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = fasti3d.I3D(4, 2).eval()
    dense = {"mode": "dense", "stack": None, "step": None, "features": "Mixed_3b", "flow_model": model}
    for name, how in (("read", {"flow_from": home / "flows"}), ("computed", {"tvl1_params": QUICK})):
        assert not extract(home / "videos" / "v.mkv", tmp_path / name, **dense, **how).failed
    found, computed = (np.load(tmp_path / name / "v_flow.npy") for name in ("read", "computed"))
    assert found.shape == computed.shape == (7, 256, 28, 28)
    assert cosine(found, computed) > 0.99


def test_the_record_says_where_flow_came_from(home: Path, tmp_path: Path) -> None:
    path, out = home / "videos" / "v.mkv", tmp_path / "out"
    assert extract(path, out, flow_from=home / "flows").done == 1
    made = record(out / "v.json")["made"]
    assert made["settings"]["flow_bound"] == 20
    assert "tvl1" not in made["settings"]
    assert made["source"]["flow"]["folder"] == str(home / "flows" / "v")
    assert made["source"]["flow"]["flows"] == FRAMES - 1
    assert extract(path, out, flow_from=home / "flows").already_done == 1
    before = tree(out)
    shutil.copytree(home / "flows", tmp_path / "others")
    (tmp_path / "others" / "v" / "flow.json").unlink()
    for other in ({"tvl1_params": QUICK}, {"flow_from": tmp_path / "others"}):
        with pytest.raises(ConflictError, match=r"v\.json is of other features \(.*flow"):
            extract(path, out, **other)
    again = extract(path, out, flow_from=tmp_path / "others", flow_bound=10, overwrite=True)
    assert again.done == 1
    assert tree(out) != before


def test_folders_that_do_not_fit_fail_their_video_alone(home: Path, tmp_path: Path) -> None:
    videos, flows = tmp_path / "videos", tmp_path / "flows"
    for name in ("a/good", "none", "count", "cut"):
        (videos / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(home / "videos" / "v.mkv", videos / f"{name}.mkv")
        if name != "none":
            shutil.copytree(home / "flows" / "v", flows / name)
    for axis in "xy":
        (flows / "count" / f"flow_{axis}_{FRAMES - 1:05}.jpg").unlink()
    broken = flows / "cut" / "flow_y_00003.jpg"
    broken.write_bytes(broken.read_bytes()[:100])
    done = extract(videos, tmp_path / "out", flow_from=flows)
    assert (done.done, len(done.failed)) == (1, 3)
    assert (tmp_path / "out" / "a" / "good_flow.npy").exists()
    reasons = errors(tmp_path / "out")
    assert reasons["cut"].startswith(f"{broken}: is cut off, or not a JPEG file")
    assert reasons["none"].startswith(f"{flows / 'none'}: cannot be read as a folder of flow")
    assert reasons["count"].startswith(
        f"{flows / 'count'}: holds 12 flows, which are those of 12 or 13 frames, but the video is sampled to "
    )
    with pytest.raises(fasti3d.video.VideoError, match=r"the video is sampled to 28: give the fps"):
        classify(
            videos / "cut.mkv", flow_model=Means(2), streams="flow", fps=50, flow_from=tmp_path / "flows"
        )


def test_classes_are_those_of_computed_flow(home: Path) -> None:
    path = home / "videos" / "v.mkv"
    options: dict[str, Any] = {"streams": "both", "window": 10, "stride": 3}
    found = classify(path, model=Means(3), flow_model=Means(2), flow_from=home / "flows", **options)
    computed = classify(path, model=Means(3), flow_model=Means(2), tvl1_params=QUICK, **options)
    assert torch.equal(found.streams["rgb"], computed.streams["rgb"])
    assert cosine(found.streams["flow"].numpy(), computed.streams["flow"].numpy()) > 0.999
    assert (found.flow_from, found.flow_bound) == (home / "flows" / "v", 20)
    assert (computed.flow_from, computed.flow_bound) == (None, None)


def test_frames_beside_flow_are_the_video(home: Path, tmp_path: Path) -> None:
    """The layout of TSN: img_00001.jpg, flow_x_00001.jpg and flow_y_00001.jpg in one folder."""
    folder = shutil.copytree(home / "flows" / "v", tmp_path / "v")
    (folder / "flow.json").unlink()
    for i, image in enumerate(moving(FRAMES), 1):
        import cv2

        cv2.imwrite(str(folder / f"img_{i:05}.png"), image[..., ::-1])
    found = classify(folder, flow_model=Means(2), streams="flow", window=10, flow_from=tmp_path)
    wanted = classify(
        home / "videos" / "v.mkv", flow_model=Means(2), streams="flow", window=10, flow_from=home / "flows"
    )
    assert found.frames == FRAMES
    assert torch.equal(found.logits, wanted.logits)


def test_pictures_of_128_are_still(home: Path, tmp_path: Path) -> None:
    import cv2

    (tmp_path / "v").mkdir()
    for i in range(FRAMES):  # one for each frame, from 0 on
        for axis in "xy":
            path = tmp_path / "v" / f"flow_{axis}_{i:05}.jpg"
            cv2.imwrite(str(path), np.full((256, 320), 128, np.uint8))
    model = Means(2)
    classify(home / "videos" / "v.mkv", flow_model=model, streams="flow", window=10, flow_from=tmp_path)
    assert all((clip == 0).all() for clip in model.clips)


def test_two_streams_from_frames_and_folders(home: Path) -> None:
    frames = torch.stack([f.image for f in video.read_frames(home / "videos" / "v.mkv", crop=None)])
    two = TwoStreamI3D(Means(3), Means(2))
    clips = torch.stack([frames[:10], frames[3:13]])
    folder = home / "flows" / "v"
    two.forward_frames(clips, flow_from=[folder, folder], first=[0, 3])
    for clip, start in zip(two.flow.clips, (0, 3), strict=True):
        wanted = stream_flow(frames[start : start + 10], "readme", QUICK).transpose(0, 1)
        assert clip.shape == wanted.shape
        assert cosine(clip.numpy(), wanted.numpy()) > 0.99
        assert (clip - wanted).abs().mean() < 2 / 255  # a step
    two.forward_frames(clips[:1], flow_from=folder)
    for wrong, message in (
        ({"flow_from": [folder]}, "one entry per clip, 2, got 1 and 2"),
        ({"flow_from": [folder, folder], "first": -1}, "first must be at least 0, got -1"),
        ({"flow_from": [folder, folder], "params": QUICK}, "for computing flow"),
    ):
        with pytest.raises(ValueError, match=message):
            two.forward_frames(clips, **wrong)
    with pytest.raises(fasti3d.video.VideoError, match="holds 13 flows, fewer than the 14"):
        two.forward_frames(clips[:1], flow_from=folder, first=5)


@pytest.mark.parametrize("function", [extract, lambda path, out, **options: classify(path, **options)])
@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"flow_from": "nowhere"}, "flow_from must be a folder .*, got nowhere"),
        ({"flow_bound": 10.0}, "flow_bound is that of flow_from, which is not given"),
        ({"flow_bound": -1.0, "flow_from": "."}, "flow_bound must be above 0, in pixels, got -1.0"),
        ({"flow_preset": "mediapipe", "flow_from": "."}, "flow_preset must be readme with flow_from"),
        ({"tvl1_params": QUICK, "flow_from": "."}, "tvl1_params are for computing flow"),
        (
            {"streams": "rgb", "flow_model": None, "flow_from": "."},
            "flow_from is given, but streams is 'rgb'",
        ),
    ],
)
def test_wrong_arguments(function: Any, wrong: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        function(
            tmp_path / "v.mkv", tmp_path / "out", **({"streams": "flow", "flow_model": Means(2)} | wrong)
        )


def test_command_line(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    verb = importlib.import_module("fasti3d.cli.classify")
    monkeypatch.setattr(verb, "open_model", lambda *_, stream: Means({"rgb": 3, "flow": 2}[stream]))
    monkeypatch.setattr(verb, "check_there", lambda *_: None)
    runner = CliRunner(env={"COLUMNS": "400", "NO_COLOR": "1"})
    command = ["classify", str(home / "videos" / "v.mkv"), "--streams", "flow", "--flow-weights", "x"]
    command += ["--window", "10", "--device", "cpu", "--json", "--flow-from"]
    done = runner.invoke(app, [*command, str(home / "flows")])
    assert done.exit_code == 0, done.output
    result = json.loads(done.stdout)
    assert result["flow_from"] == str(home / "flows" / "v")
    assert result["flow_bound"] == 20
    done = runner.invoke(app, [*command, str(home / "flows"), "--flow-bound", "10"])
    assert done.exit_code == 1
    assert re.search(r"v: was made with a bound of 20, not 10", done.stderr)
    assert len(FlowFolder(home / "flows" / "v")) == FRAMES - 1
    for wrong in ([str(tmp_path / "no")], [str(home / "flows"), "--flow-bound", "0"]):
        assert runner.invoke(app, [*command, *wrong]).exit_code == 2
