"""I3D-ResNets: fasti3d, the networks as they are written, and OpenVINO on the same clips and weights."""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

import fasti3d
from benchmarks import peers
from benchmarks.conftest import Race
from benchmarks.memory import cpu_peak, kept_mb
from benchmarks.residual import randomise
from fasti3d.engine.cost import flop
from fasti3d.engine.graph import shapes
from fasti3d.resnet import reference

Forward = Callable[[], Tensor]
# Relative L2 error of the logits against the float32 network as written: of 53 layers, and of scores of
# attention that no scale keeps small.
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2e-2}


class Case(NamedTuple):
    """One network on one clip of 224x224 pixels."""

    variant: str
    non_local: str | None
    frames: int
    dtype: torch.dtype = torch.float32

    @property
    def shape(self) -> tuple[int, ...]:
        return 1, 3, self.frames, 224, 224

    def __str__(self) -> str:
        blocks = f" {self.non_local}" if self.non_local else ""
        dtype = str(self.dtype).removeprefix("torch.")
        return f"{self.variant}{blocks} {'x'.join(map(str, self.shape))} {dtype}"


CASES = [
    Case("pytorchvideo-8x8", None, 8),
    Case("pytorchvideo-8x8", None, 8, torch.bfloat16),
    Case("slow-8x8", None, 8),
    Case("caffe2-32x2", None, 32),
    Case("caffe2-32x2", "embedded_gaussian", 32),
    Case("mmaction2-32x2", None, 32),
    Case("mmaction2-32x2", "dot_product", 32),
    Case("mmaction2-32x2", "embedded_gaussian", 32),
    Case("mmaction2-32x2", "gaussian", 32),
]


@functools.lru_cache(maxsize=2)
def written(case: Case) -> nn.Module:
    """The network in plain PyTorch, in float32, with random weights and statistics."""
    network = randomise(reference.I3DResNet(case.variant, 50, case.non_local))
    for name, weight in network.named_parameters():
        # Scores that no scale keeps small would let one key take all, and products of three grow without end.
        if {"theta", "phi", "g"} & set(name.split(".")):
            weight.data.mul_(0.1)
    return network


def clip(case: Case) -> Tensor:
    return peers.clip(peers.Case(case.shape, case.dtype))


def _forward(network: Callable[[Tensor], Tensor], x: Tensor) -> Forward:
    def forward() -> Tensor:
        with torch.no_grad():
            return network(x)

    return forward


def _network(case: Case) -> fasti3d.I3DResNet:
    model = fasti3d.I3DResNet(case.variant, non_local=case.non_local).eval()
    model.load_state_dict(written(case).state_dict())
    assert model.why_not_fused() == ""
    return model.to(case.dtype)


def _fasti3d(case: Case) -> Forward:
    return _forward(_network(case), clip(case))


def _fasti3d_of_bytes(case: Case) -> Forward:
    """On bytes that mean and standard deviation make nearly the same clip of: what scaling them costs."""
    model, x = _network(case), clip(case).float()
    its = model.table.preprocessing
    mean, std = (torch.tensor(v).view(3, 1, 1, 1) for v in (its.mean, its.std))
    return _forward(model, (x * std + mean).round().clamp(0, 255).to(torch.uint8))


def _without_blocks(case: Case) -> Forward:
    return _fasti3d(case._replace(non_local=None))


def _as_written(case: Case) -> Forward:
    made = reference.I3DResNet(case.variant, 50, case.non_local).eval()
    made.load_state_dict(written(case).state_dict())
    return _forward(made.to(case.dtype), clip(case))


def _channels_last(case: Case) -> Forward:
    made: Any = reference.I3DResNet(case.variant, 50, case.non_local).eval()
    made.load_state_dict(written(case).state_dict())
    layout = torch.channels_last_3d
    placed = made.to(case.dtype).to(memory_format=layout)
    return _forward(placed, clip(case).contiguous(memory_format=layout))


def _openvino(case: Case) -> Forward:
    pytest.importorskip("openvino")
    x = clip(case).float()
    return peers.openvino_forward(peers.openvino_model(written(case), x), x, case.dtype)


OURS = "fasti3d"
OF_BYTES = "fasti3d, of bytes"
WITHOUT = "fasti3d, without its non-local blocks"
CANDIDATES: dict[str, Callable[[Case], Forward]] = {
    OURS: _fasti3d,
    OF_BYTES: _fasti3d_of_bytes,
    WITHOUT: _without_blocks,
    "the network itself": _as_written,
    "channels_last_3d": _channels_last,
    "OpenVINO": _openvino,
}


@functools.lru_cache(maxsize=1)
def ours(case: Case) -> Forward:
    return _fasti3d(case)


@functools.lru_cache(maxsize=1)
def expected(case: Case) -> tuple[Tensor, int]:
    """The float32 logits as written for the case's rounded clip, and the arithmetic of a pass."""
    with torch.no_grad():
        logits = written(case)(clip(case).float())
    graph = fasti3d.I3DResNet(case.variant, non_local=case.non_local).eval().graph()
    of = shapes(graph, case.shape)
    return logits, sum(flop(node, of) for node in graph.nodes)


# torch.jit.trace, which OpenVINO's converter needs, is deprecated, and warns that sizes become constants.
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning")
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", CANDIDATES)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_i3d_resnet(race: Race, case: Case, name: str) -> None:
    if name == WITHOUT and case.non_local is None:
        pytest.skip("there are none")
    if name == "OpenVINO" and importlib.util.find_spec("openvino") is None:
        pytest.skip("openvino is not installed: pip install fasti3d[bench]")
    candidate = ours(case) if name == OURS else CANDIDATES[name](case)
    logits, operations = expected(case)
    first = candidate()
    if name not in (WITHOUT, OF_BYTES):  # whose logits are others
        error = peers.relative_error(first, logits)
        assert error < TOLERANCE[case.dtype], "a wrong result has no speed"
        race.benchmark.extra_info["relative_error"] = error
    race.benchmark.group = f"ResNet {case}"
    # What plans keep from pass to pass counts too.
    race.benchmark.extra_info |= {
        "candidate": name,
        "case": str(case),
        "working_mb": cpu_peak(candidate) + (kept_mb() if name.startswith(OURS) else 0.0),
    }
    race(candidate, None if name == OURS else ours(case), rounds=7, flop=operations)
