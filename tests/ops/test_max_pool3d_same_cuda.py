"""fasti3d::max_pool3d_same's CUDA kernel against the reference: a maximum is exact, so equal to the bit."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import pytest
import torch
from requiring import require
from torch import Tensor

from fasti3d.ops import max_pool3d_same
from fasti3d.ops.max_pool3d_same.reference import max_pool3d_same_reference

pytestmark = pytest.mark.gpu

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
# (channels, (T, H, W), kernel, stride) of every pool in I3D on a clip of 64 frames of 224x224.
I3D_POOLS = {
    "2a": (64, (32, 112, 112), (1, 3, 3), (1, 2, 2)),
    "3a": (192, (32, 56, 56), (1, 3, 3), (1, 2, 2)),
    "3b": (192, (32, 28, 28), (3, 3, 3), (1, 1, 1)),
    "3c": (256, (32, 28, 28), (3, 3, 3), (1, 1, 1)),
    "4a": (480, (32, 28, 28), (3, 3, 3), (2, 2, 2)),
    "4b": (480, (16, 14, 14), (3, 3, 3), (1, 1, 1)),
    "4c": (512, (16, 14, 14), (3, 3, 3), (1, 1, 1)),
    "4f": (528, (16, 14, 14), (3, 3, 3), (1, 1, 1)),
    "5a": (832, (16, 14, 14), (2, 2, 2), (2, 2, 2)),
    "5b": (832, (8, 7, 7), (3, 3, 3), (1, 1, 1)),
}


@pytest.fixture(autouse=True)
def _kernel() -> None:
    built = "fasti3d._C_cuda" in sys.modules
    require(None if built else "fasti3d._C_cuda is not built")


def _clip(shape: Sequence[int], dtype: torch.dtype = torch.float32) -> Tensor:
    generator = torch.Generator("cuda").manual_seed(0)
    x = torch.randn(tuple(shape), generator=generator, device="cuda").to(dtype)
    return x.contiguous(memory_format=torch.channels_last_3d)


def _check(x: Tensor, kernel: Sequence[int], stride: Sequence[int]) -> None:
    """Calls the operator itself, which takes slices as they are."""
    pooled = torch.ops.fasti3d.max_pool3d_same(x, list(kernel), list(stride))
    assert pooled.is_contiguous(memory_format=torch.channels_last_3d)
    expected = max_pool3d_same_reference(x, list(kernel), list(stride))
    torch.testing.assert_close(pooled, expected, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", I3D_POOLS)
def test_every_pool_of_the_network(name: str, dtype: torch.dtype) -> None:
    channels, size, kernel, stride = I3D_POOLS[name]
    _check(_clip((2, channels, *size), dtype), kernel, stride)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("channels", [1, 2, 3, 7, 8, 12, 260, 1032, 2056])
def test_any_number_of_channels(channels: int, dtype: torch.dtype) -> None:
    _check(_clip((2, channels, 5, 6, 7), dtype), (3, 3, 3), (2, 2, 2))


@pytest.mark.parametrize("size", [(1, 1, 1), (2, 1, 9), (9, 13, 11), (4, 5, 600)])
@pytest.mark.parametrize(
    ("kernel", "stride"),
    [((1, 1, 1), (1, 1, 1)), ((1, 1, 1), (3, 2, 5)), ((5, 4, 7), (2, 3, 1)), ((20, 20, 20), (1, 2, 3))],
)
def test_any_window(size: tuple[int, int, int], kernel: Sequence[int], stride: Sequence[int]) -> None:
    _check(_clip((3, 16, *size)), kernel, stride)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("first", "last"), [(8, 40), (16, 16 + 24), (3, 35), (5, 6)])
def test_channel_slices(first: int, last: int, dtype: torch.dtype) -> None:
    _check(_clip((2, 48, 6, 7, 9), dtype)[:, first:last], (3, 3, 3), (1, 1, 1))


def test_slices_in_time_and_space() -> None:
    _check(_clip((4, 32, 8, 20, 20))[1::2, :, ::3, 2:17, 1::2], (3, 3, 3), (2, 2, 2))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("channels", [5, 16])
def test_nan_and_infinities(channels: int, dtype: torch.dtype) -> None:
    x = _clip((2, channels, 8, 9, 9), dtype)
    generator = torch.Generator("cuda").manual_seed(1)
    for value in (float("nan"), float("inf"), float("-inf")):
        x[torch.rand(x.shape, generator=generator, device="cuda") < 0.02] = value
    x[1, 0] = float("-inf")
    _check(x, (3, 3, 3), (2, 2, 2))


def test_empty() -> None:
    for shape in ((0, 8, 4, 4, 4), (1, 0, 4, 4, 4), (1, 8, 0, 4, 4)):
        x = torch.empty(shape, device="cuda")
        assert max_pool3d_same(x, (2, 2, 2), (2, 2, 2)).numel() == 0


def test_runs_on_the_current_stream() -> None:
    source = _clip((2, 64, 8, 32, 32))
    expected = max_pool3d_same_reference(source, [3, 3, 3], [2, 2, 2])
    x = torch.zeros_like(source)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        torch.cuda._sleep(100_000_000)  # some 50 ms in which any other stream would still see zeros
        x.copy_(source)
        pooled = max_pool3d_same(x, (3, 3, 3), (2, 2, 2))
    torch.cuda.current_stream().wait_stream(stream)
    torch.testing.assert_close(pooled, expected, rtol=0, atol=0)


def test_runs_in_a_cuda_graph() -> None:
    x = _clip((1, 64, 8, 32, 32))
    max_pool3d_same(x, (3, 3, 3), (2, 2, 2))
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        pooled = max_pool3d_same(x, (3, 3, 3), (2, 2, 2))
    x.neg_()
    graph.replay()
    expected = max_pool3d_same_reference(x, [3, 3, 3], [2, 2, 2])
    torch.testing.assert_close(pooled, expected, rtol=0, atol=0)


def test_runs_on_the_device_of_its_clip() -> None:
    if torch.cuda.device_count() < 2:
        pytest.skip("needs two GPUs")
    x = _clip((1, 16, 4, 8, 8)).to("cuda:1")
    with torch.cuda.device(0):
        _check(x, (3, 3, 3), (1, 1, 1))


@pytest.mark.parametrize("channels", [64, 63])
def test_more_than_two_to_the_31_elements(channels: int) -> None:
    shape = (1, channels, 35, 1000, 1000)
    if torch.cuda.mem_get_info()[0] < 12e9:
        pytest.skip("needs 12 GB of free GPU memory")
    x = torch.empty(shape, device="cuda", dtype=torch.float16, memory_format=torch.channels_last_3d)
    x.normal_(generator=torch.Generator("cuda").manual_seed(0))
    assert x.numel() > 2**31
    pooled = torch.ops.fasti3d.max_pool3d_same(x, [1, 3, 3], [1, 1, 1])
    for frame in (0, 17, 34):  # frames do not mix: the reference needs only its own
        expected = max_pool3d_same_reference(x[:, :, frame : frame + 1], [1, 3, 3], [1, 1, 1])
        assert torch.equal(pooled[:, :, frame : frame + 1], expected)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_opcheck_and_gradient(dtype: torch.dtype) -> None:
    x = _clip((1, 8, 4, 6, 6), dtype).requires_grad_()
    torch.library.opcheck(torch.ops.fasti3d.max_pool3d_same.default, (x, [3, 3, 3], [2, 2, 2]))
    (grad,) = torch.autograd.grad(max_pool3d_same(x, (3, 3, 3), (2, 2, 2)).sum(), x)
    (expected,) = torch.autograd.grad(max_pool3d_same_reference(x, [3, 3, 3], [2, 2, 2]).sum(), x)
    torch.testing.assert_close(grad, expected, rtol=0, atol=0)


def test_channels_must_lie_side_by_side() -> None:
    x = torch.randn(1, 8, 4, 4, 4, device="cuda")
    with pytest.raises(RuntimeError, match=r"x must be channels-last .* got channel stride 64"):
        torch.ops.fasti3d.max_pool3d_same(x, [1, 1, 1], [1, 1, 1])
