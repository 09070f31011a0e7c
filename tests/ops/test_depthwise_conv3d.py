"""depthwise_conv3d against torch's grouped conv3d in float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tolerances import assert_close
from torch import Tensor

from fasti3d.ops import depthwise_conv3d
from fasti3d.ops.depthwise_conv3d import DepthwiseConv3d, has_depthwise_kernel
from fasti3d.ops.depthwise_conv3d.reference import depthwise_conv3d_reference
from fasti3d.runtime import extension

Triple = tuple[int, int, int]

ONE, TWO, THREE = (1, 1, 1), (2, 2, 2), (3, 3, 3)
# Kernel, stride and padding, None for SAME: of X3D and CSN, and odd ones.
WINDOWS = [
    (THREE, ONE, ONE),
    (THREE, (1, 2, 2), ONE),
    (THREE, TWO, ONE),
    (THREE, TWO, None),
    ((5, 1, 1), ONE, (2, 0, 0)),
    ((1, 3, 3), ONE, (0, 1, 1)),
    ((1, 3, 3), (1, 2, 2), (0, 1, 1)),
    (ONE, (1, 2, 2), (0, 0, 0)),
    ((2, 5, 4), (3, 1, 3), (0, 3, 1)),
    ((3, 2, 3), (1, 5, 1), (4, 4, 4)),  # steps over rows, windows of padding alone
]
LAST = torch.channels_last_3d


def arguments(
    channels: int, kernel: Triple, size: Triple, dtype: torch.dtype = torch.float32, batch: int = 2
) -> tuple[Tensor, Tensor, Tensor]:
    """A channels-last clip, weights and a bias."""
    generator = torch.Generator().manual_seed(0)
    x, weight, bias = (
        torch.randn(shape, generator=generator)
        for shape in ((batch, channels, *size), (channels, 1, *kernel), (channels,))
    )
    return x.to(dtype).contiguous(memory_format=LAST), weight, bias


def check(y: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None, *rest: Any) -> None:
    *geometry, relu = rest
    exact = depthwise_conv3d_reference(x.double(), weight, bias, *geometry, False)
    scale = exact.abs().max().item()
    assert_close("depthwise_conv3d", y, exact.relu() if relu else exact, scale=scale)
    assert y.is_contiguous(memory_format=LAST)


@pytest.mark.parametrize(("kernel", "stride", "padding"), WINDOWS)
def test_windows(isa: str, kernel: Triple, stride: Triple, padding: Triple | None) -> None:
    """Rows of every remainder of a block of columns; whole vectors of channels, parts, and fewer than one."""
    sizes = [(4, 7, 11), (3, 3, 4), (5, 4, 30), (2, 9, 17)]
    for i, (channels, size) in enumerate(zip((16, 3, 54, 7), sizes, strict=True)):
        x, weight, bias = arguments(channels, kernel, size)
        y = depthwise_conv3d(x, weight, bias, stride, padding or "same", i % 2 == 0)
        check(y, x, weight, bias, stride, padding, i % 2 == 0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_rounded_once(isa: str, dtype: torch.dtype) -> None:
    for channels in (5, 24, 70):
        x, weight, bias = arguments(channels, THREE, (4, 6, 13), dtype)
        check(depthwise_conv3d(x, weight, bias, ONE, ONE), x, weight, bias, ONE, ONE, True)
        y = depthwise_conv3d(x, weight.to(dtype), None, (1, 2, 2), ONE, False)
        check(y, x, weight.to(dtype), None, (1, 2, 2), ONE, False)


def test_values_that_are_not_finite_reach_their_windows_alone(isa: str) -> None:
    for dtype in (torch.float32, torch.bfloat16):
        for channels in (7, 54):
            x, weight, _ = arguments(channels, THREE, (4, 5, 13), dtype)
            x[0, 3, 1, 2, 9], x[1, 5, 3, 4, 12], x[1, 0, 0, 0, 0] = torch.nan, torch.inf, -torch.inf
            y = depthwise_conv3d(x, weight, None, ONE, ONE)
            expected = depthwise_conv3d_reference(x, weight, None, ONE, ONE, True)
            assert torch.equal(y.isnan(), expected.isnan())
            assert torch.equal(y.isinf(), expected.isinf())
            assert y.isnan().any()


def test_the_result_depends_neither_on_layout_nor_on_threads(isa: str, set_threads: Callable) -> None:
    """The frames are many and large enough for several bands."""
    x, weight, bias = arguments(64, THREE, (5, 41, 60))
    expected = depthwise_conv3d(x, weight, bias, ONE, ONE)
    check(expected, x, weight, bias, ONE, ONE, True)
    packed = DepthwiseConv3d.pack(weight, bias, ONE, relu=True, dtype=x.dtype, padding=ONE)
    wide = torch.full((2, 80, 5, 41, 60), torch.nan).contiguous(memory_format=LAST)
    wide[:, 9:73] = x
    for threads in (1, 2, 3):
        set_threads(threads)
        assert torch.equal(packed(wide[:, 9:73]), expected)
    assert torch.equal(depthwise_conv3d(x.contiguous(), weight, bias, ONE, ONE), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_some_frames_into_a_slice(isa: str, dtype: torch.dtype) -> None:
    for channels, (kernel, stride, padding) in ((54, WINDOWS[0]), (16, WINDOWS[3]), (5, WINDOWS[4])):
        x, weight, bias = arguments(channels, kernel, (7, 5, 9), dtype)
        conv = DepthwiseConv3d.pack(weight, bias, stride, relu=True, dtype=dtype, padding=padding)
        whole = conv(x)
        for start in (0, 1, whole.shape[2] - 2):
            wide = torch.full((2, channels + 7, 2, *whole.shape[3:]), 7.0, dtype=dtype)
            wide = wide.contiguous(memory_format=LAST)
            out = wide[:, 3:-4]
            assert conv(x, out, start) is out
            assert torch.equal(out, whole[:, :, start : start + 2])
            assert (wide[:, :3] == 7).all()
            assert (wide[:, -4:] == 7).all()


def test_packed() -> None:
    x, weight, bias = arguments(24, (5, 1, 1), (5, 4, 6))
    conv = DepthwiseConv3d.pack(weight, bias, ONE, relu=False, dtype=x.dtype, padding=(2, 0, 0))
    assert (conv.out_channels, conv.kernel, conv.stride) == (24, (5, 1, 1), ONE)
    assert (conv.padding, conv.relu, conv.nbytes) == ((2, 0, 0), False, 4 * 6 * 24)
    assert conv(x[:0]).shape == (0, 24, 5, 4, 6)
    assert conv(x.to("meta")).shape == (2, 24, 5, 4, 6)


@pytest.mark.skipif(extension.CORE is None, reason="the extension was not built")
def test_what_the_kernel_is_for() -> None:
    cpu, f32 = torch.device("cpu"), torch.float32
    depthwise = torch.empty(24, 1, 3, 3, 3)
    assert has_depthwise_kernel(depthwise, 24, ONE, ONE, f32, cpu)
    assert has_depthwise_kernel(depthwise, 24, ONE, ONE, torch.bfloat16, cpu)
    assert not has_depthwise_kernel(depthwise, 24, ONE, (1, 2, 1), f32, cpu)
    assert not has_depthwise_kernel(depthwise, 24, ONE, ONE, torch.float64, cpu)
    assert not has_depthwise_kernel(depthwise, 24, ONE, ONE, f32, torch.device("cuda"))
    assert not has_depthwise_kernel(torch.empty(48, 1, 3, 3, 3), 24, ONE, ONE, f32, cpu)
    assert not has_depthwise_kernel(torch.empty(24, 2, 3, 3, 3), 12, ONE, ONE, f32, cpu)
    assert not has_depthwise_kernel(torch.empty(8, 1, 3, 3, 3), 8, ONE, ONE, f32, cpu)
    assert not has_depthwise_kernel(depthwise, 24, (2, 2, 2), ONE, f32, cpu)


@pytest.mark.parametrize("padding", [ONE, None])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_gradients(padding: Triple | None, dtype: torch.dtype) -> None:
    leaves = [t.requires_grad_() for t in arguments(5, THREE, (4, 5, 6), dtype)]
    y = depthwise_conv3d(*leaves, (1, 2, 2), padding or "same")
    expected = depthwise_conv3d_reference(*leaves, (1, 2, 2), padding, True)
    grad = torch.randn(y.shape, generator=torch.Generator().manual_seed(1)).to(dtype)
    for ours, theirs in zip(
        torch.autograd.grad(y, leaves, grad), torch.autograd.grad(expected, leaves, grad), strict=True
    ):
        assert ours.dtype == theirs.dtype
        torch.testing.assert_close(ours, theirs, rtol=2e-3, atol=2e-3 if dtype == torch.float16 else 1e-5)


def test_opcheck() -> None:
    x, weight, bias = arguments(16, THREE, (3, 4, 5))
    for each in (x, weight, bias):
        each.requires_grad_()
    operators = torch.ops.fasti3d
    torch.library.opcheck(operators.depthwise_conv3d.default, (x, weight, bias, [1, 2, 2], [1, 1, 1], True))
    packed, x, bias = weight.detach().flatten(1).t().contiguous(), x.detach(), bias.detach()
    geometry = ([3, 3, 3], [1, 1, 1], None, True, torch.zeros_like(x), 0)
    torch.library.opcheck(operators.depthwise_conv3d_.default, (x, packed, bias, *geometry))


@pytest.mark.usefixtures("no_graphs")
def test_compiles_and_exports_as_one_operator() -> None:
    x, weight, bias = arguments(16, THREE, (3, 4, 5))

    class Layer(torch.nn.Module):
        def forward(self, v: Tensor) -> Tensor:
            return depthwise_conv3d(v, weight, bias, (1, 2, 2), ONE)

    expected = Layer()(x)
    assert torch.equal(torch.compile(Layer(), fullgraph=True, backend="aot_eager")(x), expected)
    program = torch.export.export(Layer(), (x,))
    assert "fasti3d.depthwise_conv3d" in str(program.graph)
    assert torch.equal(program.module()(x), expected)


def test_transforms_of_torch_func_see_ordinary_pytorch() -> None:
    x, weight, bias = arguments(4, THREE, (3, 4, 5))
    clips = torch.func.vmap(lambda v: depthwise_conv3d(v[None], weight, bias, ONE, ONE)[0])(x)
    torch.testing.assert_close(clips, F.relu(F.conv3d(x, weight, bias, padding=1, groups=4)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": torch.zeros(16, 4, 5, 6)}, r"x must be \(N, C, T, H, W\)"),
        ({"x": torch.zeros(1, 16, 4, 5, 6).double()}, "x must be float32.*float64"),
        ({"x": torch.zeros(1, 16, 0, 5, 6)}, "x must have frames"),
        ({"x": torch.zeros(1, 8, 4, 5, 6)}, r"weight must be \(8, 1, kt, kh, kw\), one filter per channel"),
        ({"weight": torch.zeros(16, 2, 3, 3, 3)}, r"weight must be .*\(16, 2, 3, 3, 3\)"),
        ({"weight": torch.zeros(16, 1, 3, 3, 3).half()}, "weight must be torch.float32, like x.*float16"),
        ({"bias": torch.zeros(8)}, r"bias must have shape \(16,\), got \(8,\)"),
        ({"stride": (1, 0, 1)}, "stride must be .*0"),
        ({"padding": (1, -1, 1)}, 'padding must be "same" or 3 whole numbers'),
        ({"padding": "valid"}, 'padding must be "same" or'),
        ({"padding": (0, 0, 0), "x": torch.zeros(1, 16, 2, 5, 6)}, "must fill the kernel"),
    ],
)
def test_errors_name_the_argument_and_its_value(change: dict[str, Any], message: str) -> None:
    given: dict[str, Any] = {"x": torch.zeros(1, 16, 4, 5, 6), "weight": torch.zeros(16, 1, 3, 3, 3)}
    with pytest.raises(ValueError, match=message):
        depthwise_conv3d(**(given | change))
