"""Which computation an operator with Triton kernels takes on a GPU, with stand-ins for both."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from fasti3d.ops.on_gpu import on_gpu
from fasti3d.runtime import gpu


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was called, on what is a GPU."""
    found: list[str] = []
    kernels = SimpleNamespace(halve=lambda x, y: found.append("kernel"))
    monkeypatch.setitem(sys.modules, "stand_in", kernels)  # type: ignore[arg-type]
    monkeypatch.setattr(gpu, "why_no_triton", lambda device: None)
    return found


def call(calls: list[str], x: Tensor) -> list[str]:
    calls.clear()
    run = on_gpu("stand_in", "halve", lambda x, y: calls.append("check"), lambda x, y: calls.append("plain"))
    run(x, 2)
    return calls


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_the_kernel_runs(dtype: torch.dtype, calls: list[str]) -> None:
    assert call(calls, torch.ones(2, dtype=dtype)) == ["check", "kernel"]


def test_pytorch_runs_where_there_is_no_kernel(calls: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert call(calls, torch.ones(2, dtype=torch.float64)) == ["check", "plain"]
    assert call(calls, torch.ones(0)) == ["check", "plain"]
    monkeypatch.setattr(gpu, "why_no_triton", lambda device: "an old GPU")
    assert call(calls, torch.ones(2)) == ["check", "plain"]


def test_what_is_refused_is_not_computed(calls: list[str]) -> None:
    def refuse(x: Tensor) -> None:
        raise ValueError("x must be another")

    with pytest.raises(ValueError, match="another"):
        on_gpu("stand_in", "halve", refuse, lambda x: calls.append("plain"))(torch.ones(2))
    assert calls == []
