"""The max-pools against torch's, of a padded copy where the padding is SAME: equal to the bit."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tolerances import assert_close
from torch import Tensor

from fasti3d import network
from fasti3d.ops import max_pool3d, max_pool3d_same
from fasti3d.ops.max_pool3d_same import op
from fasti3d.ops.max_pool3d_same.op import max_pool3d_into
from fasti3d.ops.max_pool3d_same.reference import max_pool3d_reference, max_pool3d_same_reference
from fasti3d.ops.max_pool3d_same.window import pool_size
from fasti3d.reference import MaxPool3dSame
from fasti3d.runtime import extension

Triple = tuple[int, int, int]

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
# I3D's pools: those of the trunk and the one inside the Mixed blocks.
I3D_POOLS = sorted(
    {tuple(s) for s in network.TRUNK.values() if isinstance(s, network.Pool)} | {((3, 3, 3), (1, 1, 1))}
)
OTHER_POOLS = [
    ((1, 1, 1), (1, 1, 1)),
    ((2, 3, 1), (1, 1, 2)),
    ((5, 4, 3), (2, 3, 1)),
    ((1, 2, 1), (3, 5, 4)),  # steps that skip samples
    ((9, 9, 9), (1, 1, 1)),  # windows larger than the clip
    ((9, 1, 9), (20, 20, 20)),
]
# Kernel, stride and padding of torch.nn.MaxPool3d.
PADDED_POOLS = [
    ((1, 3, 3), (1, 2, 2), (0, 1, 1)),  # ResNets' stems
    ((1, 3, 3), (1, 2, 2), (0, 0, 0)),
    ((1, 3, 3), (2, 2, 2), (0, 1, 1)),  # skips frames
    ((2, 3, 3), (2, 2, 2), (0, 0, 0)),
    ((2, 1, 1), (2, 1, 1), (0, 0, 0)),
    ((1, 2, 2), (1, 2, 2), (0, 0, 0)),
    ((3, 3, 3), (3, 2, 5), (1, 1, 1)),
    ((4, 5, 7), (1, 3, 2), (2, 2, 3)),  # padding of half the kernel
]
SIZES = [(1, 1, 1), (1, 2, 7), (2, 1, 1), (5, 7, 1), (4, 6, 8), (7, 5, 9), (9, 13, 6)]
BATCHES = [(1, 16), (2, 5), (3, 33)]


def clip(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)
    return x.contiguous(memory_format=torch.channels_last_3d)


def assert_equal(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("kernel", "stride"), I3D_POOLS + OTHER_POOLS)
def test_equals_pad_and_pool(isa: str, kernel: Triple, stride: Triple, dtype: torch.dtype) -> None:
    for (batch, channels), size in zip(itertools.cycle(BATCHES), SIZES):
        x = clip(batch, channels, *size, dtype=dtype)
        y = max_pool3d_same(x, kernel, stride)
        assert_equal(y, MaxPool3dSame(kernel, stride)(x))
        assert y.is_contiguous(memory_format=torch.channels_last_3d)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("ceil_mode", [False, True])
def test_equals_torch_with_any_padding(isa: str, ceil_mode: bool, dtype: torch.dtype) -> None:
    """Into a slice of a wider clip too, which stays as it was around it."""
    for kernel, stride, padding in PADDED_POOLS:
        for batch, channels, *size in ((1, 16, 4, 7, 7), (2, 5, 5, 6, 9), (1, 33, 7, 8, 13)):
            x = clip(batch, channels, *size, dtype=dtype) - 3
            x[0, 0, 0, 0, 0] = torch.nan
            expected = F.max_pool3d(x, kernel, stride, padding, ceil_mode=ceil_mode)
            assert_equal(max_pool3d(x, kernel, stride, padding, ceil_mode), expected)
            assert_equal(max_pool3d_reference(x, kernel, stride, padding, ceil_mode), expected)
            assert pool_size(size, kernel, stride, padding, ceil_mode) == list(expected.shape[2:])
            wide = x.new_full((batch, channels + 7, *expected.shape[2:]), 7.0)
            wide = wide.contiguous(memory_format=torch.channels_last_3d)
            out = wide[:, 3:-4]
            assert max_pool3d_into(out, x, kernel, stride, padding, ceil_mode) is out
            assert_equal(out, expected)
            assert (wide[:, :3] == 7).all()
            assert (wide[:, -4:] == 7).all()


def test_one_number_is_for_all_axes_and_the_stride_defaults_to_the_kernel() -> None:
    x = clip(1, 3, 6, 7, 8)
    assert torch.equal(max_pool3d(x, 3, padding=1), F.max_pool3d(x, 3, padding=1))
    assert torch.equal(max_pool3d(x, 2, 1), F.max_pool3d(x, 2, 1))


def test_meta_tensors_only_give_shapes() -> None:
    x, out = torch.empty(1, 4, 5, 6, 7, device="meta"), torch.empty(1, 4, 5, 3, 4, device="meta")
    assert max_pool3d_into(out, x, (1, 3, 3), (1, 2, 2), (0, 1, 1)) is out


@pytest.mark.parametrize("dtype", DTYPES)
def test_special_values(isa: str, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(1)
    info = torch.finfo(dtype)
    for values in (
        [float("nan"), float("inf"), float("-inf"), 0.0, -0.0, info.max, info.min, info.tiny, -info.tiny],
        [float("-inf"), info.min, -1.0, -info.tiny, -info.smallest_normal / 2],  # nothing above zero
        [float("-inf")],
        [-float("nan"), float("nan"), -1.0],
        [0.0, -0.0],
    ):
        table = torch.tensor(values, dtype=dtype)
        x = table[torch.randint(len(values), (2, 19, 5, 6, 7), generator=generator)]
        x = x.contiguous(memory_format=torch.channels_last_3d)
        for kernel, stride in I3D_POOLS:
            assert_equal(max_pool3d_same(x, kernel, stride), MaxPool3dSame(kernel, stride)(x))


def test_negative_zeros_stay_negative(isa: str) -> None:
    y = max_pool3d_same(torch.full((1, 16, 3, 3, 3), -0.0), (3, 3, 3), (1, 1, 1))
    assert torch.signbit(y).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_layouts(isa: str, dtype: torch.dtype) -> None:
    wide = clip(2, 40, 7, 9, 11, dtype=dtype)
    layouts = {
        "channel slice": wide[:, 3:20],
        "one channel of many": wide[:, 5:6],
        "time and space slice": wide[:, :, 1:6, 2:, :9],
        "every other frame": wide[:, :, ::2],
        "contiguous": wide.contiguous(),
        "one row of pixels": wide[:, :, :, :1, :1],
        "repeated frame": wide[:, :, :1].expand(-1, -1, 5, -1, -1),
        "not aligned": torch.cat([wide.new_zeros(1), wide.contiguous().flatten()])[1:].view(wide.shape),
        "from NTHWC": wide.permute(0, 2, 3, 4, 1).contiguous().permute(0, 4, 1, 2, 3),
    }
    for name, x in layouts.items():
        for kernel, stride in I3D_POOLS:
            before = x.clone()
            y = max_pool3d_same(x, kernel, stride)
            assert torch.equal(y, MaxPool3dSame(kernel, stride)(x)), name
            assert torch.equal(x, before), name


@pytest.mark.skipif(extension.CORE is None, reason="the extension was not built")
def test_the_kernel_reads_channel_slices_without_a_copy() -> None:
    for x in (clip(2, 40, 5, 6, 7)[:, 3:20], clip(1, 7, 5, 6, 7)[:, 2:3]):
        y = torch.ops.fasti3d.max_pool3d_same(x, [3, 3, 3], [2, 2, 2])
        assert torch.equal(y, MaxPool3dSame((3, 3, 3), (2, 2, 2))(x))


def test_empty_clips() -> None:
    assert max_pool3d(torch.empty(0, 16, 5, 6, 7), 3, 2, 1).shape == (0, 16, 3, 3, 4)
    assert max_pool3d(torch.empty(2, 0, 5, 6, 7), 3, 2, 1).shape == (2, 0, 3, 3, 4)
    assert max_pool3d_same(torch.empty(0, 16, 5, 6, 7), (3, 3, 3), (2, 2, 2)).shape == (0, 16, 3, 3, 4)
    assert max_pool3d_same(torch.empty(2, 0, 5, 6, 7), (3, 3, 3), (2, 2, 2)).shape == (2, 0, 3, 3, 4)


def test_threads_do_not_change_the_result(set_threads: Any) -> None:
    x = clip(2, 64, 9, 28, 28)
    results = []
    for threads in (1, 2, 3):
        set_threads(threads)
        results.append(max_pool3d_same(x, (3, 3, 3), (1, 1, 1)))
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])


@pytest.mark.parametrize("dtype", DTYPES)
def test_reference_of_the_operator(dtype: torch.dtype) -> None:
    x = clip(2, 5, 4, 7, 6, dtype=dtype)
    for kernel, stride in I3D_POOLS + OTHER_POOLS:
        y = max_pool3d_same_reference(x, kernel, stride)
        assert_close("max_pool3d_same", y, max_pool3d_same(x, kernel, stride))
        assert y.stride() == max_pool3d_same(x, kernel, stride).stride()


@pytest.mark.parametrize(
    ("name", "size", "dtype", "requires_grad"),
    [
        ("max_pool3d_same", (2, 16, 4, 6, 5), torch.float32, False),
        ("max_pool3d_same", (1, 3, 1, 1, 1), torch.bfloat16, True),
        ("max_pool3d", (2, 16, 4, 6, 5), torch.float32, True),
        ("max_pool3d_", (2, 16, 4, 6, 5), torch.float16, False),
    ],
)
def test_opcheck(name: str, size: tuple[int, ...], dtype: torch.dtype, requires_grad: bool) -> None:
    x = clip(*size, dtype=dtype).requires_grad_(requires_grad)
    window: tuple[Any, ...] = ([3, 3, 3], [2, 2, 2])
    if name != "max_pool3d_same":
        window = (*window, [1, 1, 1], True)
    if name == "max_pool3d_":
        window = (*window, clip(2, 16, 3, 4, 3, dtype=dtype))
    torch.library.opcheck(getattr(torch.ops.fasti3d, name).default, (x, *window))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("kernel", "stride"), [*I3D_POOLS, ((5, 4, 3), (2, 3, 1)), ((1, 2, 1), (3, 5, 4))])
def test_gradients_equal_those_of_pad_and_pool(kernel: Triple, stride: Triple, dtype: torch.dtype) -> None:
    # Few different values, so that most windows hold ties.
    generator = torch.Generator().manual_seed(2)
    values = torch.randint(-2, 3, (2, 5, 5, 6, 7), generator=generator).to(dtype)
    for x in (values, values.contiguous(memory_format=torch.channels_last_3d), values - 5):
        ours, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
        y, expected = max_pool3d_same(ours, kernel, stride), MaxPool3dSame(kernel, stride)(theirs)
        grad = torch.randint(-3, 4, y.shape, generator=generator).to(dtype)  # sums stay exact
        y.backward(grad)
        expected.backward(grad)
        assert torch.equal(ours.grad, theirs.grad)


@pytest.mark.parametrize("ceil_mode", [False, True])
def test_gradients_equal_torchs_with_any_padding(ceil_mode: bool) -> None:
    generator = torch.Generator().manual_seed(2)
    x = torch.randint(-2, 3, (2, 5, 5, 6, 7), generator=generator).float()
    for kernel, stride, padding in PADDED_POOLS:
        ours, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
        y = max_pool3d(ours, kernel, stride, padding, ceil_mode)
        grad = torch.randint(-3, 4, y.shape, generator=generator).float()
        y.backward(grad)
        F.max_pool3d(theirs, kernel, stride, padding, ceil_mode=ceil_mode).backward(grad)
        assert torch.equal(ours.grad, theirs.grad)


def test_second_derivatives() -> None:
    x = clip(1, 3, 4, 5, 6).requires_grad_()
    gradients = []
    for pool in (lambda v: max_pool3d_same(v, (3, 3, 3), (2, 2, 2)), MaxPool3dSame((3, 3, 3), (2, 2, 2))):
        (first,) = torch.autograd.grad(pool(x).square().sum(), x, create_graph=True)
        gradients.append(torch.autograd.grad(first.square().sum(), x)[0])
    assert torch.equal(*gradients)


@pytest.mark.usefixtures("no_graphs")
def test_compiles_as_one_graph_of_any_sizes() -> None:
    def pools(v: Tensor) -> Tensor:
        return max_pool3d(
            max_pool3d_same(v * 2, (3, 3, 3), (2, 2, 2)), (1, 3, 3), (1, 2, 2), (0, 1, 1)
        ).relu()

    compiled = torch.compile(pools, fullgraph=True, dynamic=True, backend="aot_eager")
    for size in ((2, 5, 4, 6, 7), (3, 5, 6, 5, 9)):
        ours, theirs = clip(*size).requires_grad_(), clip(*size).requires_grad_()
        y = compiled(ours)
        expected = MaxPool3dSame((3, 3, 3), (2, 2, 2))(theirs * 2)
        expected = F.max_pool3d(expected, (1, 3, 3), (1, 2, 2), (0, 1, 1)).relu()
        assert torch.equal(y, expected)
        y.sum().backward()
        expected.sum().backward()
        assert torch.equal(ours.grad, theirs.grad)


@pytest.mark.usefixtures("no_graphs")
def test_compiles_with_inductor() -> None:
    x = clip(2, 16, 4, 6, 7)
    compiled = torch.compile(lambda v: max_pool3d_same(v, (1, 3, 3), (1, 2, 2)), fullgraph=True)
    assert torch.equal(compiled(x), MaxPool3dSame((1, 3, 3), (1, 2, 2))(x))


def test_exports() -> None:
    class Pool(torch.nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return max_pool3d_same(x, (3, 3, 3), (2, 2, 2))

    x = clip(1, 4, 5, 6, 7)
    program = torch.export.export(Pool(), (x,))
    assert "fasti3d.max_pool3d_same" in str(program.graph)
    assert torch.equal(program.module()(x), Pool()(x))


def test_gpus_have_a_kernel_which_leaves_to_the_reference_what_it_does_not_serve() -> None:
    assert torch._C._dispatch_has_kernel_for_dispatch_key("fasti3d::max_pool3d_", "CUDA")
    x = clip(2, 4, 5, 6, 7)  # not on a GPU, and so not served
    expected = max_pool3d_same_reference(x, [3, 3, 3], [2, 2, 2])
    out = torch.full_like(expected, torch.nan)
    op._triton_into(x, [3, 3, 3], [2, 2, 2], None, False, out)
    assert torch.equal(out, expected)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((torch.zeros(3, 4, 5, 6), (3, 3, 3), (1, 1, 1)), r"x must be \(N, C, T, H, W\).*\(3, 4, 5, 6\)"),
        ((torch.zeros(1, 2, 3, 4, 5, dtype=torch.float64), (3, 3, 3), (1, 1, 1)), "x must be .*float64"),
        ((torch.zeros(1, 2, 3, 4, 5, dtype=torch.int32), (3, 3, 3), (1, 1, 1)), "x must be .*int32"),
        ((torch.zeros(1, 2, 3, 4, 5), (3, 3), (1, 1, 1)), r"kernel must be .*\(3, 3\)"),
        ((torch.zeros(1, 2, 3, 4, 5), (3, 0, 3), (1, 1, 1)), r"kernel must be .*\(3, 0, 3\)"),
        ((torch.zeros(1, 2, 3, 4, 5), (3, 3, 3), (1, 1, -1)), r"stride must be .*\(1, 1, -1\)"),
        ((torch.zeros(1, 2, 3, 4, 5), (3, 3, 3), (2,)), r"stride must be .*\(2,\)"),
    ],
)
def test_errors_name_the_argument_and_its_value(arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        max_pool3d_same(*arguments)


@pytest.mark.parametrize(
    ("window", "message"),
    [
        (
            {"kernel": 3, "padding": 2},
            r"padding must be at most half the kernel of \(3, 3, 3\), got \(2, 2, 2\)",
        ),
        ({"kernel": (1, 3, 3), "padding": 1}, "padding must be at most half the kernel"),
        ({"kernel": 3, "padding": -1}, r"padding must be .*\(-1, -1, -1\)"),
        ({"kernel": 3, "padding": (1, 1)}, r"padding must be .*\(1, 1\)"),
        (
            {"kernel": 4},
            r"x of \(T, H, W\) \(3, 4, 5\) with padding \(0, 0, 0\) must fill the kernel of \(4, 4, 4\)",
        ),
        ({"kernel": 2.0}, "kernel must be .*2.0"),
        ({"kernel": 3, "stride": 0}, r"stride must be .*\(0, 0, 0\)"),
    ],
)
def test_errors_of_windows_that_do_not_fit(window: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        max_pool3d(torch.zeros(1, 2, 3, 4, 5), **window)


def test_clips_without_pixels_are_refused_as_in_torch() -> None:
    for size in ((0, 4, 5), (3, 0, 5), (3, 4, 0)):
        with pytest.raises(ValueError, match=r"x must have frames, rows and columns, got .*"):
            max_pool3d(torch.zeros(1, 2, *size), 2, padding=1)


@pytest.mark.skipif(extension.CORE is None, reason="the extension was not built")
def test_the_kernel_refuses_what_it_cannot_read() -> None:
    window: tuple[Any, ...] = ([3, 3, 3], [1, 1, 1], None, False)
    x = torch.zeros(1, 2, 3, 4, 5)
    with pytest.raises(RuntimeError, match=r"x must be channels-last .*channel stride 60"):
        torch.ops.fasti3d.max_pool3d_(x, *window, torch.empty_like(x))
    with pytest.raises(RuntimeError, match="x must be float32, bfloat16 or float16"):
        torch.ops.fasti3d.max_pool3d_(x[:, :1].int(), *window, x[:, 1:])
    with pytest.raises(RuntimeError, match=r"kernel must .*got 0"):
        torch.ops.fasti3d.max_pool3d_(x[:, :1], [0, 3, 3], *window[1:], x[:, 1:])
