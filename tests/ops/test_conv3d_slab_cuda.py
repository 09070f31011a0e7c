"""The kernel for slabs on a GPU: every shape that it may take, at full size, against float32."""

from __future__ import annotations

import random
import sys
from dataclasses import replace

import pytest
import torch
from conv3d_slab_making import SHAPES, Shape, of_shape, random_case
from requiring import require
from tolerances import TOLERANCES
from torch import Tensor

from fasti3d.ops.conv3d_bn_relu.geometry import Geometry
from fasti3d.ops.conv3d_slab import describe
from fasti3d.ops.conv3d_slab.config import CAPABILITY, Config, Problem, candidates, nanoseconds
from fasti3d.ops.conv3d_slab.pack import pack_slab
from fasti3d.ops.conv3d_slab.reference import conv3d_slab_reference
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


def check(p: Problem, config: Config, dtype: torch.dtype, residual: bool = False) -> None:
    torch.manual_seed(0)
    x, _ = slice_of((p.batch, p.in_channels, *p.size), dtype)
    x.copy_(torch.randn(x.shape, device="cuda"))
    out, around = slice_of((p.batch, p.out_channels, *p.out), dtype)
    weight = torch.randn(p.out_channels, p.in_channels, *p.kernel, device="cuda")
    packed = pack_slab((weight / (weight[0].numel()) ** 0.5).to(dtype))
    bias = torch.randn(p.out_channels, device="cuda")
    added = torch.randn(out.shape, device="cuda").to(dtype) if residual else None
    if added is not None:
        added = added.contiguous(memory_format=torch.channels_last_3d)
    expected = torch.empty(out.shape, device="cuda")
    conv3d_slab_reference(x, packed, bias, p.kernel, p.before, True, expected, added)
    limit = TOLERANCES["conv3d_forms", dtype].limit * expected.abs().max()
    # What a race between copies and products gets wrong, it need not get wrong every time.
    for _ in range(3):
        out.fill_(torch.nan)
        torch.ops.fasti3d.conv3d_slab_(x, packed, bias, p.kernel, p.before, True, out, config.numbers, added)
        assert (out - expected).abs().max() <= limit  # False for NaN
    out.fill_(BESIDE)
    assert (around == BESIDE).all(), "it writes beside its output"


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("batch", [1, 8])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_shapes_of_the_networks(shape: Shape, batch: int, dtype: torch.dtype) -> None:
    """With the tiles expected to be the fastest."""
    problem = of_shape(shape, batch)
    ranked = sorted(candidates(problem), key=lambda one: nanoseconds(problem, one))
    for config in ranked[:3]:
        check(problem, config, dtype, residual=batch == 1)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("cells", "kernel"), [(24, (4, 4, 4)), (24, (3, 4, 4)), (16, (5, 4, 4))], ids=str)
def test_stems(cells: int, kernel: Triple, dtype: torch.dtype) -> None:
    out = (32, 112, 112)
    size = (out[0] + kernel[0] - 1, out[1] + kernel[1] - 1, out[2] + kernel[2] - 1)
    problem = Problem(2, cells, 64, size, out, kernel, (0, 0, 0), 132)
    ranked = sorted(candidates(problem), key=lambda one: nanoseconds(problem, one))
    for config in ranked[:3]:
        check(problem, config, dtype)


@pytest.mark.parametrize("seed", range(40))
def test_odd_sizes(seed: int) -> None:
    """With any tile that fits."""
    chance = random.Random(seed)
    its = random_case(chance)
    config = chance.choice(list(candidates(its.problem)))
    buffers = chance.choice([1, config.buffers])
    config = replace(config, stages=chance.randint(2, config.stages), buffers=buffers)
    check(its.problem, config, its.x.dtype, its.given)


def test_it_is_recorded_in_a_graph() -> None:
    geometry = Geometry((3, 3, 3), (1, 1, 1), None, True)
    x = torch.randn(1, 64, 4, 14, 14, device="cuda").half().contiguous(memory_format=torch.channels_last_3d)
    weight, bias = torch.randn(64, 64, 3, 3, 3, device="cuda") / 40, torch.randn(64, device="cuda")
    packed = describe.pack(weight, geometry, torch.float16)
    problem = describe.describe(x, geometry, x, 0, 132)
    config = min(candidates(problem), key=lambda one: nanoseconds(problem, one))
    eager, replayed = torch.zeros_like(x), torch.zeros_like(x)
    call = (packed, bias, problem.kernel, problem.before, True)
    torch.ops.fasti3d.conv3d_slab_(x, *call, eager, config.numbers)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        torch.ops.fasti3d.conv3d_slab_(x, *call, replayed, config.numbers)
    graph.replay()
    assert torch.equal(eager, replayed)
    assert eager.any()
