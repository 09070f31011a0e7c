"""The pool and convolution over slabs on a GPU: every shape of the network, at full size, against float32."""

from __future__ import annotations

import math
import random
import sys
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from pooled_conv3d_slab_making import SHAPES, of_shape, random_case
from requiring import require
from sanitizing import assert_sanitized
from tolerances import TOLERANCES
from torch import Tensor

from fasti3d.ops.conv3d_slab.config import CAPABILITY
from fasti3d.ops.conv3d_slab.pack import pack_slab
from fasti3d.ops.pooled_conv3d_slab.config import Config, Problem, candidates, nanoseconds
from fasti3d.ops.pooled_conv3d_slab.reference import pooled_conv3d_slab_reference
from fasti3d.ops.tiling import Triple
from fasti3d.runtime import gpu

pytestmark = pytest.mark.gpu

DTYPES = (torch.float16, torch.bfloat16)
BESIDE = 1234.0


@pytest.fixture(autouse=True)
def _kernel() -> None:
    built = "fasti3d._C_sm90a" in sys.modules
    require(None if built else "fasti3d._C_sm90a is not built")
    capability = gpu.gpu_traits(torch.device("cuda", torch.cuda.current_device())).capability
    require(None if capability == CAPABILITY else f"the kernel is for compute capability {CAPABILITY}")


@pytest.fixture(autouse=True)
def _exact(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


def slice_of(shape: tuple[int, ...], dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """A channels-last clip between other channels, and all of them."""
    n, channels, t, h, w = shape
    around = torch.full((n, t, h, w, -(-channels // 8) * 8 + 16), BESIDE, dtype=dtype, device="cuda")
    return around[..., 8 : 8 + channels].permute(0, 4, 1, 2, 3), around


def operands(p: Problem, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """A clip that is nowhere negative, weights and bias."""
    torch.manual_seed(0)
    x, _ = slice_of((p.batch, p.in_channels, *p.size), dtype)
    x.copy_(torch.randn(x.shape, device="cuda").relu())
    weight = torch.randn(p.out_channels, p.in_channels, 1, 1, 1, device="cuda") / p.in_channels**0.5
    return x, pack_slab(weight.to(dtype)), torch.randn(p.out_channels, device="cuda")


def check(p: Problem, config: Config, dtype: torch.dtype, relu: bool = True) -> None:
    x, packed, bias = operands(p, dtype)
    out, around = slice_of((p.batch, p.out_channels, *p.size), dtype)
    expected = torch.empty(out.shape, device="cuda")
    pooled_conv3d_slab_reference(x, packed, bias, relu, expected)
    limit = TOLERANCES["conv3d_forms", dtype].limit * expected.abs().max()
    # What a race between copies, threads and products gets wrong, it need not get wrong every time.
    for _ in range(3):
        out.fill_(torch.nan)
        torch.ops.fasti3d.pooled_conv3d_slab_(x, packed, bias, relu, out, config.numbers)
        assert (out - expected).abs().max() <= limit  # False for NaN
    out.fill_(BESIDE)
    assert (around == BESIDE).all(), "it writes beside its output"


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("batch", [1, 8])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_shapes_of_the_network(shape: tuple[int, int, Triple], batch: int, dtype: torch.dtype) -> None:
    """With the tiles expected to be the fastest."""
    problem = of_shape(shape, batch)
    ranked = sorted(candidates(problem), key=lambda one: nanoseconds(problem, one))
    for config in ranked[:5]:
        check(problem, config, dtype)


@pytest.mark.parametrize("seed", range(40))
def test_odd_sizes(seed: int) -> None:
    """With any tile that fits."""
    chance = random.Random(seed)
    its = random_case(chance)
    config = chance.choice(list(candidates(its.problem)))
    config = replace(config, stages=chance.randint(2, config.stages))
    check(its.problem, config, its.x.dtype, its.relu)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_not_finite(value: float, dtype: torch.dtype) -> None:
    """It reaches the windows that it is in, as of torch's max_pool3d; a NaN beside an infinity wins."""
    problem = Problem(2, 40, 32, (5, 9, 11), 132)
    x, packed, bias = operands(problem, dtype)
    x[0, 3, 0, 0, 0] = x[1, 5, 2, 4, 5] = value
    x[1, 5, 2, 4, 6] = math.inf
    config = min(candidates(problem), key=lambda one: nanoseconds(problem, one))
    out, _ = slice_of((2, 32, 5, 9, 11), dtype)
    torch.ops.fasti3d.pooled_conv3d_slab_(x, packed, bias, False, out, config.numbers)
    pooled = F.max_pool3d(x.float(), 3, 1, 1)
    assert torch.equal(out.isnan().all(1), pooled.isnan().any(1))
    assert torch.equal(out.isfinite().all(1), pooled.isfinite().all(1))


PROGRAM = """
import torch
from fasti3d.ops.conv3d_slab.pack import pack_slab
from fasti3d.ops.pooled_conv3d_slab.config import Problem, candidates, nanoseconds

for channels, out_channels in ((48, 32), (80, 128)):
    problem = Problem(2, channels, out_channels, (3, 9, 11), 132)
    x, out = (torch.ones((2, 3, 9, 11, n), dtype=torch.float16, device="cuda").permute(0, 4, 1, 2, 3)
              for n in (channels, out_channels))
    weight = pack_slab(torch.ones((out_channels, channels, 1, 1, 1), dtype=torch.float16, device="cuda"))
    bias = torch.ones(out_channels, device="cuda")
    for config in sorted(candidates(problem), key=lambda one: nanoseconds(problem, one))[:3]:
        torch.ops.fasti3d.pooled_conv3d_slab_(x, weight, bias, True, out, config.numbers)
torch.cuda.synchronize()
"""


@pytest.mark.timeout(300)
@pytest.mark.parametrize("tool", ["memcheck", "racecheck", "synccheck"])
def test_the_sanitizer_finds_nothing_in_the_defaults(tool: str) -> None:
    assert_sanitized(tool, PROGRAM)


def test_it_is_recorded_in_a_graph() -> None:
    problem = Problem(1, 64, 32, (4, 14, 14), 132)
    x, packed, bias = operands(problem, torch.float16)
    config = min(candidates(problem), key=lambda one: nanoseconds(problem, one))
    eager, _ = slice_of((1, 32, 4, 14, 14), torch.float16)
    replayed, _ = slice_of((1, 32, 4, 14, 14), torch.float16)
    torch.ops.fasti3d.pooled_conv3d_slab_(x, packed, bias, True, eager, config.numbers)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        torch.ops.fasti3d.pooled_conv3d_slab_(x, packed, bias, True, replayed, config.numbers)
    graph.replay()
    assert torch.equal(eager, replayed)
    assert (eager != BESIDE).any()
