"""Frames to two-stream logits on a GPU: against the CPU, in batches, and without a wait of the host."""

from __future__ import annotations

import pytest
import torch
from i3d_making import make_i3d
from requiring import require
from tolerances import TVL1_OPENCV, assert_close
from torch import Tensor

from benchmarks.two_stream_work import made_clips
from fasti3d import TwoStreamI3D
from fasti3d.flow.params import PRESETS
from fasti3d.flow.stream import center, flow_clips, solver_frames
from fasti3d.ops.tvl1 import has_kernel
from fasti3d.runtime import gpu

pytestmark = pytest.mark.gpu

PARAMS = PRESETS["i3d"]


@pytest.fixture(autouse=True)
def _kernels() -> None:
    cuda = torch.device("cuda")
    require(gpu.why_not(cuda, torch.float16))
    require(None if has_kernel(cuda) else "fasti3d._C_cuda is not built")


@pytest.fixture(scope="module")
def frames() -> Tensor:
    """Two clips, on the CPU."""
    return made_clips(2, 12, 240, 270)


@pytest.fixture(scope="module")
def two() -> TwoStreamI3D:
    """A network that no test changes, on the CPU."""
    return TwoStreamI3D(make_i3d(), make_i3d(in_channels=2, seed=1)).eval()


def on_gpu(dtype: torch.dtype) -> TwoStreamI3D:
    return TwoStreamI3D(make_i3d(), make_i3d(in_channels=2, seed=1)).eval().to("cuda", dtype)


def logits_of(two: TwoStreamI3D, frames: Tensor, flow_clip: Tensor) -> Tensor:
    """By the CPU, with the flow that is given."""
    rows, columns = center(*frames.shape[2:4])
    with torch.no_grad():
        return two(frames[:, :, rows, columns].permute(0, 4, 1, 2, 3), flow_clip.cpu())


# ---------------------------------------------------------------- flow


def test_exact_arithmetic_gives_the_cpu_s_flow_bit_for_bit(
    frames: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = flow_clips(frames, "readme", PARAMS)
    monkeypatch.setattr(torch.ops.fasti3d, "tvl1", torch.ops.fasti3d.tvl1_exact)
    assert torch.equal(flow_clips(frames.cuda(), "readme", PARAMS).cpu(), expected)


@pytest.mark.parametrize("preset", ["readme", "mediapipe"])
def test_fast_arithmetic_gives_flow_as_close_as_opencv_s(frames: Tensor, preset: str) -> None:
    clips = [flow_clips(x, preset, PARAMS).cpu() for x in (frames.cuda(), frames)]
    pixels = 20 * (clips[0] - clips[1]).square().sum(dim=1).sqrt()
    assert pixels.median() <= TVL1_OPENCV.median
    assert pixels.mean() <= TVL1_OPENCV.mean
    # In the preset mediapipe bytes of flow are .16 pixels apart.
    assert (pixels < (0.1 if preset == "readme" else 0.3)).float().mean() >= TVL1_OPENCV.within_a_tenth


def test_squashed_frames_differ_by_a_grey_level_where_a_half_is_rounded_the_other_way(frames: Tensor) -> None:
    apart = solver_frames(frames.cuda(), "mediapipe").cpu().int() - solver_frames(frames, "mediapipe").int()
    assert apart.abs().amax() <= 1
    assert apart.count_nonzero() < 1e-3 * apart.numel()


def test_a_clip_s_flow_does_not_depend_on_the_clips_beside_it(
    frames: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    clips = frames.cuda()
    together = flow_clips(clips, "readme", PARAMS)
    for clip, found in zip(clips, together, strict=True):
        assert torch.equal(flow_clips(clip[None], "readme", PARAMS)[0], found)
    monkeypatch.setattr("fasti3d.flow.stream._PAIRS_AT_ONCE", 1)
    assert torch.equal(flow_clips(clips, "readme", PARAMS), together)


# ---------------------------------------------------------------- logits


@pytest.mark.parametrize(("dtype", "operation"), [(torch.float32, "i3d"), (torch.float16, "i3d_half")])
def test_logits_are_those_of_the_same_flow_on_the_cpu(
    two: TwoStreamI3D, frames: Tensor, dtype: torch.dtype, operation: str
) -> None:
    """In the first run, in the one that is captured, and from the CUDA graph."""
    clips, network = frames.cuda(), on_gpu(dtype)
    expected = logits_of(two, frames, flow_clips(clips, "readme", PARAMS))
    with torch.no_grad(), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        for _ in range(3):
            found = network.forward_frames(clips)
            assert (found.device.type, found.dtype) == ("cuda", dtype)
            assert_close(operation, found.cpu(), expected)


@pytest.mark.parametrize("preset", ["readme", "mediapipe"])
def test_logits_are_the_cpu_s_from_frames_on(two: TwoStreamI3D, frames: Tensor, preset: str) -> None:
    with torch.no_grad(), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        expected = two.forward_frames(frames, preset=preset)
        found = on_gpu(torch.float32).forward_frames(frames.cuda(), preset=preset)
    assert_close("two_stream", found.cpu(), expected)


def test_a_batch_gives_what_its_clips_give(frames: Tensor) -> None:
    clips, network = frames.cuda(), on_gpu(torch.float16)
    with torch.no_grad():
        together = network.forward_frames(clips)
        alone = torch.cat([network.forward_frames(clip[None]) for clip in clips])
    assert_close("i3d_half", together, alone.float())
    assert not torch.equal(alone[0], alone[1])


@pytest.mark.parametrize("preset", ["readme", "mediapipe"])
def test_nothing_waits_for_the_gpu(frames: Tensor, preset: str) -> None:
    clips, network = frames.cuda(), on_gpu(torch.float16)
    with torch.no_grad():
        for _ in range(3):  # compiles, captures, and takes the memory that is needed
            expected = network.forward_frames(clips, preset=preset)
        torch.cuda.synchronize()
        torch.cuda._sleep(1_000_000_000)  # half a second
        found = network.forward_frames(clips, preset=preset)
        assert not torch.cuda.current_stream().query(), "the call waited for the GPU"
    assert torch.equal(found, expected)
