"""The max-pool with taps against torch's: values, winners and gradients, ties and NaN included."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from fasti3d import network
from fasti3d.ops.max_pool3d_taps import MAX_TAPS, max_pool3d_taps, max_pool3d_taps_backward
from fasti3d.runtime import extension
from fasti3d.same_padding import pad_same, same_padding

Triple = tuple[int, int, int]

POOLS = sorted(
    {tuple(s) for s in network.TRUNK.values() if isinstance(s, network.Pool)} | {((3, 3, 3), (1, 1, 1))}
)
OTHERS = [((1, 1, 1), (2, 1, 3)), ((5, 4, 1), (2, 3, 1)), ((4, 8, 8), (3, 3, 3)), ((1, 9, 1), (1, 20, 1))]
SIZES = [(1, 2, 7), (5, 7, 6)]
CHANNELS = [1, 93]


def clip(*shape: int, dtype: torch.dtype, ties: bool = False) -> Tensor:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))
    x = x.round() if ties else x
    return x.to(dtype).contiguous(memory_format=torch.channels_last_3d)


def by_torch(x: Tensor, kernel: Triple, stride: Triple, grad: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """torch's pool of a padded copy, and its gradient, in float64."""
    leaf = x.double().requires_grad_()
    y = F.max_pool3d(pad_same(leaf, kernel, stride, float("-inf")), kernel, stride)
    if grad is not None:
        y.backward(grad.double())
    return y.detach(), leaf.grad


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("ties", [False, True])
def test_equals_torch(kernels: None, dtype: torch.dtype, ties: bool) -> None:
    """With ties the first tap wins, as gradients show."""
    for (kernel, stride), size in ((pool, size) for pool in POOLS + OTHERS for size in SIZES):
        for channels in CHANNELS:
            x = clip(2, channels, *size, dtype=dtype, ties=ties)
            y, taps = max_pool3d_taps(x, kernel, stride)
            # Whole numbers, whose sums no dtype rounds.
            grad = clip(*y.shape, dtype=dtype, ties=True)
            expected, gradient = by_torch(x, kernel, stride, grad)
            assert torch.equal(y.double(), expected)
            assert y.is_contiguous(memory_format=torch.channels_last_3d)
            assert taps.dtype == torch.uint8
            found = max_pool3d_taps_backward(grad, taps, kernel, stride, size)
            assert torch.equal(found.double(), gradient)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_is_not_finite(kernels: None, dtype: torch.dtype) -> None:
    """The last NaN of a window wins, as in torch, and the first of a window of -inf, never its padding."""
    x = clip(1, 21, 4, 6, 6, dtype=dtype)
    generator = torch.Generator().manual_seed(0)
    for value in (torch.nan, torch.inf, -torch.inf):
        x.masked_fill_(torch.rand(x.shape, generator=generator) < 0.1, value)
    x[:, :, 0] = -torch.inf
    for kernel, stride in POOLS:
        y, taps = max_pool3d_taps(x, kernel, stride)
        grad = torch.ones_like(y)
        expected, gradient = by_torch(x, kernel, stride, grad)
        torch.testing.assert_close(y.double(), expected, rtol=0, atol=0, equal_nan=True)
        found = max_pool3d_taps_backward(grad, taps, kernel, stride, x.shape[2:]).double()
        front = [same_padding(n, k, s)[0] for n, k, s in zip(x.shape[2:], kernel, stride, strict=True)]
        if not any(front):  # torch gives to the padding what goes to the first of a window of -inf
            assert torch.equal(found, gradient)
        assert found.sum() == y.numel(), "a gradient went to the padding"
        assert torch.equal(found[x.isnan()], gradient[x.isnan()])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
def test_other_dtypes_run_the_reference(dtype: torch.dtype) -> None:
    x = clip(2, 5, 4, 5, 6, dtype=dtype, ties=True)
    y, taps = max_pool3d_taps(x, (3, 3, 3), (1, 2, 2))
    grad = clip(*y.shape, dtype=dtype, ties=True)
    expected, gradient = by_torch(x, (3, 3, 3), (1, 2, 2), grad)
    assert torch.equal(y.double(), expected)
    found = max_pool3d_taps_backward(grad, taps, (3, 3, 3), (1, 2, 2), x.shape[2:])
    assert torch.equal(found.double(), gradient)


def test_slices(kernels: None) -> None:
    """Gradients and maps may be slices of others."""
    wide = clip(1, 60, 3, 8, 8, dtype=torch.float32)
    x = wide[:, 7:50]
    y, taps = max_pool3d_taps(x, (3, 3, 3), (2, 2, 2))
    dense = x.contiguous(memory_format=torch.channels_last_3d)
    again, same = max_pool3d_taps(dense, (3, 3, 3), (2, 2, 2))
    assert torch.equal(y, again)
    assert torch.equal(taps, same)
    grads = clip(1, 60, *y.shape[2:], dtype=torch.float32)
    found = max_pool3d_taps_backward(grads[:, 7:50], taps, (3, 3, 3), (2, 2, 2), (3, 8, 8))
    expected = max_pool3d_taps_backward(grads[:, 7:50].clone(), taps, (3, 3, 3), (2, 2, 2), (3, 8, 8))
    assert torch.equal(found, expected)


def test_a_window_of_as_many_taps_as_a_byte_counts(kernels: None) -> None:
    x = torch.zeros(1, 3, 4, 8, 8).contiguous(memory_format=torch.channels_last_3d)
    x[:, :, 3, 7, 7] = 1
    _, taps = max_pool3d_taps(x, (4, 8, 8), (4, 8, 8))
    assert (taps == MAX_TAPS - 1).all()
    with pytest.raises((RuntimeError, ValueError), match="kernel must have at most 256 taps"):
        max_pool3d_taps(x, (5, 8, 8), (1, 1, 1))


def test_empty() -> None:
    x = torch.empty(0, 5, 2, 3, 4).contiguous(memory_format=torch.channels_last_3d)
    y, taps = max_pool3d_taps(x, (3, 3, 3), (2, 2, 2))
    assert y.shape == taps.shape == (0, 5, 1, 2, 2)
    assert max_pool3d_taps_backward(y, taps, (3, 3, 3), (2, 2, 2), (2, 3, 4)).shape == x.shape


@pytest.mark.skipif(extension.CORE is None, reason="the extension was not built")
def test_opcheck() -> None:
    x, out = clip(1, 6, 2, 4, 4, dtype=torch.float32), clip(1, 6, 1, 2, 2, dtype=torch.float32)
    taps = torch.zeros_like(out, dtype=torch.uint8)
    torch.library.opcheck(torch.ops.fasti3d.max_pool3d_taps_.default, (x, [3] * 3, [2] * 3, out, taps))
    arguments = (out.clone(), taps, [3] * 3, [2] * 3, x.clone())
    torch.library.opcheck(torch.ops.fasti3d.max_pool3d_taps_backward_.default, arguments)
