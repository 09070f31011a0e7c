"""How steps cut clips into pieces that stay in a cache."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from fasti3d.engine import steps
from fasti3d.engine.graph import Conv, Graph, Pool
from fasti3d.engine.plan import Plan
from fasti3d.engine.replay import replay
from fasti3d.engine.steps import ConvPoolStep, piece_frames
from fasti3d.runtime import gpu

CUDA = torch.device("cuda", 0)
MIB = 1 << 20
# Bytes of a frame in half precision behind the stem and behind 2c, and how many a clip of 64 frames has.
STEM, CONV_2C, FRAMES = 2 * 64 * 112 * 112, 2 * 192 * 56 * 56, 32


@pytest.mark.parametrize(
    ("gpu_name", "cache", "stem", "conv_2c"),
    [("H200", 50 * MIB, 16, 32), ("A100", 40 * MIB, 16, 16), ("RTX 4090", 72 * MIB, 32, 32)],
)
def test_pieces_fit_the_cache_of_a_gpu(
    gpu_name: str, cache: int, stem: int, conv_2c: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu, "l2_bytes", lambda device: cache)
    assert piece_frames(FRAMES, STEM, CUDA) == stem
    assert piece_frames(FRAMES, CONV_2C, CUDA) == conv_2c
    for frames in (1, 7, 32, 33, 1000):
        size = piece_frames(frames, STEM, CUDA)
        assert size * STEM <= 0.75 * cache
        # Not one more than that takes, and all but the last alike.
        assert math.ceil(frames / size) == math.ceil(frames / (0.75 * cache // STEM))


def test_pieces_of_a_gpu_with_a_small_cache_save_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "l2_bytes", lambda device: 6 * MIB)
    assert piece_frames(FRAMES, STEM, CUDA) == 32
    assert piece_frames(10 * FRAMES, STEM, CUDA) * STEM <= 64 * MIB


def test_pieces_on_a_cpu_are_whole_time_tiles() -> None:
    for frames, tile in itertools.product((1, 4, 5, 32, 33), (1, 3, 4)):
        size = piece_frames(frames, 1 * MIB, torch.device("cpu"), tile)
        assert size == frames or size % tile == 0
        assert size <= 8


@pytest.mark.parametrize("clips_per_piece", [0.3, 1, 2, 3])
def test_a_convolution_and_its_pool_in_pieces_of_clips_and_frames(
    clips_per_piece: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = torch.Generator().manual_seed(0)
    weight, bias = torch.randn(8, 16, 3, 3, 3, generator=generator) / 20, torch.randn(8, generator=generator)
    conv = Conv(1, 0, weight, bias, (1, 1, 1), None, relu=True)
    graph = Graph((conv, Pool(2, 1, (1, 3, 3), (1, 2, 2), None)), {"pooled": 2})
    x = torch.randn(3, 16, 13, 6, 7, generator=generator)
    monkeypatch.setattr(steps, "_PIECE_BYTES", int(clips_per_piece * 4 * 8 * 13 * 6 * 7))
    plan = Plan(graph, torch.float32, x.device)
    with torch.no_grad():
        y = plan.compute(x, {"pooled"}, torch.float32)["pooled"]
    (step,) = plan.layout(x.shape, {"pooled"}).steps
    assert isinstance(step.step, ConvPoolStep)
    torch.testing.assert_close(y, replay(graph, x)["pooled"], rtol=1e-5, atol=1e-5)
