"""The head's Triton kernel in Triton's interpreter against its reference: run by test_i3d_head.py."""

from __future__ import annotations

import pytest
import torch
from i3d_head_making import MAPS, WINDOWS, assert_is_head, head_arguments
from torch import Tensor

from fasti3d.network import HEAD_POOL
from fasti3d.ops.i3d_head import launch

DTYPES = (torch.float16, torch.bfloat16, torch.float32)


@pytest.fixture(autouse=True)
def _poisoned_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the kernel does not write is not a number."""
    empty = torch.empty
    monkeypatch.setattr(torch, "empty", lambda *shape, **options: empty(*shape, **options).fill_(torch.nan))


def check(
    x: Tensor, weight: Tensor, bias: Tensor, window: tuple[int, int, int] = HEAD_POOL
) -> tuple[Tensor, Tensor]:
    before = x.clone()
    features, logits = launch.head(x, weight, bias, window)
    assert_is_head((features, logits), x, weight, bias, window)
    assert torch.equal(x, before)
    return features, logits


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", MAPS, ids=str)
def test_maps(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    check(*head_arguments(shape, 5, dtype))


@pytest.mark.parametrize(("shape", "window"), WINDOWS, ids=str)
def test_windows(shape: tuple[int, ...], window: tuple[int, int, int] | None) -> None:
    check(*head_arguments(shape, 5), window or (shape[2], shape[3], shape[4]))


@pytest.mark.parametrize("classes", [0, 1, 127, 128, 400])
def test_classes(classes: int) -> None:
    check(*head_arguments((2, 64, 3, 7, 7), classes))


@pytest.mark.parametrize("channels", [1, 31, 40, 1024, 1056])
def test_channels(channels: int) -> None:
    check(*head_arguments((1, channels, 2, 7, 7), 3))


def test_layouts() -> None:
    x, weight, bias = head_arguments((2, 40, 3, 8, 9), 4)
    expected = check(x, weight, bias)
    wide = x.repeat_interleave(2, dim=1)[:, ::2]
    for layout in (x.contiguous(), wide, x.transpose(3, 4).contiguous().transpose(3, 4)):
        assert all(map(torch.equal, check(layout, weight, bias), expected))
    assert all(map(torch.equal, check(x, weight.t().contiguous().t(), bias), expected))


def test_a_value_that_is_not_finite_reaches_its_windows_alone() -> None:
    x, weight, bias = head_arguments((2, 64, 12, 7, 8), 3)
    clean, clean_logits = check(x, weight, bias)
    for value in (torch.nan, torch.inf):
        x[1, 33, 5, 3, 4] = value
        features, logits = launch.head(x, weight, bias, HEAD_POOL)
        bad = ~features.isfinite()
        assert bad.nonzero().tolist() == [[1, 33, 4], [1, 33, 5]]
        assert torch.equal(features[~bad], clean[~bad])
        assert torch.equal(logits[0], clean_logits[0])
        assert not logits[1].isfinite().any()
