"""Memory that passes share one after another."""

import pytest
import torch

from fasti3d.engine import blocks
from fasti3d.engine.blocks import Blocks


def test_the_next_pass_gets_the_block_of_the_last_and_one_beside_it_another() -> None:
    kept, x = Blocks(), torch.zeros(1)
    with kept.lend(64, x) as first, kept.lend(64, x) as beside:
        assert first.data_ptr() != beside.data_ptr()
    with kept.lend(48, x) as again:
        assert again.shape == (48,)
        assert again.data_ptr() == first.data_ptr()
    with kept.lend(65, x) as larger:
        assert larger.shape == (65,)


def test_a_large_block_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "MAX_KEPT", 63)
    kept, x = Blocks(), torch.zeros(1)
    with kept.lend(64, x) as block:
        assert block.shape == (64,)
    assert kept._kept is None


def test_a_block_of_inference_mode_is_written_to_outside_of_it() -> None:
    kept, x = Blocks(), torch.zeros(1)
    with torch.inference_mode(), kept.lend(8, x):
        pass
    with kept.lend(8, x) as block:
        block.fill_(1)
    assert not block.is_inference()


def test_a_tracer_s_tensors_leave_no_block() -> None:
    kept = Blocks()
    with torch._subclasses.FakeTensorMode(), kept.lend(8, torch.zeros(1)):
        pass
    assert kept._kept is None
