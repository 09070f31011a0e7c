"""What is added to a convolution before its ReLU, in every form, against F.conv3d in float64."""

from __future__ import annotations

import itertools
from typing import NamedTuple

import pytest
import torch
import torch.nn.functional as F
from tolerances import assert_close
from torch import Tensor

from fasti3d.ops import conv3d_bn_relu
from fasti3d.ops.conv3d_bn_relu import PackedConv3d
from fasti3d.ops.conv3d_bn_relu import packed as packed_module
from fasti3d.runtime.route import compute_dtype
from fasti3d.same_padding import pad_same

Triple = tuple[int, int, int]

OPERATOR = torch.ops.fasti3d.conv3d_bn_relu.default
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
LAST = torch.channels_last_3d
ONE = (1, 1, 1)
NAN, INF = float("nan"), float("inf")


class Layer(NamedTuple):
    """A convolution's channels, kernel, stride and padding (None is SAME)."""

    channels: tuple[int, int]
    kernel: Triple
    stride: Triple = ONE
    padding: Triple | None = None


LAYERS = {
    "direct": Layer((16, 37), ONE),
    "direct, padded": Layer((17, 16), (1, 2, 3), (1, 2, 2), (1, 0, 2)),
    "direct, few channels": Layer((3, 17), (2, 3, 3), ONE, (0, 1, 1)),
    "winograd": Layer((24, 33), (3, 3, 3)),
    "winograd, one pixel": Layer((16, 17), (3, 1, 1), ONE, (1, 0, 0)),
    "winograd, few channels": Layer((3, 17), (5, 7, 7), (2, 2, 2), (2, 3, 3)),
    "winograd, by rows": Layer((24, 17), (1, 3, 3), ONE, (0, 1, 1)),
}


def random(*shape: int, seed: int = 0) -> Tensor:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    return x.contiguous(memory_format=LAST) if len(shape) == 5 else x


def clip_and_weights(layer: Layer, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor]:
    """A clip, and a weight and a bias that ``dtype`` has, as oneDNN takes no others."""
    (inputs, outputs), kernel = layer.channels, layer.kernel
    weight = random(outputs, inputs, *kernel, seed=1) / (inputs * kernel[0] * kernel[1] * kernel[2]) ** 0.5
    return (
        random(2, inputs, 6, 9, 8).to(dtype),
        weight.to(dtype).float(),
        random(outputs, seed=2).to(dtype).float(),
    )


def exact(layer: Layer, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """The convolution in float64."""
    padded = pad_same(x.double(), layer.kernel, layer.stride) if layer.padding is None else x.double()
    return F.conv3d(padded, weight.double(), bias.double(), layer.stride, layer.padding or 0)


def convolve(layer: Layer, x: Tensor, weight: Tensor, bias: Tensor, relu: bool, **options: object) -> Tensor:
    return conv3d_bn_relu(x, weight, bias, layer.stride, relu, padding=layer.padding or "same", **options)


def pack(layer: Layer, weight: Tensor, bias: Tensor, dtype: torch.dtype = torch.float32) -> PackedConv3d:
    return PackedConv3d.pack(weight, bias, layer.stride, relu=True, dtype=dtype, padding=layer.padding)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", LAYERS)
def test_every_form_adds_it_from_any_layout(isa: str, name: str, dtype: torch.dtype) -> None:
    layer = LAYERS[name]
    arguments = clip_and_weights(layer, dtype)
    convolved = exact(layer, *arguments)
    channels = convolved.shape[1]
    wide = random(2, channels + 7, *convolved.shape[2:], seed=3).to(dtype)
    inside = wide[:, 4 : 4 + channels]
    layouts = (inside, inside.contiguous(), inside[:, :, :1, :, 1:2].expand(convolved.shape))
    for residual, relu in itertools.product(layouts, (True, False)):
        before = residual.clone()
        y = convolve(layer, *arguments, relu, residual=residual)
        expected = convolved + residual.double()
        assert_close("conv3d", y, expected.relu() if relu else expected, scale=expected.abs().max().item())
        assert torch.equal(residual, before)
    around = wide.clone()
    assert convolve(layer, *arguments, False, residual=inside, out=inside) is inside
    around[:, 4 : 4 + channels] = convolve(
        layer, *arguments, False, residual=around[:, 4 : 4 + channels].clone()
    )
    assert torch.equal(wide, around)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_sum_is_rounded_once(isa: str, dtype: torch.dtype) -> None:
    """Of a convolution that a residual all but cancels nothing would be left if it were rounded first."""
    layer = LAYERS["direct"]
    arguments = clip_and_weights(layer, dtype)
    convolved = exact(layer, *arguments)
    residual = (0.01 * random(*convolved.shape, seed=3) - convolved).to(dtype).contiguous(memory_format=LAST)
    difference = convolved + residual.double()
    scale = difference.abs().max().item()
    for y in (
        convolve(layer, *arguments, False, residual=residual),
        OPERATOR(*arguments, ONE, None, False, residual),
    ):
        assert_close("conv3d", y, difference, scale=scale)


@pytest.mark.parametrize("value", [NAN, INF, -INF])
@pytest.mark.parametrize("name", ["direct", "winograd", "winograd, by rows"])
def test_its_values_that_are_not_finite_reach_their_own_outputs(isa: str, name: str, value: float) -> None:
    """The others are those without it to the bit: it does not make the direct form run instead."""
    layer = LAYERS[name]
    x, weight, bias = clip_and_weights(layer)
    residual = torch.zeros(exact(layer, x, weight, bias).shape).contiguous(memory_format=LAST)
    clean = convolve(layer, x, weight, bias, False)
    residual[1, 0, 4, 4, 4] = value  # the first of its tile, which tells of a spread
    expected = clean + residual
    for out in (None, residual):
        y = convolve(layer, x, weight, bias, False, residual=residual, out=out)
        torch.testing.assert_close(y, expected, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("name", ["direct", "winograd", "winograd, by rows"])
@pytest.mark.parametrize("in_place", [False, True])
def test_it_does_not_hide_that_others_spread(isa: str, name: str, in_place: bool) -> None:
    layer = LAYERS[name]
    x, weight, bias = clip_and_weights(layer)
    x[0, 1, 1, 5, 2] = NAN
    convolved = exact(layer, x, weight, bias)
    residual = random(*convolved.shape, seed=3)
    residual[:, 0, ::4, ::4] = INF
    expected = (convolved + residual.double()).relu()
    y = convolve(layer, x, weight, bias, True, residual=residual, out=residual if in_place else None)
    assert torch.equal(y.isnan(), expected.isnan())
    assert torch.equal(y.isinf(), expected.isinf())
    finite = expected.isfinite()
    assert_close("conv3d", y[finite], expected[finite])


@pytest.mark.parametrize("name", LAYERS)
def test_packed_convolutions_take_it_for_their_frames(isa: str, name: str) -> None:
    layer = LAYERS[name]
    x, weight, bias = clip_and_weights(layer)
    shape = exact(layer, x, weight, bias).shape
    residual = random(*shape, seed=3)
    packed = pack(layer, weight, bias)
    expected = (exact(layer, x, weight, bias) + residual).relu()[:, :, 1:3]
    wide = random(2, shape[1] + 5, *shape[2:], seed=4)
    out = wide[:, 3 : 3 + shape[1], 1:3]
    piece = packed(x, out, 1, residual[:, :, 1:3]).clone()
    assert_close("conv3d", piece, expected)
    packed(x, out.copy_(residual[:, :, 1:3]), 1, out)
    assert torch.equal(out, piece)


@pytest.mark.parametrize("name", LAYERS)
def test_it_shares_memory_with_the_result_as_a_whole_or_not_at_all(isa: str, name: str) -> None:
    layer = LAYERS[name]
    x, weight, bias = clip_and_weights(layer)
    shape = exact(layer, x, weight, bias).shape
    n, channels, t, h, w = shape
    wide = random(n + 1, channels + 1, t + 1, h, w)
    packed = pack(layer, weight, bias)
    out = wide[:n, :channels, :t]
    for residual in (
        wide[1:, :channels, :t],
        wide[:n, 1:, :t],
        wide[:n, :channels, 1:],
        out[:, :, :1].expand(shape),
    ):
        for call in (
            lambda residual=residual: packed(x, out, residual=residual),
            lambda residual=residual: convolve(layer, x, weight, bias, True, out=out, residual=residual),
        ):
            with pytest.raises(
                (ValueError, RuntimeError), match="elements of residual and out refer to a single"
            ):
                call()
    # Interleaved, but apart.
    pairs = random(n, channels, 2 * t, h, w)
    y = packed(x, pairs[:, :, ::2], residual=pairs[:, :, 1::2])
    assert torch.equal(y, packed(x, residual=pairs[:, :, 1::2].clone()))


def test_the_clip_may_be_its_own_residual(isa: str) -> None:
    layer = Layer((17, 17), (3, 3, 3))
    x, weight, bias = clip_and_weights(layer)
    assert_close(
        "conv3d",
        convolve(layer, x, weight, bias, True, residual=x),
        (exact(layer, x, weight, bias) + x).relu(),
    )


@pytest.mark.parametrize("relu", [True, False])
@pytest.mark.parametrize("operator", [True, False])
def test_gradients(operator: bool, relu: bool) -> None:
    layer = LAYERS["direct, few channels"]
    arguments = clip_and_weights(layer)
    tensors = [*arguments, random(*exact(layer, *arguments).shape, seed=3)]
    ours = [t.clone().requires_grad_() for t in tensors]
    theirs = [t.double().requires_grad_() for t in tensors]
    if operator:
        y = OPERATOR(*ours[:3], layer.stride, layer.padding, relu, ours[3])
    else:
        y = convolve(layer, *ours[:3], relu, residual=ours[3])
    total = exact(layer, *theirs[:3]) + theirs[3]
    expected = total.relu() if relu else total
    assert_close("conv3d", y.detach(), expected.detach())
    grad = random(*y.shape, seed=4)
    grad[total.abs() < 1e-5] = 0  # where rounding decides on which side of zero a value is
    y.backward(grad)
    expected.backward(grad.double())
    for mine, other in zip(ours, theirs, strict=True):
        assert_close("conv3d_gradient", mine.grad, other.grad)


def test_a_residual_alone_may_need_gradients() -> None:
    layer = LAYERS["direct"]
    arguments = clip_and_weights(layer, torch.bfloat16)
    shape = exact(layer, *arguments).shape
    for call in (
        lambda r: convolve(layer, *arguments, True, residual=r),
        lambda r: OPERATOR(*arguments, ONE, None, True, r),
    ):
        residual = random(*shape, seed=3).bfloat16().requires_grad_()
        y = call(residual)
        y.sum().backward()
        assert torch.equal(residual.grad, (y > 0).to(residual.dtype))
    with pytest.raises(ValueError, match="out cannot be given where gradients are needed"):
        convolve(layer, *arguments, True, residual=residual, out=torch.empty_like(y))


def test_operator_contract() -> None:
    layer = LAYERS["direct, few channels"]
    arguments = clip_and_weights(layer)
    residual = random(*exact(layer, *arguments).shape, seed=3)
    tensors = [t.requires_grad_() for t in (*arguments, residual)]
    torch.library.opcheck(OPERATOR, (*tensors[:3], layer.stride, layer.padding, True, tensors[3]))


@pytest.mark.usefixtures("no_graphs")
@pytest.mark.parametrize("dtype", DTYPES)
def test_compiled_and_mapped(dtype: torch.dtype) -> None:
    layer = LAYERS["winograd"]
    x, weight, bias = clip_and_weights(layer, dtype)
    residual = random(*exact(layer, x, weight, bias).shape, seed=3).to(dtype).contiguous()

    def call(x: Tensor, residual: Tensor) -> tuple[Tensor, Tensor]:
        out = (2 * residual).contiguous(memory_format=LAST)
        return convolve(layer, x, weight, bias, True, residual=residual), convolve(
            layer, x, weight, bias, True, residual=out, out=out
        )

    with torch.no_grad():
        for y, expected in zip(
            torch.compile(call, fullgraph=True, backend="aot_eager")(x, residual),
            call(x, residual),
            strict=True,
        ):
            assert torch.equal(y, expected)
        mapped = torch.vmap(lambda r: convolve(layer, x, weight, bias, True, residual=r))
        both = mapped(torch.stack([residual, -residual]))
        for y, r in zip(both, (residual, -residual), strict=True):
            expected = convolve(layer, x, weight, bias, True, residual=r)
            assert_close("conv3d", y, expected.double(), scale=expected.abs().max().item())


def test_errors_name_it_and_what_it_was() -> None:
    x, weight, bias = clip_and_weights(Layer((3, 8), (3, 3, 3)))
    good = torch.zeros(2, 8, 6, 9, 8)
    for residual, message in (
        (good[:, :, :5], r"residual must be torch.float32 .*\(2, 8, 6, 9, 8\), got .*\(2, 8, 5, 9, 8\)"),
        (good[:1], r"residual must be .*got .*\(1, 8, 6, 9, 8\)"),
        (good[0], r"residual must be .*got .*\(8, 6, 9, 8\)"),
        (good.half(), "residual must be torch.float32 .*got torch.float16"),
        (good.to("meta"), "residual is on meta, but x on cpu"),
    ):
        with pytest.raises(ValueError, match=message):
            conv3d_bn_relu(x, weight, bias, residual=residual)
        with pytest.raises((RuntimeError, ValueError), match=message):  # of the kernel, of shapes for tracing
            OPERATOR(x, weight, bias, [1, 1, 1], None, True, residual)


def test_frames_computed_in_the_dtype_of_the_route(isa: str) -> None:
    """A packed convolution takes what it computes in, as its clip."""
    dtype = compute_dtype(torch.device("cpu"), torch.bfloat16)
    layer = LAYERS["winograd"]
    x, weight, bias = clip_and_weights(layer, torch.bfloat16)
    residual = random(*exact(layer, x, weight, bias).shape, seed=3).bfloat16()
    packed = pack(layer, weight, bias, dtype)
    y = packed(x.to(dtype), residual=residual.to(dtype))
    expected = (exact(layer, x, weight, bias) + residual.double()).relu()
    assert_close("conv3d", y.bfloat16(), expected, scale=expected.abs().max().item())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "layer", [LAYERS["direct"], LAYERS["winograd"], Layer((16, 17), (3, 3, 3), (1, 2, 9), (1, 0, 1))]
)
def test_torch_s_own_convolution_adds_it_where_there_is_no_kernel(
    monkeypatch: pytest.MonkeyPatch, layer: Layer, dtype: torch.dtype
) -> None:
    monkeypatch.setattr(packed_module, "has_kernel", lambda *_, **__: False)
    arguments = clip_and_weights(layer, dtype)
    convolved = exact(layer, *arguments)
    residual = (0.01 * random(*convolved.shape, seed=3) - convolved).to(dtype).contiguous(memory_format=LAST)
    expected = (convolved + residual.double()).relu()
    packed = pack(layer, *arguments[1:], dtype)
    assert not packed.fused
    # In half precision one rounding, of the sum.
    limit = {"scale": (convolved if dtype == torch.float32 else expected).abs().max().item()}
    assert_close("conv3d", packed(arguments[0], residual=residual), expected, **limit)
    out = residual[:, :, 1:3].clone(memory_format=torch.preserve_format)
    assert packed(arguments[0], out, 1, out) is out
    assert_close("conv3d", out, expected[:, :, 1:3], **limit)
