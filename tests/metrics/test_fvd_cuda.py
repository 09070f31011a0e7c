"""FVD with the network on a GPU: the CPU's features, statistics and score, wherever the clips are."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from clip_making import noise
from i3d_making import make_i3d
from torch import Tensor

from fasti3d import FrechetVideoDistance
from fasti3d.metrics.embedding import Embedding
from fasti3d.metrics.presets import PRESETS, prepare
from fasti3d.metrics.reduction import reduced

pytestmark = [pytest.mark.gpu, pytest.mark.filterwarnings("ignore:FVD of:UserWarning")]

# Of features, as shares of the largest: float32 through 21 convolutions, as in tests/tolerances.py; every map
# rounded to float16.
LIMITS = {"float32": 2e-5, "float16": 5e-3}
# Of statistics in float32, whose features err by 1e-6 where they are some percent apart.
SMALL_DIFFERENCES = 1e-3
SIDES = {True: noise(6, size=(40, 30), seed=1), False: noise(6, size=(40, 30), seed=2)}


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network whose logits depend on the clip."""
    path = tmp_path_factory.mktemp("weights") / "made.pt"
    torch.save(make_i3d(5).state_dict(), path)
    return path


def filled(
    weights: Path, device: str = "cuda", *, clips_on: str = "cpu", **options: object
) -> FrechetVideoDistance:
    metric = FrechetVideoDistance(weights=weights, device=device, **options)  # type: ignore[arg-type]
    for real, clips in SIDES.items():
        metric.update(clips.to(clips_on), real=real)
    return metric


def assert_close(found: Tensor, expected: Tensor, limit: float) -> None:
    assert found.device.type == "cpu"
    assert found.dtype == torch.float64
    assert (found - expected).abs().max() < limit * expected.abs().max()


@pytest.mark.parametrize("dtype", LIMITS)
@pytest.mark.parametrize("clips_on", ["cpu", "cuda"])
def test_features(weights: Path, clips_on: str, dtype: str) -> None:
    clips = SIDES[True].permute(0, 1, 4, 2, 3)
    expected = Embedding(PRESETS["tf"], weights, device="cpu")(clips, 0, 255)
    assert (expected[0] - expected[1]).abs().max() > 10 * LIMITS[dtype] * expected.abs().max()
    embedding = Embedding(PRESETS["tf"], weights, device="cuda", dtype=dtype)
    for _ in range(3):  # the last one from a CUDA graph
        assert_close(embedding(clips.to(clips_on), 0, 255), expected, LIMITS[dtype])


@pytest.mark.parametrize("batch", [1, 4])
def test_parts_of_a_batch(weights: Path, batch: int) -> None:
    """One part is copied while another is in the network."""
    clips = SIDES[True].permute(0, 1, 4, 2, 3)
    expected = Embedding(PRESETS["tf"], weights, device="cuda")(clips, 0, 255)
    found = Embedding(PRESETS["tf"], weights, device="cuda", batch=batch)(clips, 0, 255)
    assert_close(found, expected, LIMITS["float32"])


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("kind", [torch.uint8, torch.float32])
def test_frames_are_prepared_as_on_the_cpu(preset: str, kind: torch.dtype) -> None:
    clips = SIDES[True].permute(0, 1, 4, 2, 3)
    if kind == torch.float32:
        clips = clips / 255
    limits = 0.0, 255.0 if kind == torch.uint8 else 1.0
    found, expected = (prepare(x, *limits, PRESETS[preset]) for x in (clips.cuda(), clips))
    # Positions of up to 40 pixels round by 4e-6, between pixels that are up to 2 apart; a grey level is 8e-3.
    torch.testing.assert_close(found.cpu(), expected, rtol=0, atol=5e-5)


def test_tensorflow_s_interpolation_does_not_wait_for_the_gpu() -> None:
    clips = SIDES[True].permute(0, 1, 4, 2, 3).cuda()
    prepare(clips, 0.0, 255.0, PRESETS["tf"])
    torch.cuda.synchronize()
    torch.cuda._sleep(500_000_000)
    prepare(clips, 0.0, 255.0, PRESETS["tf"])
    assert not torch.cuda.current_stream().query(), "the call waited for the GPU"


@pytest.mark.parametrize("clips_on", ["cpu", "cuda"])
def test_statistics_and_score(weights: Path, clips_on: str) -> None:
    found, expected = filled(weights, clips_on=clips_on), filled(weights, "cpu")
    for side in ("real", "generated"):
        state, wanted = (metric.state_dict()[side] for metric in (found, expected))
        assert state["count"] == wanted["count"] == 6
        assert_close(state["mean"], wanted["mean"], LIMITS["float32"])
        assert_close(state["scatter"], wanted["scatter"], SMALL_DIFFERENCES)
    assert found.compute().item() == pytest.approx(expected.compute().item(), rel=SMALL_DIFFERENCES)
    assert found.receipt()["device"] == "cuda"


def test_metrics_merge(weights: Path) -> None:
    whole = filled(weights, clips_on="cuda", batch=3)
    parts = []
    for half in (slice(0, 3), slice(3, 6)):
        part = FrechetVideoDistance(weights=weights, device="cuda", batch=3)
        for real, clips in SIDES.items():
            part.update(clips[half].cuda(), real=real)
        parts.append(part)
    parts[0].merge(parts[1])
    assert parts[0].compute().item() == pytest.approx(whole.compute().item(), rel=1e-6)
    on_cpu = filled(weights, "cpu")
    on_cpu.merge(parts[0])
    assert on_cpu.state_dict()["real"]["count"] == 12


@pytest.mark.skipif(not (dist.is_available() and dist.is_nccl_available()), reason="this torch has no NCCL")
def test_statistics_are_summed_on_the_gpu(weights: Path, tmp_path: Path) -> None:
    """A group of one process, which gives back what it was given."""
    metric = filled(weights, keep_features=True)
    side = metric._sides[True]
    dist.init_process_group("nccl", init_method=f"file://{tmp_path / 'meeting'}", rank=0, world_size=1)
    try:
        found = reduced(side, (9, "uint8"))
    finally:
        dist.destroy_process_group()
    assert found.count == side.count
    torch.testing.assert_close(found.statistics.mean, side.statistics.mean, rtol=1e-12, atol=0)
    torch.testing.assert_close(found.statistics.scatter, side.statistics.scatter, rtol=1e-12, atol=1e-12)
    assert found.features is not None
    assert torch.equal(found.features, side.features)


def test_settings_of_cudnn_are_left_as_they_were(weights: Path) -> None:
    cudnn = torch.backends.cudnn
    before = cudnn.benchmark, cudnn.deterministic, cudnn.allow_tf32
    filled(weights)
    assert (cudnn.benchmark, cudnn.deterministic, cudnn.allow_tf32) == before
