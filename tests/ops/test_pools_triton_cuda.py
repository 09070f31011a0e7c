"""The Triton pools on a GPU, alone and in front of a convolution, at the network's sizes and odd ones."""

from __future__ import annotations

import itertools

import pytest
import torch
import torch.nn.functional as F
from requiring import require
from tolerances import assert_close
from torch import Tensor

from fasti3d import network
from fasti3d.inspect.layers import Layer, layers
from fasti3d.ops.conv3d_bn_relu import PackedConv3d
from fasti3d.ops.max_pool3d_same import op as pool_op
from fasti3d.ops.max_pool3d_same.reference import max_pool3d_same_reference
from fasti3d.ops.pooled_conv3d.op import pool_and_convolve
from fasti3d.runtime import gpu
from fasti3d.same_padding import same_shape

pytestmark = pytest.mark.gpu

Triple = tuple[int, int, int]

ONE, THREE, TWO = (1, 1, 1), (3, 3, 3), (2, 2, 2)
HALVES = (torch.float16, torch.bfloat16)
SENTINEL = 1234.0
LAYERS = list(layers(3, (64, 224, 224)))
POOLS = [layer for layer in LAYERS if isinstance(layer.spec, network.Pool)]
POOLED = [layer for layer in LAYERS if layer.name.endswith(".b3b")]


@pytest.fixture(autouse=True)
def _kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    require(gpu.why_no_triton(torch.device("cuda")))
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


def clip(batch: int, channels: int, size: Triple, dtype: torch.dtype, seed: int = 0) -> Tensor:
    generator = torch.Generator("cuda").manual_seed(seed)
    x = torch.randn(batch, *size, channels, generator=generator, device="cuda", dtype=dtype)
    return x.permute(0, 4, 1, 2, 3)


def slice_of(shape: tuple[int, ...], dtype: torch.dtype, around: int = 16) -> tuple[Tensor, Tensor]:
    """A clip of sentinels and, poisoned, its channels but the first and last ones."""
    n, c, *size = shape
    wide = torch.full((n, *size, c + 2 * around), SENTINEL, dtype=dtype, device="cuda")
    wide[..., around:-around] = torch.nan
    wide = wide.permute(0, 4, 1, 2, 3)
    return wide, wide[:, around:-around]


def assert_untouched(wide: Tensor, around: int = 16) -> None:
    assert (wide[:, :around] == SENTINEL).all()
    assert (wide[:, -around:] == SENTINEL).all()


def check_pool(x: Tensor, kernel: Triple, stride: Triple, around: int = 16) -> None:
    """The Triton kernel, whether or not a compiled one is there."""
    shape = (*x.shape[:2], *same_shape(x.shape[2:], stride))
    wide, out = slice_of(shape, x.dtype, around)
    pool_op._triton_into(x, list(kernel), list(stride), None, False, out)
    expected = max_pool3d_same_reference(x, list(kernel), list(stride))
    torch.testing.assert_close(out, expected, rtol=0, atol=0, equal_nan=True)
    assert_untouched(wide, around)


def triton_pool(x: Tensor, kernel: Triple, stride: Triple) -> Tensor:
    """Into a new clip."""
    out = pool_op._fake(x, list(kernel), list(stride))
    pool_op._triton_into(x, list(kernel), list(stride), None, False, out)
    return out


def check_pooled_conv(x: Tensor, out_channels: int, around: int = 16) -> None:
    """Twice, with the same bits."""
    generator = torch.Generator("cuda").manual_seed(1)
    weight = torch.randn(out_channels, x.shape[1], 1, 1, 1, generator=generator, device="cuda")
    weight /= x.shape[1] ** 0.5
    bias = torch.randn(out_channels, generator=generator, device="cuda")
    conv = PackedConv3d.pack(weight, bias, ONE, relu=True, dtype=x.dtype)
    results = []
    for _ in range(2):
        wide, out = slice_of((len(x), out_channels, *x.shape[2:]), x.dtype, around)
        pool_and_convolve(conv, x, out)
        assert_untouched(wide, around)
        results.append(out)
    assert torch.equal(*results)
    exact = F.conv3d(max_pool3d_same_reference(x, list(THREE), list(ONE)).float(), weight, bias)
    assert_close("conv3d", out, exact.relu(), scale=exact.abs().max().item())


@pytest.mark.parametrize("dtype", [torch.float32, *HALVES], ids=str)
@pytest.mark.parametrize("layer", POOLS, ids=str)
def test_every_pool_of_the_network(layer: Layer, dtype: torch.dtype) -> None:
    for batch in (1, 3, 8):
        check_pool(clip(batch, layer.in_channels, layer.in_size, dtype), layer.spec.kernel, layer.spec.stride)


@pytest.mark.parametrize("dtype", [torch.float32, *HALVES], ids=str)
@pytest.mark.parametrize("layer", POOLED, ids=str)
def test_every_pooled_convolution_of_the_network(layer: Layer, dtype: torch.dtype) -> None:
    for batch in (1, 3, 8):
        check_pooled_conv(clip(batch, layer.in_channels, layer.in_size, dtype), layer.out_channels)


@pytest.mark.parametrize("dtype", [torch.float32, *HALVES], ids=str)
@pytest.mark.parametrize("channels", [1, 5, 24, 130])
def test_odd_pools(channels: int, dtype: torch.dtype) -> None:
    x = clip(3, channels, (5, 9, 11), dtype)
    for kernel, stride in itertools.product((ONE, THREE, (5, 4, 7), (9, 8, 2)), (ONE, TWO, (2, 3, 1))):
        check_pool(x, kernel, stride)
        check_pool(x[1::2, :, ::2, 2:, 1::2], kernel, stride, around=3)


@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize("channels", [16, 24, 48, 96])
@pytest.mark.parametrize("out_channels", [8, 17, 32, 64, 128])
def test_odd_pooled_convolutions(out_channels: int, channels: int, dtype: torch.dtype) -> None:
    for size in (ONE, (3, 5, 7), (8, 20, 22)):
        check_pooled_conv(clip(3, channels, size, dtype), out_channels)
        check_pooled_conv(clip(3, channels + 5, size, dtype)[:, 3:-2], out_channels, around=3)


@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_nan_and_infinities(dtype: torch.dtype) -> None:
    x = clip(2, 16, (8, 9, 9), dtype)
    generator = torch.Generator("cuda").manual_seed(1)
    for value in (torch.nan, torch.inf, -torch.inf):
        x[torch.rand(x.shape, generator=generator, device="cuda") < 0.02] = value
    check_pool(x, THREE, TWO)
    weight = torch.ones(16, 16, 1, 1, 1, device="cuda")
    conv = PackedConv3d.pack(weight, weight[:, 0, 0, 0, 0], ONE, relu=False, dtype=dtype)
    y = torch.empty_like(x)
    pool_and_convolve(conv, x, y)
    exact = F.conv3d(max_pool3d_same_reference(x, list(THREE), list(ONE)).float(), weight)
    assert torch.equal(y.isnan(), exact.isnan())
    assert torch.equal(y.isinf(), exact.isinf())


def test_run_in_a_cuda_graph_on_another_stream() -> None:
    x = clip(1, 64, (8, 32, 32), torch.float16)
    weight = torch.randn(32, 64, 1, 1, 1, device="cuda")
    conv = PackedConv3d.pack(weight, weight[:, 0, 0, 0, 0].contiguous(), ONE, relu=True, dtype=x.dtype)

    def run() -> tuple[Tensor, Tensor]:
        pooled = triton_pool(x, THREE, TWO)
        out = torch.empty(1, 32, 8, 32, 32, dtype=x.dtype, device="cuda")
        out = out.to(memory_format=torch.channels_last_3d)
        pool_and_convolve(conv, x, out)
        return pooled, out

    run()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = run()
    x.copy_(clip(1, 64, (8, 32, 32), torch.float16, seed=5))
    graph.replay()
    for actual, expected in zip(captured, run(), strict=True):
        assert torch.equal(actual, expected)


def test_run_on_the_device_of_their_clip() -> None:
    if torch.cuda.device_count() < 2:
        pytest.skip("needs two GPUs")
    x = clip(1, 16, (4, 8, 8), torch.float16)
    expected = triton_pool(x, THREE, ONE)
    with torch.cuda.device(0):
        y = triton_pool(x.to("cuda:1"), THREE, ONE)
    assert y.device == torch.device("cuda:1")
    assert torch.equal(y.to("cuda:0"), expected)


def test_more_than_two_to_the_31_elements() -> None:
    if torch.cuda.mem_get_info()[0] < 12e9:
        pytest.skip("needs 12 GB of free GPU memory")
    x = clip(1, 64, (35, 1000, 1000), torch.float16)
    assert x.numel() > 2**31
    pooled = triton_pool(x, (1, 3, 3), ONE)
    for frame in (0, 17, 34):
        expected = max_pool3d_same_reference(x[:, :, frame : frame + 1], [1, 3, 3], [1, 1, 1])
        assert torch.equal(pooled[:, :, frame : frame + 1], expected)
