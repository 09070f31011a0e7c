"""I3D forward passes: fasti3d and its peers on the same clips with the same weights."""

from __future__ import annotations

import functools
import importlib.util
import time
from collections.abc import Iterator

import pytest
import torch

from benchmarks import memory, peers
from benchmarks.conftest import Race
from benchmarks.peers import Case
from fasti3d import plan
from fasti3d.layers import network_flop

LONG: tuple[int, ...] = (1, 3, 64, 224, 224)
BATCH: tuple[int, ...] = (4, 3, 16, 224, 224)
CPU = [Case(shape, dtype) for shape in (LONG, BATCH) for dtype in (torch.float32, torch.bfloat16)]
GPU = [
    Case(shape, dtype, "cuda")
    for shape in (LONG, (8, 3, 64, 224, 224))
    for dtype in (torch.float16, torch.bfloat16)
]
CASES = [*CPU, *(pytest.param(case, marks=pytest.mark.gpu) for case in GPU)]


@functools.lru_cache(maxsize=1)
def ours(case: Case) -> peers.Forward:
    return peers.CANDIDATES[peers.OURS](case)


@pytest.fixture(autouse=True)
def _forget_graphs() -> Iterator[None]:
    yield
    torch.compiler.reset()


# torch.jit.trace, which OpenVINO's converter needs, is deprecated, and warns that sizes become constants.
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning")
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", peers.CANDIDATES)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_i3d_forward(race: Race, case: Case, name: str) -> None:
    if name == "OpenVINO":
        if case.device == "cuda":
            pytest.skip("OpenVINO runs on the CPU")
        if importlib.util.find_spec("openvino") is None:
            pytest.skip("openvino is not installed: pip install fasti3d[bench]")
    start = time.perf_counter()
    candidate = ours(case) if name == peers.OURS else peers.CANDIDATES[name](case)
    logits = candidate()
    ready = time.perf_counter() - start
    error = peers.relative_error(logits, peers.expected_logits(case))
    assert error < peers.LOGITS_TOLERANCE[case.dtype], "a wrong result has no speed"

    race.benchmark.group = f"I3D forward {case}"
    race.benchmark.extra_info |= {
        "candidate": name,
        "case": str(case),
        "relative_error": error,
        "first_result_seconds": ready,
    }
    if name == peers.OURS:
        route = plan.route(torch.device(case.device), case.dtype)
        race.benchmark.extra_info |= {"path": route.path, "why": route.why}
    if case.shape == LONG:
        race.benchmark.extra_info |= memory.peaks(name, case)
    race(
        candidate,
        None if name == peers.OURS else ours(case),
        rounds=5 if case.shape == LONG else 3,
        flop=network_flop(case.shape),
    )
