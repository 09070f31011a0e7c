"""Attention in pieces, against all scores at once in float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from fasti3d.ops import attention as module
from fasti3d.ops.attention import attend, attention, piece_rows, places

# Relative to the largest value: sums of up to 512 products in float32, then rounded once.
LIMITS = {torch.float32: 2e-6, torch.bfloat16: 8e-3, torch.float16: 1e-3}


def maps(width: int, channels: int, spread: float, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)

    def of(*shape: int, scale: float = 1.0) -> Tensor:
        x = scale * torch.randn(shape, generator=generator)
        return x.to(dtype).contiguous(memory_format=torch.channels_last_3d)

    return of(2, width, 3, 8, 6, scale=spread), of(2, width, 3, 4, 3), of(2, channels, 3, 4, 3)


def exact(q: Tensor, k: Tensor, v: Tensor, scale: float | None) -> Tensor:
    scores = places(q.double()) @ places(k.double()).transpose(1, 2)
    shares = scores / scores.shape[2] if scale is None else (scores * scale).softmax(dim=2)
    y = (shares @ places(v.double())).transpose(1, 2)
    return y.reshape(*v.shape[:2], *q.shape[2:])


@pytest.mark.parametrize("scale", [1.0, 0.125, None])
@pytest.mark.parametrize("dtype", LIMITS)
@pytest.mark.parametrize(("width", "channels"), [(24, 24), (32, 16)])
def test_is_attention(
    width: int, channels: int, dtype: torch.dtype, scale: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    q, k, v = maps(width, channels, 0.5, dtype)
    expected = exact(q, k, v, scale)

    def error(found: Tensor) -> float:
        return float((found - expected).abs().max() / expected.abs().max())

    assert error(attention(q, k, v, scale)) < LIMITS[dtype]
    out = torch.full_like(expected, torch.nan, dtype=dtype).contiguous(memory_format=torch.channels_last_3d)
    for rows in (144, 50):
        monkeypatch.setitem(module._PIECE_BYTES, "cpu", 4 * 36 * rows)
        attend(places(q), places(k), places(v), scale, places(out))
        assert error(out) < LIMITS[dtype]
        if scale is not None and dtype == torch.float32:
            out.fill_(torch.nan)
            scores = torch.full((piece_rows(144, 36, q.device), 36), torch.nan)
            attend(places(q), places(k), places(v), scale, places(out), scores)
            assert error(out) < LIMITS[dtype]


def test_no_share_is_subnormal() -> None:
    """Products of such numbers take a hundred times as long: without a scale scores are far apart."""
    q, k, v = maps(32, 16, 6.0, torch.float32)
    scores = torch.empty(144, 36)
    out = torch.empty_like(v.new_empty(2, 16, 3, 8, 6), memory_format=torch.channels_last_3d)
    attend(places(q), places(k), places(v), 1.0, places(out), scores)
    its = places(q)[1].double() @ places(k)[1].double().t()
    assert (its.softmax(dim=1) < 1e-38).any()
    assert scores.min() > torch.finfo(torch.float32).tiny
    torch.testing.assert_close(out.double(), exact(q, k, v, 1.0), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("value", [float("inf"), float("nan")])
def test_what_is_not_finite_stays_in_its_row(value: float) -> None:
    q, k, v = maps(8, 8, 1.0, torch.float32)
    q[0, 0, 0, 0, 0] = value
    out = torch.zeros(2, 8, 3, 8, 6).contiguous(memory_format=torch.channels_last_3d)
    attend(places(q), places(k), places(v), 1.0, places(out), torch.empty(144, 36))
    assert out[0, :, 0, 0, 0].isnan().all()
    out[0, :, 0, 0, 0] = 0
    assert out.isfinite().all()


def test_pieces_are_of_one_length() -> None:
    cpu = torch.device("cpu")
    assert piece_rows(3136, 784, cpu) == 1046
    assert piece_rows(784, 196, cpu) == 784
    assert piece_rows(0, 196, cpu) == 1
