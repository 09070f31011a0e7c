"""TV-L1 on a GPU, frames and flow too: pairs a second by size, batch and design, latency and memory."""

from __future__ import annotations

import functools
import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks import flow_peers, flow_work
from benchmarks.conftest import PairRace, Race, rounds_within
from benchmarks.flow_data import CLIPS, made_frames
from fasti3d.flow import PRESETS, average_endpoint_error, tvl1, tvl1_video

pytestmark = pytest.mark.gpu

SIZES = [(224, 224), (256, 340), (480, 640), (1080, 1920)]
BATCHES = (1, 8, 64, 256)
# Of one batch: more takes long and tells nothing new.
MOST_PIXELS = 2**28
# All levels in one launch, or as many launches as are modelled to be fastest: their ratio is what the latter
# are worth.
DESIGNS = ("groups/1", "groups", "cluster/1", "cluster", "mixed", "auto")
# The CPU's and the GPU's flow of a pair, mean endpoint error in pixels: as close as OpenCV's has to be.
TOLERANCE = 0.03
FRAMES = 65
CPU_PAIRS, ONE_BY_ONE_PAIRS = 8, 3


@functools.cache
def frames(size: tuple[int, int]) -> Tensor:
    """(65, H, W) uint8 on the CPU: a real clip, resized, or made frames."""
    if CLIPS[0].missing:
        return made_frames(FRAMES, *size)
    images = CLIPS[0].frames(FRAMES)[:, None].float()
    resized = F.interpolate(images, size=size, mode="bilinear", antialias=True)
    return resized[:, 0].round().to(torch.uint8)


def clip(size: tuple[int, int], pairs: int) -> Tensor:
    """(pairs + 1, H, W) on the GPU: as many frames as there are, then back again, and so on."""
    there = list(range(FRAMES - 1))
    turning = itertools.cycle([*there, FRAMES - 1, *there[:0:-1]])
    return frames(size).cuda()[list(itertools.islice(turning, pairs + 1))]


@functools.lru_cache(maxsize=1)
def expected(size: tuple[int, int], preset: str) -> Tensor:
    """The flow of the first pair, by the CPU."""
    images = frames(size)
    return tvl1(images[0], images[1], params=PRESETS[preset])


def describe(race: Race | PairRace, size: tuple[int, int], candidate: str) -> None:
    case = f"{size[1]}x{size[0]}"
    race.benchmark.group = f"TV-L1 GPU {case}"
    race.benchmark.extra_info |= {"candidate": candidate, "case": case}


@pytest.mark.parametrize("design", DESIGNS)
@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("preset", ["i3d", "opencv-cuda"])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_tvl1_gpu(
    race: Race,
    size: tuple[int, int],
    preset: str,
    batch: int,
    design: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if batch * size[0] * size[1] > MOST_PIXELS:
        pytest.skip("more pixels at once than the benchmark takes")
    if preset != "i3d" and design not in ("groups", "cluster"):
        pytest.skip("the number of launches is compared for one preset")
    monkeypatch.setenv("FASTI3D_TVL1_CUDA_DESIGN", design)
    images = clip(size, batch)

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
    except RuntimeError as error:
        if "do not fit into a thread-block cluster" in str(error):
            pytest.skip("no cluster of this GPU can hold a pair")
        raise
    peak = torch.cuda.max_memory_allocated() - before
    assert average_endpoint_error(first.cpu(), expected(size, preset)) < TOLERANCE, "a wrong result"
    del first

    describe(race, size, f"fasti3d {preset}, {design}, {batch} at once")
    race.benchmark.extra_info["device_mb"] = peak / 1e6
    done = flow_work.solved(images, PRESETS[preset])
    race(solve, None, rounds=rounds_within(0.5, solve, least=3))
    if race.benchmark.stats is not None:
        seconds = race.benchmark.stats.stats.median
        race.benchmark.extra_info |= {
            "pairs": batch,
            "pairs_per_s": batch / seconds,
            "gpixel_iterations_per_s": done / seconds / 1e9,
        }


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_tvl1_gpu_cpu(race: Race, size: tuple[int, int]) -> None:
    """fasti3d on the CPU beside it, pairs at once."""
    images = frames(size)[: CPU_PAIRS + 1]
    describe(race, size, f"fasti3d i3d, CPU, {CPU_PAIRS} at once")
    race(lambda: tvl1_video(images), None, rounds=3)
    if race.benchmark.stats is not None:
        seconds = race.benchmark.stats.stats.median
        race.benchmark.extra_info |= {
            "pairs": CPU_PAIRS,
            "pairs_per_s": CPU_PAIRS / seconds,
            "gpixel_iterations_per_s": flow_work.solved(images, PRESETS["i3d"]) / seconds / 1e9,
        }


@pytest.mark.parametrize("peer", [flow_peers.OPENCV, "fasti3d"])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_tvl1_gpu_peer(pair_race: PairRace, size: tuple[int, int], peer: str) -> None:
    """CPU solvers, pair by pair; what there is of OpenCV on a GPU has to be built with CUDA from source."""
    if peer == flow_peers.OPENCV:
        flow_peers.skip_without(peer)
    solver = flow_peers.opencv() if peer == flow_peers.OPENCV else flow_peers.fasti3d()
    images = frames(size)[: ONE_BY_ONE_PAIRS + 1]
    on_gpu = {pair[0].data_ptr(): tuple(t.cuda() for t in pair) for pair in itertools.pairwise(images)}

    def ours(frame0: Tensor, _: Tensor) -> Tensor:
        flow = tvl1(*on_gpu[frame0.data_ptr()])
        torch.cuda.synchronize()
        return flow

    ours(*images[:2])
    describe(pair_race, size, f"{peer}, CPU")
    pair_race(solver, list(itertools.pairwise(images)), ours=ours)
