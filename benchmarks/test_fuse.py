"""fasti3d.fuse on other networks: as one plan, call by call, and beside what else runs them."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import fasti3d
from benchmarks import peers
from benchmarks.conftest import Race
from benchmarks.fuse_networks import NETWORKS, network
from benchmarks.memory import cpu_peak
from fasti3d.fusion.planned import Planned

Forward = Callable[[], Tensor]


class Case(NamedTuple):
    """One network on one clip."""

    network: str
    dtype: torch.dtype
    device: str = "cpu"

    @property
    def shape(self) -> tuple[int, ...]:
        return NETWORKS[self.network].shape

    def __str__(self) -> str:
        dtype = str(self.dtype).removeprefix("torch.")
        return f"{self.network} {'x'.join(map(str, self.shape))} {dtype} {self.device}"


OWN = ("R3D-18", "R(2+1)D-18")
CASES = [
    *(Case(name, torch.float32) for name in NETWORKS),
    *(Case(name, torch.bfloat16) for name in OWN),
    *(pytest.param(Case(name, torch.float16, "cuda"), marks=pytest.mark.gpu) for name in OWN),
]


def _network(case: Case) -> nn.Module:
    return network(case.network).to(case.device, case.dtype)


def _clip(case: Case) -> Tensor:
    return peers.clip(peers.Case(case.shape, case.dtype, case.device))


def _forward(run: Callable[[Tensor], Tensor], x: Tensor) -> Forward:
    def forward() -> Tensor:
        with torch.no_grad():
            logits = run(x)
            if x.is_cuda:
                torch.cuda.synchronize()
            return logits

    return forward


def _fasti3d(case: Case) -> Forward:
    return _forward(fasti3d.fuse(_network(case)), _clip(case))


def _call_by_call(case: Case) -> Forward:
    """As before there were plans: every convolution by itself."""
    fused = fasti3d.fuse(_network(case))
    for part in fused.modules():
        if isinstance(vars(part).get("forward"), Planned):
            del part.forward
    return _forward(fused, _clip(case))


def _fasti3d_compiled(case: Case) -> Forward:
    return _forward(torch.compile(fasti3d.fuse(_network(case)), fullgraph=True), _clip(case))


def _as_written(case: Case) -> Forward:
    return _forward(_network(case), _clip(case))


def _placed(case: Case) -> tuple[nn.Module, Tensor]:
    """The network and its clip in channels_last_3d."""
    placed: Any = _network(case)
    layout = torch.channels_last_3d
    return placed.to(memory_format=layout), _clip(case).contiguous(memory_format=layout)


def _channels_last(case: Case) -> Forward:
    return _forward(*_placed(case))


def _compiled(case: Case) -> Forward:
    placed, x = _placed(case)
    options: dict[str, Any] = {"freezing": True, "triton.cudagraphs": case.device == "cuda"}
    return _forward(torch.compile(placed, dynamic=False, options=options), x)


def _openvino(case: Case) -> Forward:
    pytest.importorskip("openvino")
    x = _clip(case).float()
    return peers.openvino_forward(peers.openvino_model(network(case.network), x), x, case.dtype)


OURS = "fasti3d.fuse"
CANDIDATES: dict[str, Callable[[Case], Forward]] = {
    OURS: _fasti3d,
    "fasti3d.fuse, call by call": _call_by_call,
    "fasti3d.fuse under torch.compile": _fasti3d_compiled,
    "the network itself": _as_written,
    "channels_last_3d": _channels_last,
    "torch.compile, channels_last_3d, freezing": _compiled,
    "OpenVINO": _openvino,
}


@functools.lru_cache(maxsize=1)
def ours(case: Case) -> Forward:
    return _fasti3d(case)


@functools.lru_cache(maxsize=1)
def expected(case: Case) -> tuple[Tensor, int]:
    """The float32 logits on the CPU for the case's rounded clip, and the arithmetic of a pass."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        logits = network(case.network)(_clip(case).float().cpu())
    return logits, counter.get_total_flops()


@pytest.fixture(autouse=True)
def _forget_graphs() -> Iterator[None]:
    yield
    torch.compiler.reset()


@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", CANDIDATES)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_fuse(race: Race, case: Case, name: str) -> None:
    if case.device == "cuda":
        torch.backends.cudnn.benchmark = True
    if name == "OpenVINO" and case.device != "cpu":
        pytest.skip("OpenVINO runs on the CPU here")
    try:
        network(case.network)
    except (ImportError, RuntimeError) as error:  # torchvision's for another build of torch raises the latter
        pytest.skip(f"{case.network} cannot be imported: {error}")
    candidate = ours(case) if name == OURS else CANDIDATES[name](case)
    logits, flop = expected(case)
    error = peers.relative_error(candidate(), logits)
    assert error < peers.LOGITS_TOLERANCE[case.dtype], "a wrong result has no speed"

    race.benchmark.group = f"fuse {case}"
    race.benchmark.extra_info |= {"candidate": name, "case": str(case), "relative_error": error}
    if case.device == "cpu":
        race.benchmark.extra_info["working_mb"] = cpu_peak(candidate)
    race(candidate, None if name == OURS else ours(case), rounds=7, flop=flop)
