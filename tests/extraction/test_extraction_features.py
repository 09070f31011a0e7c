"""What the rows are: windows, tails, crops, streams and endpoints, against the same done by hand."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from extraction_making import Shown, moving, plain, record, rows, write_video
from i3d_making import make_i3d
from tolerances import assert_close
from torch import Tensor

import fasti3d
from fasti3d import extraction, network, video
from fasti3d.extraction import window_features
from fasti3d.flow import TVL1Params, to_flow_clip
from fasti3d.flow.stream import stream_flow

pytestmark = pytest.mark.usefixtures("narrow")

FAST = TVL1Params(nscales=2, warps=1, outer_iterations=2, inner_iterations=5)


@pytest.fixture(scope="module")
def ramp(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """25 frames of 32x32 that brighten from 0 to 240."""
    return write_video(tmp_path_factory.mktemp("ramp") / "ramp.mkv", plain(range(0, 250, 10)))


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """14 frames of 40x32 that move."""
    return write_video(tmp_path_factory.mktemp("wide") / "wide.mkv", moving(14))


def extract(source: Path, out: Path, **options: Any) -> dict[str, np.ndarray]:
    """The arrays of the one video's npz."""
    options = {"model": Shown(), "format": "npz", "stack": 10, "tvl1_params": FAST} | options
    done = fasti3d.extract(source, out, **options)
    assert (done.videos, done.done, done.failed) == (1, 1, ())
    with np.load(out / f"{source.stem}.npz") as arrays:
        return dict(arrays)


def level(*frames: int) -> float:
    """The mean of these frames of the ramp, as the network sees them."""
    return sum(10 * i / 127.5 - 1 for i in frames) / len(frames)


@pytest.mark.parametrize(
    ("tail", "step", "expected"),
    [
        ("drop", 10, [(0, 10), (10, 20)]),
        ("pad", 10, [(0, 10), (10, 20), (20, 25)]),
        ("loop", 10, [(0, 10), (10, 20), (20, 25)]),
        ("pad", 5, [(0, 10), (5, 15), (10, 20), (15, 25)]),
        ("drop", 4, [(0, 10), (4, 14), (8, 18), (12, 22)]),
        ("pad", 4, [(0, 10), (4, 14), (8, 18), (12, 22), (16, 25)]),
        ("pad", 12, [(0, 10), (12, 22), (24, 25)]),
        ("pad", 13, [(0, 10), (13, 23)]),
    ],
)
def test_windows_and_tails(
    ramp: Path, tmp_path: Path, tail: extraction.settings.Tail, step: int, expected: list[tuple[int, int]]
) -> None:
    arrays = extract(ramp, tmp_path, tail=tail, step=step)
    assert arrays["rgb"].dtype == np.float32
    found = rows(tmp_path / "ramp.json")
    assert [row[:2] for row in found] == expected
    for feature, (start, end, begins, ends) in zip(arrays["rgb"], found, strict=True):
        assert (begins, ends) == (pytest.approx(start / 25), pytest.approx(end / 25))
        missing = 10 - (end - start)
        more = [end - 1] * missing if tail == "pad" else [start + i % (end - start) for i in range(missing)]
        assert feature == pytest.approx([level(*range(start, end), *more)] * 4, abs=1e-5)
    made = record(tmp_path / "ramp.json")
    assert made["frames"] == 25
    assert made["tail"] == {"policy": tail, "frames_after_last_row": 25 - expected[-1][1]}
    columns = {name: arrays[name].tolist() for name in made["rows"]}
    assert columns == made["rows"]


def test_a_video_shorter_than_a_window(tmp_path: Path) -> None:
    short = write_video(tmp_path / "short.mkv", plain([100, 200]))
    arrays = extract(short, tmp_path / "pad")
    assert arrays["rgb"][0] == pytest.approx([(100 + 9 * 200) / 1275 - 1] * 4, abs=1e-5)
    arrays = extract(short, tmp_path / "loop", tail="loop")
    assert arrays["rgb"][0] == pytest.approx([150 / 127.5 - 1] * 4, abs=1e-5)
    assert rows(tmp_path / "loop" / "short.json") == [(0, 2, 0.0, pytest.approx(0.08))]
    dropped = fasti3d.extract(short, tmp_path / "drop", model=Shown(), stack=10, tail="drop")
    (failure,) = dropped.failed
    assert "has 2 frames, fewer than the 10 of a window" in failure.reason
    assert "pad or loop" in failure.reason


def test_the_video_s_own_rate_and_another(ramp: Path, tmp_path: Path) -> None:
    slow = write_video(tmp_path / "slow.mkv", plain(range(0, 200, 10)), rate=10)
    extract(slow, tmp_path / "native", fps=None)
    assert rows(tmp_path / "native" / "slow.json") == [
        (0, 10, 0.0, pytest.approx(1.0)),
        (10, 20, pytest.approx(1.0), pytest.approx(2.0)),
    ]
    extract(slow, tmp_path / "half", fps=5)
    assert rows(tmp_path / "half" / "slow.json") == [(0, 10, 0.0, pytest.approx(2.0))]


def test_pooled_features_maps_and_endpoints_of_the_real_network(wide: Path, tmp_path: Path) -> None:
    model = make_i3d()
    clip = video.to_clip(torch.stack([frame.image for frame in video.read_frames(wide)][:9]))[None]

    def made(features: str) -> np.ndarray:
        options: dict[str, Any] = {"model": model, "features": features, "stack": 9, "tail": "drop"}
        return extract(wide, tmp_path / features, **options)["rgb"]

    with torch.no_grad():
        maps = model.forward_endpoints(clip, ["MaxPool3d_4a_3x3", "Mixed_5c", "Logits"])
        pooled = model.extract_features(clip).mean(dim=2).numpy()
    assert pooled.shape == (1, network.FEATURE_CHANNELS)
    assert np.array_equal(made("pooled"), pooled)
    assert np.array_equal(made("map"), maps["Mixed_5c"].numpy())
    assert np.array_equal(made("MaxPool3d_4a_3x3"), maps["MaxPool3d_4a_3x3"].numpy())
    # A classifier on top of pooled features is the network's.
    weight, bias = model.logits.conv3d.weight.detach().flatten(1), model.logits.conv3d.bias
    assert bias is not None
    logits = torch.from_numpy(pooled) @ weight.T + bias.detach()
    assert_close("i3d", logits, maps["Logits"])


def whole_frames(path: Path) -> Tensor:
    return torch.stack([frame.image for frame in video.read_frames(path, crop=None)])


def test_both_streams_see_what_they_should(wide: Path, tmp_path: Path) -> None:
    rgb, flow = Shown(keep=True), Shown(2, keep=True)
    extract(wide, tmp_path, model=rgb, flow_model=flow, streams="both", step=4)
    frames = whole_frames(wide)
    assert frames.shape[1:] == (256, 320, 3)
    flows = to_flow_clip(stream_flow(frames, "readme", FAST))
    assert len(rgb.clips) == len(flow.clips) == 2
    for i, (seen, moved) in enumerate(zip(rgb.clips, flow.clips, strict=True)):
        assert torch.equal(seen, video.to_clip(frames[4 * i : 4 * i + 10, 16:240, 48:272]))
        assert torch.equal(moved, flows[:, 4 * i : 4 * i + 9])
    assert flow.clips[0].abs().max() > 0.01


@pytest.mark.parametrize("preset", ["readme", "mediapipe"])
def test_flow_of_a_tail_is_still_or_repeats(
    wide: Path, tmp_path: Path, preset: fasti3d.flow.stream.FlowPreset
) -> None:
    flows = to_flow_clip(stream_flow(whole_frames(wide), preset, FAST))
    options: dict[str, Any] = {"streams": "flow", "flow_preset": preset, "step": 10}
    seen = {}
    for tail in ("pad", "loop"):
        flow = Shown(2, keep=True)
        extract(wide, tmp_path / tail, flow_model=flow, tail=tail, **options)
        assert torch.equal(flow.clips[0], flows[:, :9])
        seen[tail] = flow.clips[1]
    assert torch.equal(seen["pad"][:, :3], flows[:, 10:])
    assert seen["pad"][:, 3:].unique().tolist() == [0.0 if preset == "readme" else pytest.approx(-1 / 255)]
    assert torch.equal(seen["loop"], flows[:, [10, 11, 12] * 3])


def test_a_single_frame_has_flow_that_is_still(tmp_path: Path) -> None:
    single = write_video(tmp_path / "single.mkv", moving(1))
    flow = Shown(2, keep=True)
    extract(single, tmp_path / "out", flow_model=flow, streams="flow", tail="loop")
    (clip,) = flow.clips
    assert clip.shape == (2, 9, 224, 224)
    assert not clip.any()


def test_crops_and_mirror_images(wide: Path, tmp_path: Path) -> None:
    rgb, flow = Shown(keep=True), Shown(2, keep=True)
    arrays = extract(wide, tmp_path, model=rgb, flow_model=flow, streams="both", crops=10, tail="drop")
    assert arrays["rgb"].shape == arrays["flow"].shape == (1, 10, 4)
    frames = whole_frames(wide)[:10]
    flows = to_flow_clip(stream_flow(frames, "readme", FAST, cropped=False))
    clip = video.to_clip(frames)
    places = [(0, 0), (0, 96), (32, 0), (32, 96), (16, 48)]
    for i, (top, left) in enumerate(places):
        seen, moved = (of[:, :, top : top + 224, left : left + 224] for of in (clip, flows))
        assert torch.equal(rgb.clips[i], seen)
        assert torch.equal(rgb.clips[5 + i], seen.flip(-1))
        assert torch.equal(flow.clips[i], moved)
        assert torch.equal(flow.clips[5 + i], moved.flip(-1) * torch.tensor([-1, 1])[:, None, None, None])
    centre = extract(wide, tmp_path / "centre", flip=True, tail="drop")["rgb"]
    assert np.array_equal(centre, arrays["rgb"][:, [4, 9]])


@pytest.mark.parametrize("crops", [1, 5])
def test_batches_of_a_gpu_give_the_same_rows(
    ramp: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, crops: int
) -> None:
    one = extract(ramp, tmp_path / "one", step=3, crops=crops)["rgb"]
    monkeypatch.setattr(window_features, "BATCH", {"cpu": 8})
    eight = extract(ramp, tmp_path / "eight", step=3, crops=crops)["rgb"]
    assert len(one) == 6
    assert np.allclose(one, eight, atol=1e-6)  # means of other shapes are summed in another order


def test_both_streams_of_a_real_clip_are_those_of_classify(shared_data: Path, tmp_path: Path) -> None:
    source = shared_data / "videos" / "arm_wrestling.mp4"
    networks: dict[str, Any] = {"model": make_i3d(), "flow_model": make_i3d(7, 2), "streams": "both"}
    networks["tvl1_params"] = FAST
    arrays = extract(source, tmp_path, features="Logits", stack=16, step=117, tail="drop", **networks)
    result = fasti3d.classify(source, window=16, stride=117, **networks)
    assert result.frames == record(tmp_path / "arm_wrestling.json")["frames"] == 250
    assert len(result.spans) == len(arrays["rgb"]) == 3  # they end on the last frame
    for name, logits in result.streams.items():
        assert np.array_equal(arrays[name], logits.numpy())
    spans = zip(arrays["start_seconds"], arrays["end_seconds"], strict=True)
    assert [pytest.approx(list(span)) for span in result.spans] == [list(span) for span in spans]


def test_features_that_are_not_finite_are_an_error(ramp: Path, tmp_path: Path) -> None:
    class Broken(Shown):
        def extract_features(self, x: Tensor) -> Tensor:
            return super().extract_features(x) / 0

    (failure,) = fasti3d.extract(ramp, tmp_path, model=Broken()).failed
    assert "not finite in torch.float32" in failure.reason


def test_modes_of_the_network_are_left_as_they_were(ramp: Path, tmp_path: Path) -> None:
    class Dropping(Shown):
        def extract_features(self, x: Tensor) -> Tensor:
            return self.dropout(super().extract_features(x) + 10)

    model = Dropping().train()
    assert extract(ramp, tmp_path, model=model)["rgb"].all()
    assert model.training


def test_one_video_s_work_can_be_sent_elsewhere(wide: Path, tmp_path: Path) -> None:
    """What an actor on another machine does is what a worker here does."""
    settings = extraction.ExtractionSettings(stack=9, tail="drop", format="safetensors")
    (source,) = extraction.find_sources([wide])
    model = make_i3d()
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
    here = extraction.extractor(settings, {"rgb": model}, tmp_path / "here")
    there = pickle.loads(pickle.dumps(extraction.extractor(settings, {"rgb": model}, tmp_path / "there")))
    first = here(source)
    second = pickle.loads(pickle.dumps(there(pickle.loads(pickle.dumps(source)))))
    assert (first.state, first.rows) == (second.state, second.rows) == ("done", 1)
    for suffix in ("safetensors", "json"):
        name = f"wide.{suffix}"
        assert (tmp_path / "here" / name).read_bytes() == (tmp_path / "there" / name).read_bytes()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"stack": 8}, "stack must be at least 9 frames, the shortest clip of the network, got 8"),
        ({"stack": 9, "streams": "flow"}, "stack must be at least 10 frames with flow"),
        ({"step": 0}, "step must be at least 1 frame, got 0"),
        ({"fps": 0.0}, "fps must be a positive number"),
        ({"crops": 4}, "crops must be one of 1, 3, 5, 10, got 4"),
        ({"streams": "depth"}, "streams must be one of rgb, flow, both, got 'depth'"),
        ({"features": "Mixed_6a"}, "features must be one of pooled, map, Conv3d_1a_7x7"),
        ({"tail": "keep"}, "tail must be one of drop, pad, loop, got 'keep'"),
        ({"format": "h5"}, "format must be one of npy, npz, safetensors, got 'h5'"),
        ({"layout": "theirs"}, "layout must be one of default, video_features, anomaly, got 'theirs'"),
        ({"layout": "video_features", "format": "npz"}, "format must be npy for the layout video_features"),
        ({"streams": "flow", "flow_preset": "mediapipe", "crops": 5}, "squashes whole frames"),
        ({"workers": 0}, "workers must be at least 1, got 0"),
        ({"shard": (0, 4)}, "I from 1 to N, got 0/4"),
        ({"streams": "both", "flow_model": Shown()}, "flow_model must be a network of 2 channels"),
        ({"streams": "both", "flow_model": Shown(2).double()}, "in one dtype"),
    ],
)
def test_wrong_arguments_say_what_is_wrong(
    ramp: Path, tmp_path: Path, options: dict[str, Any], said: str
) -> None:
    networks = {"model": Shown()} | ({"flow_model": Shown(2)} if options.get("streams") == "flow" else {})
    with pytest.raises(ValueError, match=said):
        fasti3d.extract(ramp, tmp_path / "out", **(networks | options))
