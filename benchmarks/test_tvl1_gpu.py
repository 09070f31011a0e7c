"""TV-L1 on a GPU: frames and flow stay there; pairs a second by size and batch, latency and memory."""

from __future__ import annotations

import functools
import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks import flow_peers
from benchmarks.conftest import PairRace, Race, rounds_within
from benchmarks.flow_data import CLIPS, made_frames
from fasti3d.flow import PRESETS, average_endpoint_error, tvl1, tvl1_video

pytestmark = pytest.mark.gpu

SIZES = [(224, 224), (256, 340), (480, 640), (1080, 1920)]
BATCHES = (1, 8, 64)
# The CPU's and the GPU's flow of a pair, mean endpoint error in pixels: as close as OpenCV's has to be.
TOLERANCE = 0.03
OPENCV_PAIRS = 3


@functools.lru_cache(maxsize=1)
def frames(size: tuple[int, int]) -> Tensor:
    """(65, H, W) uint8 on the CPU: a real clip, resized, or made frames."""
    count = max(BATCHES) + 1
    if CLIPS[0].missing:
        return made_frames(count, *size)
    images = CLIPS[0].frames(count)[:, None].float()
    resized = F.interpolate(images, size=size, mode="bilinear", antialias=True)
    return resized[:, 0].round().to(torch.uint8)


@functools.lru_cache(maxsize=1)
def expected(size: tuple[int, int], preset: str) -> Tensor:
    """The flow of the first pair, by the CPU."""
    images = frames(size)
    return tvl1(images[0], images[1], params=PRESETS[preset])


def describe(race: Race | PairRace, size: tuple[int, int], candidate: str) -> None:
    case = f"{size[1]}x{size[0]}"
    race.benchmark.group = f"TV-L1 GPU {case}"
    race.benchmark.extra_info |= {"candidate": candidate, "case": case}


@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("preset", ["i3d", "opencv-cuda"])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_tvl1_gpu(race: Race, size: tuple[int, int], preset: str, batch: int) -> None:
    images = frames(size)[: batch + 1].cuda()

    def solve() -> Tensor:
        flow = tvl1_video(images, params=PRESETS[preset])
        torch.cuda.synchronize()
        return flow

    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    try:
        first = solve()[0]
    except torch.OutOfMemoryError:
        pytest.skip("more than this GPU's memory")
    peak = torch.cuda.max_memory_allocated() - before
    assert average_endpoint_error(first.cpu(), expected(size, preset)) < TOLERANCE, "a wrong result"

    describe(race, size, f"fasti3d {preset}, {batch} at once")
    race.benchmark.extra_info["device_mb"] = peak / 1e6
    race(solve, None, rounds=rounds_within(1, solve))
    if race.benchmark.stats is not None:
        race.benchmark.extra_info |= {
            "pairs": batch,
            "pairs_per_s": batch / race.benchmark.stats.stats.median,
        }


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_tvl1_gpu_peer(pair_race: PairRace, size: tuple[int, int]) -> None:
    """OpenCV's CPU solver; what there is of OpenCV on a GPU has to be built with CUDA from source."""
    flow_peers.skip_without(flow_peers.OPENCV)
    images = frames(size)[: OPENCV_PAIRS + 1]
    on_gpu = {pair[0].data_ptr(): tuple(t.cuda() for t in pair) for pair in itertools.pairwise(images)}

    def ours(frame0: Tensor, _: Tensor) -> Tensor:
        flow = tvl1(*on_gpu[frame0.data_ptr()])
        torch.cuda.synchronize()
        return flow

    ours(*images[:2])
    describe(pair_race, size, f"{flow_peers.OPENCV}, CPU")
    pair_race(flow_peers.opencv(), list(itertools.pairwise(images)), ours=ours)
