"""Memory of passes: one after another in the same pages, and never two at once."""

from __future__ import annotations

import weakref

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from fasti3d.engine import blocks
from fasti3d.engine.blocks import Blocks
from fasti3d.engine.graph import Conv, Graph, Opaque
from fasti3d.engine.plan import Plan

CPU = torch.device("cpu")
CLIP = torch.zeros(1)


def address(blocks: Blocks, nbytes: int) -> int:
    with blocks.block(nbytes, CLIP) as block:
        assert len(block) == nbytes
        return block.data_ptr()


def test_the_next_pass_gets_the_same_block() -> None:
    kept = Blocks(keeps=True)
    first = address(kept, 1 << 20)
    assert address(kept, 1 << 19) == first
    with kept.block(1 << 20, CLIP) as block, kept.block(1 << 20, CLIP) as beside:
        assert block.data_ptr() == first
        assert beside.data_ptr() != first
    with pytest.raises(ZeroDivisionError), kept.block(1 << 20, CLIP):
        _ = 1 / 0
    assert kept.kept is None


def test_what_is_kept_has_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "_KEPT_BYTES", 1000)
    kept = Blocks(keeps=True)
    address(kept, 1001)
    assert kept.kept is None
    address(kept, 1000)
    assert kept.kept is not None
    never = Blocks(keeps=False)
    address(never, 10)
    assert never.kept is None


def test_plans_share_it_and_the_last_one_takes_it_along() -> None:
    first, second = plan(), plan()
    assert first._blocks is second._blocks
    its = weakref.ref(first._blocks)
    del first
    assert its() is second._blocks


def test_a_tracer_s_clip_has_a_block_of_its_own() -> None:
    kept = Blocks(keeps=True)
    with FakeTensorMode(), kept.block(100, torch.zeros(1)) as block:
        assert isinstance(block, FakeTensor)
    assert kept.kept is None


def plan(*, opaque: bool = False) -> Plan:
    weight = torch.randn(16, 16, 1, 1, 1, generator=torch.Generator().manual_seed(0))
    node = Conv(1, 0, weight, None, (1, 1, 1), (0, 0, 0))
    nodes = (node, Opaque(2, (1,), nn.Identity())) if opaque else (node,)
    return Plan(Graph(nodes, {"y": len(nodes)}), torch.float32, CPU)


def test_results_are_their_own() -> None:
    """In inference mode and outside of it, whichever comes first."""
    its = plan()
    x = torch.randn(2, 1, 16, 2, 3, 4, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        first = its.compute(x[0], {"y"}, torch.float32)["y"]
        kept = first.clone()
    with torch.no_grad():
        second = its.compute(x[1], {"y"}, torch.float32)["y"]
    assert its._blocks.kept is not None
    assert torch.equal(first, kept)
    assert not torch.equal(first, second)


def test_what_torch_runs_may_keep_its_maps() -> None:
    its = plan(opaque=True)
    with torch.no_grad():
        its.compute(torch.ones(1, 16, 2, 3, 4), {"y"}, torch.float32)
    assert its._blocks.kept is None
