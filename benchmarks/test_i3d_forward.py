"""I3D forward passes: fasti3d and its peers on the same clips with the same weights."""

from __future__ import annotations

import functools
import importlib.util
import time
from collections.abc import Iterator

import pytest
import torch

from benchmarks import memory, peers
from benchmarks.conftest import Race, rounds_within
from benchmarks.peers import Case
from fasti3d.inspect.layers import network_flop
from fasti3d.runtime import route as routing

LONG: tuple[int, ...] = (1, 3, 64, 224, 224)
SHORT: tuple[int, ...] = (1, 3, 16, 224, 224)
BATCH: tuple[int, ...] = (4, 3, 16, 224, 224)
CPU = [Case(shape, dtype) for shape in (LONG, SHORT, BATCH) for dtype in (torch.float32, torch.bfloat16)]
GPU = [
    Case((clips, 3, frames, 224, 224), dtype, "cuda")
    for dtype in (torch.float16, torch.bfloat16)
    for frames in (64, 16)
    for clips in (1, 8, 32)
]
# Who runs where on a GPU is chosen by time, of which ten minutes are to hold all. Estimates: a candidate
# takes 8 s there to build, to let cuDNN try its algorithms and to be checked, one of torch.compile a minute,
# one that autotunes two. 12 * 2 * 8 + 2 * 3 * 8 s are 4 minutes, and 2 * 60 + 2 * 120 s the 6 that
# torch.compile gets as a part of its own in gpu_check.sh, as far as there is time.
EVERYWHERE = (peers.OURS, peers.TUNED)
WITH_PEERS = [
    case for case in GPU if case.dtype == torch.float16 and case.shape[0] < 32 and case.shape[2] == 64
]
COMPILED_AT = Case((8, 3, 64, 224, 224), torch.float16, "cuda")


def runs(case: Case, name: str) -> bool:
    """Whether a candidate has a row in a case."""
    if case.device == "cpu":
        # The graph for ONNX Runtime is of float32, as its kernels are.
        in_float = name != "ONNX Runtime" or case.dtype == torch.float32
        return in_float and name not in peers.GPU_CANDIDATES
    if name in peers.PACKAGES:
        return False
    if peers.COMPILED in name:
        return case == COMPILED_AT
    return name in EVERYWHERE or case in WITH_PEERS


ROWS = [
    pytest.param(case, name, marks=[pytest.mark.gpu] if case.device == "cuda" else [], id=f"{case}-{name}")
    for case in (*CPU, *GPU)
    for name in peers.CANDIDATES
    if runs(case, name)
]


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
@pytest.mark.parametrize(("case", "name"), ROWS)
def test_i3d_forward(race: Race, case: Case, name: str) -> None:
    package = peers.PACKAGES.get(name)
    if package is not None and importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed: pip install fasti3d[bench]")
    on_gpu = case.device == "cuda"
    start = time.perf_counter()
    build = functools.partial(ours if name == peers.OURS else peers.CANDIDATES[name], case)
    device_mb = 0.0
    try:
        if on_gpu:
            if name == peers.OURS:
                ours.cache_clear()  # or what it holds would count as there before
            candidate, device_mb = memory.device_mb(build, case)
        else:
            candidate = build()
        logits = candidate()
    except peers.UnavailableError as error:
        pytest.skip(str(error))
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
        route = routing.route(torch.device(case.device), case.dtype)
        race.benchmark.extra_info |= {"path": route.path, "why": route.why}
    if on_gpu:
        race.benchmark.extra_info["device_mb"] = device_mb
    elif case.shape == LONG:
        race.benchmark.extra_info |= memory.peaks(name, case)
    rounds = rounds_within(0.5, candidate, least=10) if on_gpu else 5 if case.shape in (LONG, SHORT) else 3
    race(
        candidate,
        None if name == peers.OURS else ours(case),
        rounds=rounds,
        flop=network_flop(case.shape),
    )
