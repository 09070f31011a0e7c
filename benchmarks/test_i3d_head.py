"""fasti3d::i3d_head against the head in torch: on a GPU as replays of CUDA graphs."""

from __future__ import annotations

import functools
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks import peers
from benchmarks.conftest import Race, rounds_within
from benchmarks.gpu_timing import captured, synchronised
from benchmarks.peers import Case
from fasti3d.network import FEATURE_CHANNELS, HEAD_POOL
from fasti3d.ops.i3d_head.op import i3d_head
from fasti3d.ops.i3d_head.reference import average_head_reference

# The last map of 64 frames of 224x224.
MAP = (FEATURE_CHANNELS, 8, 7, 7)
CLASSES = 400
GPU = [Case((clips, *MAP), torch.float16, "cuda") for clips in (1, 8)]
CASES = [Case((1, *MAP), torch.float32), *(pytest.param(case, marks=pytest.mark.gpu) for case in GPU)]
# Relative L2 error: in half precision torch rounds the pooled map, and the classifier's weights and outputs.
TOLERANCE = {torch.float32: 1e-5, torch.float16: 2e-3}

Head = Callable[[Tensor, Tensor, Tensor], Tensor]


def _as_written(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    pooled = F.avg_pool3d(x, HEAD_POOL, stride=1)
    return F.conv3d(pooled, weight.to(x.dtype)[..., None, None, None], bias.to(x.dtype)).mean(dim=(2, 3, 4))


CANDIDATES: dict[str, Head] = {
    "fasti3d": lambda *arguments: i3d_head(*arguments)[1],
    "torch, averaged before the classifier": lambda *arguments: average_head_reference(*arguments, HEAD_POOL)[
        1
    ],
    "torch, as written": _as_written,
}


def _arguments(case: Case) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(case.shape, generator=generator).relu_().to(case.device, case.dtype)
    weight = torch.randn(CLASSES, FEATURE_CHANNELS, generator=generator).to(case.device)
    bias = torch.randn(CLASSES, generator=generator).to(case.device)
    return x.contiguous(memory_format=torch.channels_last_3d), weight, bias


def build(name: str, case: Case) -> Callable[[], Tensor]:
    head, arguments = CANDIDATES[name], _arguments(case)
    if case.device == "cpu":
        return lambda: head(*arguments)
    return synchronised(captured(lambda: head(*arguments)))


@functools.lru_cache(maxsize=1)
def ours(case: Case) -> Callable[[], Tensor]:
    return build("fasti3d", case)


@pytest.mark.parametrize("name", CANDIDATES)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_i3d_head(race: Race, case: Case, name: str) -> None:
    candidate = build(name, case)
    x, weight, bias = (argument.double().cpu() for argument in _arguments(case))
    error = peers.relative_error(candidate(), _as_written(x, weight, bias))
    assert error < TOLERANCE[case.dtype], "a wrong result has no speed"

    race.benchmark.group = f"i3d_head {case}"
    race.benchmark.extra_info |= {"candidate": name, "case": str(case), "relative_error": error}
    race(
        candidate,
        None if name == "fasti3d" else ours(case),
        rounds=rounds_within(0.3, candidate),
        moved_bytes=x.numel() * case.dtype.itemsize + weight.numel() * 4,
    )
