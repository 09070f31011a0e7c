"""Mode dense: one pass over the whole video, against the same done by hand."""

from __future__ import annotations

import json
import os
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from extraction_making import errors, moving, plain, record, rows, tree, write_video
from i3d_making import make_i3d
from tolerances import assert_close
from torch import Tensor

import fasti3d
from fasti3d import I3D, extraction, network, video
from fasti3d.extraction import ConflictError, dense_features
from fasti3d.flow import TVL1Params, to_flow_clip
from fasti3d.flow.stream import still_flow, stream_flow
from fasti3d.video.windows import cut_windows

FAST = TVL1Params(nscales=2, warps=1, outer_iterations=2, inner_iterations=5)
pytestmark = pytest.mark.usefixtures("narrow")

# Cheap, with a window and a stride along time.
EARLY = "Conv3d_1a_7x7"
WIDTH = 24


@pytest.fixture(scope="module")
def model(narrow: None) -> I3D:
    return make_i3d()


@pytest.fixture
def short_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dense_features, "_PIECE", 16)
    monkeypatch.setattr(dense_features, "_MIN_PIECE", 8)


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """33 frames of 40x32 that move: two pieces of 16, and one more frame."""
    return write_video(tmp_path_factory.mktemp("clip") / "clip.mkv", moving(33))


def extract(source: Path, out: Path, **options: Any) -> dict[str, np.ndarray]:
    """The arrays of the one video's npz."""
    options = {"mode": "dense", "format": "npz", "tvl1_params": FAST} | options
    done = fasti3d.extract(source, out, **options)
    assert (done.videos, done.done, done.failed) == (1, 1, ())
    with np.load(out / f"{source.stem}.npz") as arrays:
        assert len(next(iter(arrays.values()))) == done.rows
        return dict(arrays)


def whole_frames(path: Path) -> Tensor:
    return torch.stack([frame.image for frame in video.read_frames(path, crop=None)])


def steps_of(model: I3D, x: Tensor, endpoint: str) -> Tensor:
    """(steps, N, C, H', W') of one pass."""
    with torch.no_grad():
        return model.forward_endpoints(x, [endpoint])[endpoint].movedim(2, 0)


@pytest.mark.usefixtures("short_pieces")
def test_pooled_features_and_maps_are_those_of_one_pass(model: I3D, clip: Path, tmp_path: Path) -> None:
    x = video.to_clip(torch.stack([frame.image for frame in video.read_frames(clip)]))[None]
    maps = steps_of(model, x, "Mixed_5c")[:, 0]
    with torch.no_grad():
        pooled = model.extract_features(x)[0].T
        logits = model.logits(pooled.T[None, :, :, None, None])[0, :, :, 0, 0].T
    for features, expected in (("map", maps), ("pooled", pooled), ("Logits", logits)):
        found = extract(clip, tmp_path / features, model=model, features=features)["rgb"]
        assert_close("i3d", torch.from_numpy(found), expected)
    assert maps.shape == (5, network.FEATURE_CHANNELS, 7, 7)
    assert pooled.shape == (4, network.FEATURE_CHANNELS)
    found_rows = rows(tmp_path / "map" / "clip.json")
    assert [row[:2] for row in found_rows] == [(0, 8), (8, 16), (16, 24), (24, 32), (32, 33)]  # they tile it
    for start, end, begins, ends in found_rows:
        assert (begins, ends) == (pytest.approx(start / 25), pytest.approx(end / 25))
    pairs = [row[:2] for row in rows(tmp_path / "pooled" / "clip.json")]
    assert pairs == [(0, 16), (8, 24), (16, 32), (24, 33)]
    made = record(tmp_path / "pooled" / "clip.json")
    assert made["frames"] == 33
    settings = made["made"]["settings"]
    assert settings["mode"] == "dense"
    assert not settings.keys() & {"stack", "step", "tail"}
    assert "tail" not in made


@pytest.mark.usefixtures("short_pieces")
@pytest.mark.parametrize("preset", ["readme", "mediapipe"])
def test_both_streams_have_the_same_rows(
    model: I3D, clip: Path, tmp_path: Path, preset: fasti3d.flow.stream.FlowPreset
) -> None:
    flow_model = make_i3d(in_channels=2)
    options: dict[str, Any] = {"streams": "both", "features": EARLY, "flow_preset": preset, "fps": None}
    found = extract(clip, tmp_path, model=model, flow_model=flow_model, **options)
    frames = whole_frames(clip)
    x = video.to_clip(frames[:, 16:240, 48:272])[None]
    assert_close("i3d", torch.from_numpy(found["rgb"]), steps_of(model, x, EARLY)[:, 0])
    flow = torch.cat((stream_flow(frames, preset, FAST), still_flow(preset, torch.device("cpu"))))
    expected = steps_of(flow_model, to_flow_clip(flow)[None], EARLY)[:, 0]
    assert_close("i3d", torch.from_numpy(found["flow"]), expected)
    assert len(found["rgb"]) == len(found["flow"]) == 17
    assert found["end_frame"].tolist() == [*range(2, 33, 2), 33]
    assert found["start_seconds"] == pytest.approx(np.arange(0, 33, 2) / 25)
    assert found["end_seconds"] == pytest.approx(found["end_frame"] / 25)
    assert json.loads(str(found["metadata"]))["flow_of_last_frame"] == "still"


@pytest.mark.usefixtures("short_pieces")
def test_crops_and_mirror_images(model: I3D, tmp_path: Path) -> None:
    source = write_video(tmp_path / "short.mkv", moving(10))
    flow_model = make_i3d(in_channels=2)
    options: dict[str, Any] = {"streams": "both", "features": EARLY, "crops": 10}
    found = extract(source, tmp_path / "out", model=model, flow_model=flow_model, **options)
    frames = whole_frames(source)
    flow = stream_flow(frames, "readme", FAST, cropped=False)
    flows = to_flow_clip(torch.cat((flow, torch.zeros_like(flow[:1]))))
    clips = video.to_clip(frames)
    assert found["rgb"].shape == found["flow"].shape == (5, 10, WIDTH, 112, 112)
    negated = torch.tensor([-1, 1])[:, None, None, None]
    for i, (top, left) in {1: (0, 96), 4: (16, 48)}.items():
        seen, moved = (of[:, :, top : top + 224, left : left + 224] for of in (clips, flows))
        x, y = torch.stack((seen, seen.flip(-1))), torch.stack((moved, moved.flip(-1) * negated))
        for name, made, given in (("rgb", model, x), ("flow", flow_model, y)):
            views = torch.from_numpy(found[name][:, [i, 5 + i]])
            assert_close("i3d", views, steps_of(made, given, EARLY))


@pytest.mark.usefixtures("short_pieces")
@pytest.mark.filterwarnings("ignore::fasti3d.video.VideoWarning")
def test_a_damaged_file_is_counted_again(model: I3D, shared_data: Path, tmp_path: Path) -> None:
    source = shared_data / "videos" / "corrupted.mp4"
    assert (video.count_frames(source), video.count_frames(source, decode=True)) == (125, 73)
    assert fasti3d.extract(source, tmp_path / "whole", model=model, mode="dense").done == 0
    assert "breaks off" in errors(tmp_path / "whole")["corrupted"]
    seen: list[extraction.Progress] = []
    found = extract(source, tmp_path, model=model, features=EARLY, partial=True, progress=seen.append)
    frames = torch.stack([frame.image for frame in video.read_frames(source)])
    assert_close(
        "i3d", torch.from_numpy(found["rgb"]), steps_of(model, video.to_clip(frames)[None], EARLY)[:, 0]
    )
    made = record(tmp_path / "corrupted.json")
    assert made["frames"] == found["end_frame"][-1] == 73
    (warning,) = made["warnings"]
    assert "breaks off" in warning
    assert seen[-1].rows == len(found["rgb"]) == 37


@pytest.mark.usefixtures("short_pieces")
@pytest.mark.parametrize(
    ("said", "streams"),
    [*((said, "rgb") for said in (1, 16, 17, 32, 34, 49, 60)), (32, "both"), (34, "both"), (60, "both")],
)
def test_a_wrong_count_of_packets_changes_nothing(
    model: I3D, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: int, streams: str
) -> None:
    """In place of the network, the mean of each frame: every one comes once, in order."""
    count, counts = video.count_frames, []

    def counted(path: Path, *, fps: float | None, decode: bool) -> int:
        counts.append(decode)
        return count(path, fps=fps, decode=True) if decode else said

    def fed(model: I3D, pieces: Any, total: int, *, features: str) -> Any:
        seen = 0
        for piece in pieces:
            n = piece.shape[2]
            assert 0 < n <= 17
            yield seen, piece[:, :1].float().mean(dim=(3, 4), keepdim=True)
            seen += n
        if seen != total:
            raise fasti3d.dense.FrameCountError

    monkeypatch.setattr(dense_features, "count_frames", counted)
    monkeypatch.setattr(dense_features, "dense_stream", fed)
    monkeypatch.setattr(
        dense_features, "support", lambda features, total: [_step(i, total) for i in range(total)]
    )
    source = write_video(tmp_path / "ramp.mkv", plain(range(0, 231, 7)))
    options: dict[str, Any] = {"model": model, "streams": streams, "features": EARLY}
    if streams == "both":
        options["flow_model"] = make_i3d(in_channels=2)
    found = extract(source, tmp_path / "out", **options)
    assert counts == [False, True]
    assert found["start_frame"].tolist() == list(range(33))
    assert found["rgb"].reshape(33) == pytest.approx(np.arange(0, 231, 7))


def _step(i: int, total: int) -> fasti3d.dense.Support:
    return fasti3d.dense.Support(i, min(i + 1, total), i, i + 1, i)


def test_short_videos(model: I3D, tmp_path: Path) -> None:
    source = write_video(tmp_path / "short.mkv", plain([100] * 8))
    (failure,) = fasti3d.extract(source, tmp_path / "out", model=model, mode="dense").failed
    assert "has 8 frames, fewer than the 9 that pooled needs: take map" in failure.reason
    single = write_video(tmp_path / "single.mkv", plain([100]))
    options: dict[str, Any] = {"flow_model": make_i3d(in_channels=2), "streams": "flow", "features": EARLY}
    assert extract(single, tmp_path / "single", **options)["flow"].shape == (1, WIDTH, 112, 112)
    assert rows(tmp_path / "single" / "single.json") == [(0, 1, 0.0, pytest.approx(0.04))]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"mode": "sparse"}, "mode must be one of windows, dense, got 'sparse'"),
        ({"stack": 64}, "stack is of windows, and mode dense has none: leave it out, got 64"),
        ({"step": 8}, "step is of windows, and mode dense has none"),
        ({"tail": "pad"}, "tail is of windows, and mode dense has none"),
        ({"layout": "video_features"}, "layout must be default in mode dense, got 'video_features'"),
        ({"features": "Predictions"}, "features must be Logits in mode dense"),
    ],
)
def test_what_does_not_go_with_it_is_refused(
    model: I3D, clip: Path, tmp_path: Path, options: dict[str, Any], said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        fasti3d.extract(clip, tmp_path / "out", **({"model": model, "mode": "dense"} | options))


@pytest.mark.usefixtures("short_pieces")
def test_workers_and_the_other_mode(model: I3D, clip: Path, tmp_path: Path) -> None:
    work = tmp_path / "work"
    for i in range(3):
        write_video(work / f"{i}.mkv", moving(20 + i, seed=i))
        os.utime(work / f"{i}.mkv", ns=(0, 10**18))
    options: dict[str, Any] = {"model": model, "mode": "dense", "features": EARLY}
    for workers in (1, 3):
        done = fasti3d.extract(work, tmp_path / str(workers), workers=workers, **options)
        assert done.done == 3
    assert tree(tmp_path / "1") == tree(tmp_path / "3")
    with pytest.raises(ConflictError, match=r"settings\.mode dense there and windows now"):
        fasti3d.extract(work, tmp_path / "1", **(options | {"mode": "windows"}))


class Killed(BaseException):
    """What ends a process, as far as it can be told from within."""


@pytest.mark.usefixtures("short_pieces")
def test_cut_short_and_called_again_it_gives_the_same_bytes(
    model: I3D, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = dense_features.dense_stream

    def dying(*arguments: Any, **options: Any) -> Iterator[Any]:
        for i, found in enumerate(stream(*arguments, **options)):
            if i == 1:
                raise Killed
            yield found

    options: dict[str, Any] = {"model": model, "mode": "dense", "features": EARLY}
    with monkeypatch.context() as patch:
        patch.setattr(dense_features, "dense_stream", dying)
        with pytest.raises(Killed):
            fasti3d.extract(clip, tmp_path / "killed", **options)
    assert tree(tmp_path / "killed") == {}
    for name in ("killed", "whole"):
        assert fasti3d.extract(clip, tmp_path / name, **options).done == 1
    assert tree(tmp_path / "killed") == tree(tmp_path / "whole")
    assert sorted(tree(tmp_path / "whole")) == ["clip.json", "clip_rgb.npy"]


@pytest.mark.usefixtures("short_pieces")
def test_few_frames_are_held_however_long_the_video_is(
    model: I3D, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows come while frames do, which are read no more than a few pieces ahead."""
    read = 0

    def frames(*arguments: Any, **options: Any) -> Any:
        nonlocal read
        image = torch.zeros(224, 224, 3, dtype=torch.uint8)
        while True:
            yield video.Frame(read, read / 25, image)
            read += 1

    monkeypatch.setattr("fasti3d.extraction.reading.read_sized", frames)
    monkeypatch.setattr(dense_features, "count_frames", lambda *arguments, **options: 10**6)
    held: list[weakref.ref[Tensor]] = []

    def noted(*arguments: Any) -> Iterator[video.Window]:
        for window in cut_windows(*arguments):
            held.append(weakref.ref(window.frames))
            yield window

    monkeypatch.setattr(dense_features, "cut_windows", noted)
    producer = dense_features.DenseFeatures(
        extraction.ExtractionSettings(mode="dense", features=EARLY), {"rgb": model}
    )
    pieces = producer(tmp_path / "endless.mkv", extraction.Watch())
    for _, piece in zip(range(12), pieces, strict=False):
        assert piece is not None
        assert read - piece.where[-1].end_frame < 6 * 16
        # One in the network, one waiting, two read ahead, and one that is being made.
        assert sum(frames() is not None for frames in held) <= 6
    assert len(held) > 12
    pieces.close()
