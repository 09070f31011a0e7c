"""I3D on decoded uint8 frames as they are, beside the same frames scaled to [-1, 1] by torch."""

from __future__ import annotations

import functools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from benchmarks import peers
from benchmarks.conftest import Race
from benchmarks.peers import Case, Forward
from fasti3d.inputs import as_floats
from fasti3d.inspect.layers import network_flop

LONG: tuple[int, ...] = (1, 3, 64, 224, 224)
GPU = [Case(shape, torch.float16, "cuda") for shape in (LONG, (8, 3, 64, 224, 224))]
CASES = [Case(LONG, torch.float32), *(pytest.param(case, marks=pytest.mark.gpu) for case in GPU)]


def _frames(case: Case) -> Tensor:
    """uint8 (N, C, T, H, W) in the memory layout of decoded frames, (N, T, H, W, C)."""
    clip = peers.clip(case._replace(dtype=torch.float32))
    return clip.add(1).mul(127.5).round().to(torch.uint8).contiguous(memory_format=torch.channels_last_3d)


def _forward(case: Case, prepare: Callable[[Tensor], Tensor]) -> Forward:
    """The pass over what ``prepare``, which counts, makes of the frames."""
    model = peers.our_network().to(case.device, case.dtype)
    frames = _frames(case)

    def forward() -> Tensor:
        with torch.no_grad():
            logits = model(prepare(frames))
            if frames.is_cuda:
                torch.cuda.synchronize()
            return logits

    return forward


def _bytes(case: Case) -> Forward:
    return _forward(case, lambda frames: frames)


def _scaled(case: Case) -> Forward:
    return _forward(case, lambda frames: as_floats(frames, case.dtype))


def _at_hand(case: Case) -> Forward:
    clip = as_floats(_frames(case), case.dtype)
    return _forward(case, lambda frames: clip)


OURS = "uint8 frames"
CANDIDATES: dict[str, Callable[[Case], Forward]] = {
    OURS: _bytes,
    "frames, scaled first": _scaled,
    "a scaled clip at hand": _at_hand,
}


@functools.lru_cache(maxsize=1)
def ours(case: Case) -> Forward:
    return _bytes(case)


@functools.lru_cache(maxsize=1)
def expected(case: Case) -> Tensor:
    """The float32 reference's logits, on the CPU."""
    with torch.no_grad():
        return peers.random_reference()(as_floats(_frames(case).cpu(), torch.float32))


@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", CANDIDATES)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_frames(race: Race, case: Case, name: str) -> None:
    candidate = ours(case) if name == OURS else CANDIDATES[name](case)
    error = peers.relative_error(candidate(), expected(case))
    assert error < peers.LOGITS_TOLERANCE[case.dtype], "a wrong result has no speed"

    race.benchmark.group = f"frames {case}"
    race.benchmark.extra_info |= {"candidate": name, "case": str(case), "relative_error": error}
    race(candidate, None if name == OURS else ours(case), rounds=5, flop=network_flop(case.shape))
