"""Which frames and pixels the network sees in each view of a video, and what it says of them."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from av.video.frame import VideoFrame
from i3d_making import make_i3d, ordinary
from torch import Tensor

from fasti3d import I3D
from fasti3d.dense import dense_clip, dense_features
from fasti3d.flow import to_flow_clip
from fasti3d.flow.cache import pack
from fasti3d.flow.cache import write as write_cache
from fasti3d.flow.files import write_denseflow
from fasti3d.flow.params import TVL1Params
from fasti3d.flow.stream import stream_flow
from fasti3d.train.data import Video
from fasti3d.train.evaluation import VIEWS, FlowSource, Scorer
from fasti3d.video import VideoError, read_frames, to_clip
from fasti3d.video.survey import survey

pytestmark = pytest.mark.usefixtures("narrow")
# Sums run in another order, at another shape or in double precision.
TOLERANCE = {"rtol": 0, "atol": 1e-4}
FAST = TVL1Params(nscales=2, warps=1, outer_iterations=2)
COMPUTED = FlowSource(params=FAST)


def make_video(path: Path, frames: int, width: int = 320, height: int = 240) -> Path:
    """Moving noise, so that no two frames or places are alike, with key frames now and then."""
    large = np.random.default_rng(0).integers(0, 256, (height // 16 + 9, width // 16 + 9, 3), np.uint8)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.gop_size = 8
        stream.bit_rate = 4_000_000
        for i in range(frames):
            tile = np.roll(large, (i, 2 * i), (0, 1)).repeat(16, 0).repeat(16, 1)[:height, :width]
            frame = VideoFrame.from_ndarray(np.ascontiguousarray(tile), format="rgb24")
            frame = frame.reformat(format="yuv420p")
            frame.pts, frame.time_base = i, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("videos")


@pytest.fixture(scope="module")
def landscape(folder: Path) -> Path:
    return make_video(folder / "landscape.mp4", 67)


@pytest.fixture(scope="module")
def portrait(folder: Path) -> Path:
    return make_video(folder / "portrait.mp4", 65, 240, 400)


@pytest.fixture(scope="module")
def short(folder: Path) -> Path:
    return make_video(folder / "short.mp4", 3)


@pytest.fixture(scope="module")
def rgb(narrow: None) -> I3D:
    return make_i3d(5)


@pytest.fixture(scope="module")
def flow(narrow: None) -> I3D:
    return make_i3d(5, 2)


def whole_frames(path: Path) -> Tensor:
    return torch.stack([frame.image for frame in read_frames(path, crop=None)])


def logits(model: I3D, clip: Tensor) -> Tensor:
    """What the plain network says of a clip (C, T, H, W)."""
    return ordinary(model, clip[None], "Logits")["Logits"][0]


class Seen:
    """Remembers the clips that a network was called with; their corners stand for logits."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.clips: list[Tensor] = []

        def recorded(model: I3D, x: Tensor) -> Tensor:
            self.clips += x.detach().clone().unbind(0)
            return x[:, 0, 0, 0, :5].float()

        monkeypatch.setattr(I3D, "forward", recorded)


def test_starts() -> None:
    assert VIEWS["1x1"].starts(250) == (93,)
    assert VIEWS["10x3"].starts(250)[0] == 0
    assert VIEWS["10x3"].starts(250)[-1] == 186
    assert VIEWS["10x3"].starts(73) == tuple(range(10))
    for views, expected in (("1x1", (0,)), ("10x3", (0,) * 10)):
        for frames in (1, 3, 63, 64):
            assert VIEWS[views].starts(frames) == expected
    assert [views.count for views in VIEWS.values()] == [1, 1, 30]
    gaps = np.diff(VIEWS["10x3"].starts(1234))
    assert gaps.max() - gaps.min() <= 1


def test_full_is_the_dense_mode_of_the_library(folder: Path, rgb: I3D) -> None:
    path = make_video(folder / "full.mp4", 13)
    found = Scorer(rgb, "rgb", VIEWS["full"])(Video(path, 0, "k"))
    frames = [frame.image for frame in read_frames(path)]
    steps = torch.cat([part for _, part in dense_features(rgb, frames, len(frames), features="logits")], 1)
    assert found.shape == (1, 5)
    torch.testing.assert_close(found[0], steps.mean(1), **TOLERANCE)
    torch.testing.assert_close(found[0], logits(rgb, to_clip(torch.stack(frames))), **TOLERANCE)


def test_the_clip_in_the_middle(landscape: Path, rgb: I3D, monkeypatch: pytest.MonkeyPatch) -> None:
    frames = torch.stack([frame.image for frame in read_frames(landscape)])[1:65]
    found = Scorer(rgb, "rgb", VIEWS["1x1"])(Video(landscape, 0, "k"))
    torch.testing.assert_close(found[0], logits(rgb, to_clip(frames)), **TOLERANCE)
    seen = Seen(monkeypatch)
    Scorer(rgb, "rgb", VIEWS["1x1"])(Video(landscape, 0, "k"))
    Scorer(rgb, "rgb", VIEWS["1x1"])(Video(landscape, 0, "k"), known=survey(landscape))
    for clip in seen.clips:
        assert torch.equal(clip, frames.permute(3, 0, 1, 2))


@pytest.mark.parametrize("turned", [False, True])
def test_ten_clips_by_three_crops(
    landscape: Path, portrait: Path, turned: bool, rgb: I3D, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = portrait if turned else landscape
    seen = Seen(monkeypatch)
    found = Scorer(rgb, "rgb", VIEWS["10x3"])(Video(path, 0, "k"))
    assert found.shape == (30, 5)
    frames = whole_frames(path)
    assert frames.shape[1:3] == ((427, 256) if turned else (256, 341))
    margin = 171 if turned else 85
    starts = VIEWS["10x3"].starts(len(frames))
    order = sorted(set(starts))
    assert len(seen.clips) == 3 * len(order)
    for i, clip in enumerate(seen.clips):
        start, offset = order[i // 3], (0, margin // 2, margin)[i % 3]
        cut = frames[start : start + 64]
        cut = cut[:, offset : offset + 256] if turned else cut[:, :, offset : offset + 256]
        assert torch.equal(clip, cut.permute(3, 0, 1, 2))
    clips = [seen.clips[3 * order.index(start) + crop] for start in starts for crop in range(3)]
    assert torch.equal(found, torch.stack([clip[0, 0, 0, :5].float() for clip in clips]))


def test_three_frames_loop(short: Path, rgb: I3D, flow: I3D, monkeypatch: pytest.MonkeyPatch) -> None:
    frames = torch.stack([frame.image for frame in read_frames(short)])
    looped = to_clip(frames)[:, torch.arange(9) % 3]
    found = Scorer(rgb, "rgb", VIEWS["full"])(Video(short, 0, "k"))
    torch.testing.assert_close(found[0], logits(rgb, looped), **TOLERANCE)
    seen = Seen(monkeypatch)
    assert Scorer(rgb, "rgb", VIEWS["10x3"])(Video(short, 0, "k")).shape == (30, 5)
    Scorer(rgb, "rgb", VIEWS["1x1"])(Video(short, 0, "k"))
    assert torch.equal(seen.clips[-1], frames[torch.arange(64) % 3].permute(3, 0, 1, 2))
    assert len(seen.clips) == 4
    # Two flows, and none after the last frame.
    Scorer(flow, "flow", VIEWS["full"], COMPUTED)(Video(short, 0, "k"))
    pairs = to_flow_clip(stream_flow(whole_frames(short), "readme", FAST))
    items = torch.cat((pairs, torch.zeros_like(pairs[:, :1])), dim=1)
    assert torch.equal(seen.clips[-1], items[:, torch.arange(9) % 3])


def test_flow_computed_and_read(
    folder: Path, flow: I3D, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    video = make_video(folder / "flowing.mp4", 10, 240, 240)
    pairs = stream_flow(whole_frames(video), "readme", FAST, cropped=False)
    items = torch.cat((pairs, torch.zeros_like(pairs[:1])))
    clip = to_flow_clip(items[:, :, 16:240, 16:240])
    found = Scorer(flow, "flow", VIEWS["full"], COMPUTED)(Video(video, 0, "k"))
    torch.testing.assert_close(found, dense_clip(flow, clip[None], features="logits").mean(2), **TOLERANCE)

    seen = Seen(monkeypatch)
    stored = tmp_path / "class a" / "v_1"
    stored.mkdir(parents=True)
    for i, pair in enumerate(pairs, 1):
        names = (stored / f"flow_x_{i:05}.jpg", stored / f"flow_y_{i:05}.jpg")
        write_denseflow(names, pair * 20, bound=20)
    source = FlowSource(tmp_path)
    Scorer(flow, "flow", VIEWS["1x1"], source)(Video(video, 0, "class a/v_1"))
    looped = seen.clips[-1]
    assert torch.equal(looped[:, 9], torch.zeros(2, 224, 224))
    assert torch.equal(looped[:, 10], looped[:, 0])
    error = (looped[:, :9] - clip[:, :9]).abs()
    assert error.mean() < 0.02 * clip[:, :9].abs().max()
    Scorer(flow, "flow", VIEWS["10x3"], source)(Video(video, 0, "class a/v_1"))
    assert seen.clips[-1].shape == (2, 64, 256, 256)
    assert torch.equal(seen.clips[-1][:, :, 16:240, 16:240], looped)

    with pytest.raises(VideoError, match="has no flow in"):
        Scorer(flow, "flow", VIEWS["1x1"], source)(Video(video, 0, "class a/v_2"))
    packed = [pack(pair * 20) for pair in pairs]
    with (tmp_path / "flowing.flow").open("wb") as file:
        settings = {"fps": 25.0, "resize": 256}
        write_cache(file, 256, 256, settings, [len(one) for one in packed], packed)
    Scorer(flow, "flow", VIEWS["1x1"], source)(Video(video, 0, "class a/v_2"))
    torch.testing.assert_close(seen.clips[-1][:, :9], clip[:, :9], rtol=0, atol=0.5 / 127)
    for axis in "xy":
        for number in (8, 9):
            (stored / f"flow_{axis}_{number:05}.jpg").unlink()
    for views in VIEWS.values():
        with pytest.raises(VideoError, match="holds 7 flows"):
            Scorer(flow, "flow", views, source)(Video(video, 0, "class a/v_1"))


def test_a_video_whose_frames_are_damaged_counts_as_far_as_it_goes(
    folder: Path, rgb: I3D, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its packets are as many as ever."""
    path = make_video(folder / "damaged.mp4", 100)
    data = bytearray(path.read_bytes())
    with av.open(str(path)) as container:
        packets = [(packet.pos, packet.size) for packet in container.demux(video=0) if packet.size]
    for position, size in packets[60:]:
        data[position : position + size] = bytes(size)
    path.write_bytes(data)
    frames = torch.stack([frame.image for frame in read_frames(path)])
    assert 50 < len(frames) < survey(path).frames
    seen = Seen(monkeypatch)
    for views in ("1x1", "10x3"):
        Scorer(rgb, "rgb", VIEWS[views])(Video(path, 0, "k"))
    clip = frames[torch.arange(64) % len(frames)]
    assert torch.equal(seen.clips[0], clip.permute(3, 0, 1, 2))
    assert len(seen.clips) == 4


def test_values_that_are_not_finite_are_an_error_of_the_video(short: Path) -> None:
    model = make_i3d(5)
    with torch.no_grad():
        model.logits.conv3d.bias[2] = float("inf")
    with pytest.raises(FloatingPointError, match="not finite"):
        Scorer(model, "rgb", VIEWS["full"])(Video(short, 0, "k"))
