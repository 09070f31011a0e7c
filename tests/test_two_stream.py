"""The two-stream network: a sum of logits, from clips or from frames alone; what belongs together when."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from i3d_making import make_i3d, random_clip
from torch import Tensor

from fasti3d import I3D, network
from fasti3d.flow import stream
from fasti3d.flow.encoding import to_flow_clip, to_grey
from fasti3d.flow.params import TVL1Params
from fasti3d.flow.stream import stream_flow
from fasti3d.flow.window_flow import SolvedFlow, with_flow
from fasti3d.inputs import as_floats
from fasti3d.two_stream import TwoStreamI3D
from fasti3d.video import Window, to_clip

QUICK = TVL1Params(nscales=1, warps=1, inner_iterations=3, outer_iterations=1)


pytestmark = pytest.mark.usefixtures("narrow")


@pytest.fixture(scope="module")
def two(narrow: None) -> TwoStreamI3D:
    """A network that no test changes."""
    return TwoStreamI3D(make_i3d(), make_i3d(in_channels=2, seed=1)).eval()


def random_frames(*shape: int) -> Tensor:
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


class Recording(I3D):
    """Keeps the clips it gets, and gives each clip's mean as both logits."""

    def __init__(self, in_channels: int) -> None:
        super().__init__(2, in_channels)
        self.clips: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        self.clips.append(x)
        return x.float().mean(dim=(1, 2, 3, 4))[:, None].expand(-1, 2)


def clips(two: TwoStreamI3D) -> tuple[list[Tensor], list[Tensor]]:
    """What the streams of a recording network got."""
    assert isinstance(two.rgb, Recording)
    assert isinstance(two.flow, Recording)
    return two.rgb.clips, two.flow.clips


class Shallow(I3D):
    """Its first layer's mean as every logit."""

    def forward(self, x: Tensor) -> Tensor:
        (stem,) = self.forward_endpoints(x, ("Conv3d_1a_7x7",)).values()
        return stem.mean(dim=(1, 2, 3, 4))[:, None].expand(-1, self.num_classes)


# ---------------------------------------------------------------- clips


def test_the_logits_are_the_sum_of_the_streams(two: TwoStreamI3D) -> None:
    rgb, flow = random_clip(2, 3, 10, 193, 193), random_clip(2, 2, 9, 193, 193)
    with torch.no_grad():
        found = two(rgb, flow)
        assert torch.equal(found, two.rgb(rgb) + two.flow(flow))
    assert found.shape == (2, 7)


def test_64_frames_and_their_63_flows_are_8_time_steps_each(two: TwoStreamI3D) -> None:
    with torch.no_grad():
        rgb = two.rgb.forward_features(random_clip(1, 3, 64, 32, 32))
        flow = two.flow.forward_features(random_clip(1, 2, 63, 32, 32))
    assert rgb.shape == flow.shape == (1, network.FEATURE_CHANNELS, 8, 1, 1)


def test_both_streams_learn_and_are_saved_under_their_names() -> None:
    two = TwoStreamI3D(Shallow(2), Shallow(2, 2)).train()
    two(random_clip(1, 3, 10, 16, 16), random_clip(1, 2, 9, 16, 16)).sum().backward()
    for stem in (two.rgb.Conv3d_1a_7x7, two.flow.Conv3d_1a_7x7):
        assert stem.conv3d.weight.grad.any()
    assert set(two.state_dict()) == {
        f"{name}.{key}" for name in ("rgb", "flow") for key in I3D(2).state_dict()
    }
    other = TwoStreamI3D(I3D(2), I3D(2, 2))
    other.load_state_dict(two.state_dict())
    assert torch.equal(other.flow.logits.conv3d.weight, two.flow.logits.conv3d.weight)


def test_different_numbers_of_clips_are_refused() -> None:
    two = TwoStreamI3D(Recording(3), Recording(2))
    with pytest.raises(ValueError, match="the same number of clips, got 2 and 1"):
        two(random_clip(2, 3, 10, 8, 8), random_clip(1, 2, 9, 8, 8))


def test_a_clip_for_the_other_stream_is_refused(two: TwoStreamI3D) -> None:
    clip = random_clip(1, 2, 9, 193, 193)
    with pytest.raises(ValueError, match="x must have 3 channels"):
        two(clip, clip)


# ---------------------------------------------------------------- the two networks


@pytest.mark.parametrize(
    ("rgb", "flow", "said"),
    [
        (2, 2, "rgb must be a network of 3 channels for the rgb stream, got one of 2"),
        (3, 3, "flow must be a network of 2 channels for the flow stream, got one of 3"),
    ],
)
def test_a_network_of_other_channels_is_refused(rgb: int, flow: int, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        TwoStreamI3D(I3D(2, rgb), I3D(2, flow))


def test_something_else_than_a_network_is_refused() -> None:
    with pytest.raises(TypeError, match=r"flow must be a fasti3d\.I3D, got Linear"):
        TwoStreamI3D(I3D(2), torch.nn.Linear(2, 2))  # type: ignore[arg-type]


def test_different_classes_are_refused_whenever_they_appear() -> None:
    with pytest.raises(ValueError, match="rgb has 2 and flow 3"):
        TwoStreamI3D(I3D(2), I3D(3, 2))
    two = TwoStreamI3D(I3D(2), I3D(2, 2))
    two.flow.replace_logits(1)
    with pytest.raises(ValueError, match="rgb has 2 and flow 1"):
        two(random_clip(1, 3, 10, 193, 193), random_clip(1, 2, 9, 193, 193))


def test_labels_come_from_either_stream_and_must_agree() -> None:
    rgb, flow = I3D(2), I3D(2, 2)
    assert TwoStreamI3D(rgb, flow).labels is None
    flow.labels = ("run", "swim")
    assert TwoStreamI3D(rgb, flow).labels == ("run", "swim")
    rgb.labels = ("run", "swim")
    assert TwoStreamI3D(rgb, flow).labels == ("run", "swim")
    rgb.labels = ("run", "fly")
    with pytest.raises(ValueError, match="class 1 of rgb is 'fly' and that of flow 'swim'"):
        TwoStreamI3D(rgb, flow)


# ---------------------------------------------------------------- frames alone


@pytest.mark.parametrize("preset", ["readme", "mediapipe"])
def test_frames_give_the_logits_of_their_clips(preset: stream.FlowPreset) -> None:
    frames = random_frames(2, 10, 226, 231, 3)
    two = TwoStreamI3D(Recording(3), Recording(2))
    logits = two.forward_frames(frames, preset=preset, params=QUICK)
    (rgb,), (flow,) = clips(two)
    assert torch.equal(rgb, as_floats(frames[:, :, 1:225, 3:227].permute(0, 4, 1, 2, 3), torch.float32))
    flows = [to_flow_clip(stream_flow(clip, preset, QUICK)) for clip in frames]
    assert torch.equal(flow, torch.stack(flows))
    assert (rgb.shape, flow.shape) == ((2, 3, 10, 224, 224), (2, 2, 9, 224, 224))
    assert torch.equal(logits, two(rgb, flow))


def test_the_shortest_frames_give_finite_logits(two: TwoStreamI3D) -> None:
    with torch.no_grad():
        logits = two.forward_frames(random_frames(1, 10, 224, 224, 3), params=QUICK)
    assert logits.shape == (1, 7)
    assert logits.isfinite().all()


def test_n_frames_give_n_minus_1_flows_and_flow_i_belongs_to_frame_i() -> None:
    """A picture that stands still but for one step, between frames 5 and 6."""
    before = torch.nn.functional.avg_pool2d(torch.rand(1, 3, 240, 240), 9, 1, 4)[0].permute(1, 2, 0)
    before = ((before - before.min()) / (before.max() - before.min()) * 255).to(torch.uint8)
    frames = torch.stack([before] * 6 + [before.roll(2, 1)] * 6)
    two = TwoStreamI3D(Recording(3), Recording(2))
    logits = two.forward_frames(frames[None])
    (rgb,), (flow,) = clips(two)
    assert (rgb.shape, flow.shape) == ((1, 3, 12, 224, 224), (1, 2, 11, 224, 224))
    assert flow.amax(dim=(0, 1, 3, 4)).ne(0).nonzero().flatten().tolist() == [5]
    assert flow[0, 0, 5].median().item() == pytest.approx(2 / 20, abs=0.02)  # 2 pixels to the right
    assert flow[0, 1, 5].median().item() == pytest.approx(0, abs=0.01)
    assert torch.equal(rgb[0, :, 5], rgb[0, :, 0])
    assert not torch.equal(rgb[0, :, 6], rgb[0, :, 5])
    assert torch.equal(logits, two.rgb(rgb) + two.flow(flow))


def test_frames_go_to_the_networks_in_their_dtype() -> None:
    two = TwoStreamI3D(Recording(3).bfloat16(), Recording(2).half())
    two.forward_frames(random_frames(1, 10, 224, 224, 3), params=QUICK)
    (rgb,), (flow,) = clips(two)
    assert (rgb.dtype, flow.dtype) == (torch.bfloat16, torch.float16)


def test_a_video_s_window_gives_the_clips_of_its_frames() -> None:
    frames = random_frames(10, 224, 300, 3)
    two = TwoStreamI3D(Recording(3), Recording(2))
    two.forward_frames(frames[None], params=QUICK)
    (rgb,), (flow,) = clips(two)
    times = tuple(i / 25 for i in range(10))
    (window,) = with_flow(
        iter([Window(0, 0, frames, times)]), SolvedFlow("readme", QUICK, torch.device("cpu"))
    )
    assert torch.equal(to_clip(window.frames), rgb[0])
    assert torch.equal(to_flow_clip(window.flow), flow[0])


def test_the_parameters_reach_the_solver(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[TVL1Params, tuple[int, ...]]] = []

    def solve(first: Tensor, second: Tensor, *, params: TVL1Params) -> Tensor:
        grey = to_grey(frames[0])
        assert torch.equal(first, grey[:-1])
        assert torch.equal(second, grey[1:])
        seen.append((params, tuple(first.shape)))
        return torch.zeros(len(first), 2, *first.shape[1:])

    monkeypatch.setattr(stream, "tvl1", solve)
    frames = random_frames(1, 10, 224, 224, 3)
    two = TwoStreamI3D(Recording(3), Recording(2))
    two.forward_frames(frames)
    two.forward_frames(frames, params=QUICK)
    assert seen == [(TVL1Params(), (9, 224, 224)), (QUICK, (9, 224, 224))]


@pytest.mark.parametrize(
    ("frames", "options", "said"),
    [
        (random_frames(1, 9, 224, 224, 3), {}, "at least 10 per clip, which give the 9 flows .* got 9"),
        (random_frames(1, 10, 223, 300, 3), {}, "at least 224x224 pixels, got 223x300"),
        (random_frames(10, 224, 224, 3), {}, r"\(N, T, H, W, 3\), got torch.uint8 of shape \(10, 224"),
        (random_frames(1, 10, 3, 224, 224), {}, r"got torch.uint8 of shape \(1, 10, 3"),
        (random_frames(1, 10, 224, 224, 3).float(), {}, "uint8 .* got torch.float32"),
        (random_frames(0, 10, 224, 224, 3), {}, r"shape \(0, 10"),
        (random_frames(1, 10, 224, 224, 3), {"preset": "raw"}, "readme, mediapipe, got 'raw'"),
    ],
)
def test_frames_out_of_order_are_refused(frames: Tensor, options: dict[str, Any], said: str) -> None:
    two = TwoStreamI3D(Recording(3), Recording(2))
    with pytest.raises(ValueError, match=said):
        two.forward_frames(frames, **options)
