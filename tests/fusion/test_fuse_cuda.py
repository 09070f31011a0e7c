"""Fused networks on a GPU: whole ones, shared by streams, and in CUDA graphs."""

from __future__ import annotations

import copy

import pytest
import torch
from requiring import require
from tolerances import assert_close
from torch import Tensor, nn

import fasti3d
from benchmarks.residual import r2plus1d, r3d, randomise
from fasti3d.fusion.fuse import FusedConv3d
from fasti3d.runtime import gpu

pytestmark = pytest.mark.gpu

NETWORKS = {"r3d": r3d, "r2plus1d": r2plus1d}
WIDTHS = (16, 24, 32, 48)


@pytest.fixture(autouse=True)
def _kernel() -> None:
    require(gpu.why_not(torch.device("cuda"), torch.float16))


@pytest.fixture(scope="module", params=NETWORKS)
def network(request: pytest.FixtureRequest) -> nn.Module:
    """On the CPU; no test changes it."""
    return randomise(NETWORKS[request.param](WIDTHS, 10)).half()


def on_gpu(network: nn.Module) -> nn.Module:
    return fasti3d.fuse(network).cuda()


def clip(seed: int = 0) -> Tensor:
    return torch.randn(2, 3, 9, 33, 20, generator=torch.Generator().manual_seed(seed)).half()


def test_networks_give_what_they_gave(network: nn.Module) -> None:
    with torch.no_grad():
        expected = copy.deepcopy(network).double()(clip().double())
        assert_close("fused_network", on_gpu(network)(clip().cuda()).cpu(), expected)


def test_a_stream_reads_what_another_one_packed(network: nn.Module) -> None:
    """While that one is busy with something else."""
    x = clip().cuda()
    with torch.no_grad():
        expected = on_gpu(network)(x)
        fused = on_gpu(network)
        torch.cuda.synchronize()
        with torch.cuda.stream(torch.cuda.Stream()):
            torch.cuda._sleep(500_000_000)  # a quarter of a second
            first = fused(x)
        with torch.cuda.stream(torch.cuda.Stream()):
            second = fused(x)
        torch.cuda.synchronize()
    assert torch.equal(first, expected)
    assert torch.equal(second, expected)


def test_weights_that_changed_are_packed_inside_a_graph_of_the_users(network: nn.Module) -> None:
    fused, x = on_gpu(network), clip().cuda()
    part = next(part for part in fused.modules() if isinstance(part, FusedConv3d))
    with torch.no_grad():
        before = fused(x)
        part.folded_weight.mul_(0.5)
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            y = fused(x)
        eager = fused(x)  # nothing of which the graph has computed yet
        graph.replay()
        assert torch.equal(y, eager)
        assert not torch.equal(y, before)
        x.copy_(clip(1))
        graph.replay()
        assert torch.equal(y, fused(x))
