"""fasti3d.fuse on residual networks, beside the same network as PyTorch runs it."""

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
from benchmarks.residual import r2plus1d, r3d, randomise

NETWORKS = {"R3D-18": r3d, "R(2+1)D-18": r2plus1d}
SHAPE = (1, 3, 16, 112, 112)

Forward = Callable[[], Tensor]


class Case(NamedTuple):
    """One network on one clip."""

    network: str
    dtype: torch.dtype
    device: str = "cpu"

    def __str__(self) -> str:
        dtype = str(self.dtype).removeprefix("torch.")
        return f"{self.network} {'x'.join(map(str, SHAPE))} {dtype} {self.device}"


CASES = [
    *(Case(network, dtype) for network in NETWORKS for dtype in (torch.float32, torch.bfloat16)),
    *(pytest.param(Case(name, torch.float16, "cuda"), marks=pytest.mark.gpu) for name in NETWORKS),
]


def _network(case: Case) -> nn.Module:
    return randomise(NETWORKS[case.network]()).to(case.device, case.dtype)


def _clip(case: Case) -> Tensor:
    return peers.clip(peers.Case(SHAPE, case.dtype, case.device))


def _forward(network: Callable[[Tensor], Tensor], x: Tensor) -> Forward:
    def forward() -> Tensor:
        with torch.no_grad():
            logits = network(x)
            if x.is_cuda:
                torch.cuda.synchronize()
            return logits

    return forward


def _fasti3d(case: Case) -> Forward:
    return _forward(fasti3d.fuse(_network(case)), _clip(case))


def _fasti3d_compiled(case: Case) -> Forward:
    return _forward(torch.compile(fasti3d.fuse(_network(case)), fullgraph=True), _clip(case))


def _as_written(case: Case) -> Forward:
    return _forward(_network(case), _clip(case))


def _placed(case: Case) -> tuple[nn.Module, Tensor]:
    """The network and its clip in channels_last_3d."""
    network: Any = _network(case)
    layout = torch.channels_last_3d
    return network.to(memory_format=layout), _clip(case).contiguous(memory_format=layout)


def _channels_last(case: Case) -> Forward:
    return _forward(*_placed(case))


def _compiled(case: Case) -> Forward:
    network, x = _placed(case)
    options: dict[str, Any] = {"freezing": True, "triton.cudagraphs": case.device == "cuda"}
    return _forward(torch.compile(network, dynamic=False, options=options), x)


OURS = "fasti3d.fuse"
CANDIDATES: dict[str, Callable[[Case], Forward]] = {
    OURS: _fasti3d,
    "fasti3d.fuse under torch.compile": _fasti3d_compiled,
    "the network itself": _as_written,
    "channels_last_3d": _channels_last,
    "torch.compile, channels_last_3d, freezing": _compiled,
}


@functools.lru_cache(maxsize=1)
def ours(case: Case) -> Forward:
    return _fasti3d(case)


@functools.lru_cache(maxsize=1)
def expected(case: Case) -> tuple[Tensor, int]:
    """The float32 logits on the CPU for the case's rounded clip, and the arithmetic of a pass."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        logits = randomise(NETWORKS[case.network]())(_clip(case).float().cpu())
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
    candidate = ours(case) if name == OURS else CANDIDATES[name](case)
    logits, flop = expected(case)
    error = peers.relative_error(candidate(), logits)
    assert error < peers.LOGITS_TOLERANCE[case.dtype], "a wrong result has no speed"

    race.benchmark.group = f"fuse {case}"
    race.benchmark.extra_info |= {"candidate": name, "case": str(case), "relative_error": error}
    race(candidate, None if name == OURS else ours(case), rounds=7, flop=flop)
