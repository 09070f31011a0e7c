"""conv3d_bn_relu and packed convolutions against F.conv3d in float64."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import pytest
import torch
import torch.nn.functional as F
from tolerances import assert_close
from torch import Tensor

from fasti3d.ops import conv3d_bn_relu
from fasti3d.ops.conv3d_bn_relu import PackedConv3d
from fasti3d.ops.conv3d_bn_relu.geometry import Geometry
from fasti3d.ops.conv3d_bn_relu.packed import WinogradConv3d
from fasti3d.runtime import extension
from fasti3d.same_padding import pad_same

Triple = tuple[int, int, int]

# float16 runs on float32's kernels: the random problems have it.
DTYPES = [torch.float32, torch.bfloat16]
IN_CHANNELS = [1, 2, 3, 5, 15, 16, 17, 24, 48, 64]
OUT_CHANNELS = [1, 8, 16, 17, 24, 40, 64]
SENTINEL = 12345.0


class Case(NamedTuple):
    x: Tensor
    weight: Tensor
    bias: Tensor | None
    stride: Triple
    relu: bool


def make_case(
    batch: int,
    in_channels: int,
    out_channels: int,
    size: Triple,
    kernel: Triple,
    stride: Triple = (1, 1, 1),
    *,
    bias: bool = True,
    relu: bool = True,
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
) -> Case:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(batch, in_channels, *size, generator=generator).to(dtype)
    weight = torch.randn(out_channels, in_channels, *kernel, generator=generator)
    weight /= weight[0].numel() ** 0.5
    b = torch.randn(out_channels, generator=generator) if bias else None
    return Case(x.contiguous(memory_format=torch.channels_last_3d), weight, b, stride, relu)


def exact(case: Case) -> tuple[Tensor, float]:
    """The result in float64, and its largest magnitude before the ReLU."""
    padded = pad_same(case.x.double(), case.weight.shape[2:], case.stride)
    y = F.conv3d(padded, case.weight.double(), None if case.bias is None else case.bias.double(), case.stride)
    return F.relu(y) if case.relu else y, y.abs().max().item()


def check(case: Case) -> None:
    y = conv3d_bn_relu(*case)
    assert y.dtype == case.x.dtype
    expected, scale = exact(case)
    assert_close("conv3d", y, expected, scale=scale)


def random_case(seed: int) -> Case:
    pick = random.Random(seed)
    kernel = pick.choice([(1, 1, 1), (3, 3, 3), (3, 3, 3), tuple(pick.choices((1, 2, 3, 4, 5, 6, 7), k=3))])
    stride = pick.choice([(1, 1, 1), (1, 1, 1), (2, 2, 2), tuple(pick.choices((1, 2), k=3))])
    large = kernel[0] * kernel[1] * kernel[2] > 100
    return make_case(
        pick.randint(1, 3),
        pick.choice(IN_CHANNELS),
        pick.choice(OUT_CHANNELS),
        tuple(pick.randint(1, 6 if large else 11) for _ in range(3)),
        kernel,
        stride,
        bias=pick.random() < 0.7,
        relu=pick.random() < 0.5,
        dtype=pick.choice([torch.float32, torch.float32, torch.bfloat16, torch.float16]),
        seed=seed,
    )


def test_random_problems(isa: str) -> None:
    for seed in range(1000, 1040):
        check(random_case(seed))
        check_padded(*padded_case(seed + 2000))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kernel", [(1, 1, 1), (3, 3, 3)])
def test_channel_counts(isa: str, kernel: Triple, dtype: torch.dtype) -> None:
    """Input channels decide how a clip is read, output channels how a result is written, each by itself."""
    pairs = itertools.zip_longest(IN_CHANNELS, OUT_CHANNELS, fillvalue=17)
    for in_channels, out_channels in (*pairs, (16, 64), (64, 16)):
        check(make_case(1, in_channels, out_channels, (2, 5, 3), kernel, dtype=dtype))


def test_3x3x3_at_every_remainder_of_a_tile(isa: str) -> None:
    for size in itertools.product((1, 2, 3, 5), (1, 4, 6, 7), (2, 3, 8, 13)):
        check(make_case(1, 32, 32, size, (3, 3, 3)))
    check(make_case(3, 48, 64, (4, 14, 14), (3, 3, 3)))
    check(make_case(1, 64, 192, (2, 19, 23), (3, 3, 3), relu=False))


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_stem(isa: str, dtype: torch.dtype) -> None:
    for in_channels, size in itertools.product((2, 3), [(9, 17, 16), (4, 5, 18), (1, 1, 1), (2, 30, 3)]):
        check(make_case(2, in_channels, 64, size, (7, 7, 7), (2, 2, 2), dtype=dtype))


@pytest.mark.isa
@pytest.mark.skipif(extension.CORE is None, reason="oneDNN runs where the extension was not built")
def test_single_frames_of_few_channels_in_bfloat16() -> None:
    """With NaN in the memory around them: oneDNN's kernels for AMX read it."""
    for in_channels, kernel, stride in (
        (3, (3, 3, 3), (1, 1, 1)),
        (2, (7, 7, 7), (2, 2, 2)),
        (15, (3, 3, 3), (1, 1, 1)),
    ):
        poison = [
            torch.full((n,), float("nan"), dtype=torch.bfloat16) for n in 8 * (64, 256, 1024, 4096, 16384)
        ]
        del poison
        check(make_case(1, in_channels, 17, (1, 8, 8), kernel, stride, dtype=torch.bfloat16))


@pytest.mark.parametrize("dtype", DTYPES)
def test_clips_smaller_than_the_window(isa: str, dtype: torch.dtype) -> None:
    for size, stride in itertools.product(
        [(1, 1, 1), (2, 1, 3), (1, 3, 2)], [(1, 1, 1), (2, 2, 2), (5, 5, 5)]
    ):
        for in_channels in (3, 16):
            check(make_case(2, in_channels, 17, size, (7, 5, 6), stride, dtype=dtype))


def test_values_far_from_zero(isa: str) -> None:
    """An offset much larger than the signal: what the rounding of intermediate sums would show in."""
    case = make_case(1, 64, 32, (4, 9, 10), (3, 3, 3), relu=False)
    check(case._replace(x=case.x + 30))
    check(case._replace(x=case.x * 1e18, bias=None))
    check(case._replace(x=case.x * 1e-18, bias=None))


def check_padded(case: Case, padding: Triple) -> None:
    y = conv3d_bn_relu(*case, padding=padding)
    assert y.dtype == case.x.dtype
    bias = None if case.bias is None else case.bias.double()
    expected = F.conv3d(case.x.double(), case.weight.double(), bias, case.stride, padding)
    scale = expected.abs().max().item()
    assert_close("conv3d", y, F.relu(expected) if case.relu else expected, scale=scale)


@pytest.mark.parametrize("in_channels", [3, 16])
@pytest.mark.parametrize("kernel", range(1, 8))
def test_zeros_on_both_sides_at_every_stride(kernel: int, in_channels: int) -> None:
    """On each axis alone, from none to more than the kernel, with a remainder that no window reaches: where
    windows lie does not depend on the instruction set.
    """
    for stride, padding, axis in itertools.product((1, 2, 3), range(kernel + 2), range(3)):
        for length in (max(kernel - 2 * padding, 1), kernel + 2):
            size, k, s, p = [4, 3, 5], [1, 1, 1], [1, 1, 1], [0, 0, 0]
            size[axis], k[axis], s[axis], p[axis] = length, kernel, stride, padding
            check_padded(make_case(1, in_channels, 17, tuple(size), tuple(k), tuple(s)), tuple(p))


def padded_case(seed: int) -> tuple[Case, Triple]:
    """A problem of random_case's kind, with padding of its own on each axis."""
    pick = random.Random(seed)
    case = random_case(seed)
    padding = tuple(pick.choice((0, k // 2, k // 2, k - 1, k + 1)) for k in case.weight.shape[2:])
    least = [max(k - 2 * p, 1) for k, p in zip(case.weight.shape[2:], padding, strict=True)]
    longer = [max(n, size) - size for n, size in zip(least, case.x.shape[2:], strict=True)]
    x = F.pad(case.x, [0, longer[2], 0, longer[1], 0, longer[0]], value=0.5)
    return case._replace(x=x.contiguous(memory_format=torch.channels_last_3d)), padding


@pytest.mark.parametrize("dtype", DTYPES)
def test_layers_of_other_networks(isa: str, dtype: torch.dtype) -> None:
    """(in, out, kernel, stride, padding) of residual networks: stems, factored and strided layers."""
    for in_channels, out_channels, kernel, stride, padding in (
        (3, 64, (3, 7, 7), (1, 2, 2), (1, 3, 3)),
        (3, 45, (1, 7, 7), (1, 2, 2), (0, 3, 3)),
        (45, 64, (3, 1, 1), (1, 1, 1), (1, 0, 0)),
        (64, 64, (3, 3, 3), (1, 1, 1), (1, 1, 1)),
        (64, 128, (3, 3, 3), (2, 2, 2), (1, 1, 1)),
        (64, 128, (1, 1, 1), (2, 2, 2), (0, 0, 0)),
        (64, 230, (1, 3, 3), (1, 2, 2), (0, 1, 1)),
        (230, 128, (3, 1, 1), (2, 1, 1), (1, 0, 0)),
    ):
        for size in ((4, 8, 8), (5, 9, 7)):
            case = make_case(2, in_channels, out_channels, size, kernel, stride, dtype=dtype)
            check_padded(case, padding)


@pytest.mark.parametrize("dtype", DTYPES)
def test_windows_of_one_frame(isa: str, dtype: torch.dtype) -> None:
    for in_channels, kernel, stride in itertools.product(
        (3, 17, 24), [(1, 3, 3), (1, 5, 1), (1, 7, 7)], [(1, 1, 1), (1, 2, 2)]
    ):
        case = make_case(2, in_channels, 17, (3, 9, 8), kernel, stride, dtype=dtype)
        check(case)
        check_padded(case, (0, kernel[1] // 2, kernel[2] // 2))
        check_padded(case, (1, 0, 3))


def test_frames_and_channel_slices_of_windows_of_one_frame(isa: str) -> None:
    case = make_case(2, 24, 17, (5, 9, 8), (1, 3, 3), (1, 1, 2))
    packed = PackedConv3d.pack(case.weight, case.bias, case.stride, relu=True, dtype=torch.float32)
    whole = packed(case.x)
    wide = torch.full((2, 30, 3, 9, 4), SENTINEL).contiguous(memory_format=torch.channels_last_3d)
    packed(case.x, wide[:, 4:21], 2)
    assert torch.equal(wide[:, 4:21], whole[:, :, 2:])
    assert (wide[:, :4] == SENTINEL).all()
    assert (wide[:, 21:] == SENTINEL).all()
    sliced = torch.cat([case.x, case.x], dim=1).contiguous(memory_format=torch.channels_last_3d)[:, 24:]
    assert torch.equal(packed(sliced), whole)


def test_same_is_zeros_on_both_sides_where_it_is_even(isa: str) -> None:
    for in_channels in (3, 24):
        case = make_case(2, in_channels, 17, (4, 5, 7), (3, 5, 1))
        assert torch.equal(conv3d_bn_relu(*case, padding=(1, 2, 0)), conv3d_bn_relu(*case))


def test_out_with_zeros_on_both_sides(isa: str) -> None:
    case = make_case(2, 24, 17, (5, 6, 7), (3, 3, 3), (1, 2, 2))
    wide = torch.full((2, 30, 5, 3, 4), SENTINEL).contiguous(memory_format=torch.channels_last_3d)
    conv3d_bn_relu(*case, out=wide[:, 4:21], padding=(1, 1, 1))
    assert torch.equal(wide[:, 4:21], conv3d_bn_relu(*case, padding=(1, 1, 1)))
    assert (wide[:, :4] == SENTINEL).all()
    assert (wide[:, 21:] == SENTINEL).all()
    packed = PackedConv3d.pack(
        case.weight, case.bias, case.stride, relu=True, dtype=torch.float32, padding=(1, 1, 1)
    )
    last = torch.empty(2, 17, 1, 3, 4).contiguous(memory_format=torch.channels_last_3d)
    assert torch.equal(packed(case.x, last, 4), packed(case.x)[:, :, 4:])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kernel", [(1, 1, 1), (3, 3, 3)])
def test_out_may_be_a_channel_slice(isa: str, kernel: Triple, dtype: torch.dtype) -> None:
    for out_channels, offset in itertools.product((1, 8, 17, 40), (0, 3, 16)):
        case = make_case(2, 24, out_channels, (3, 5, 4), kernel, dtype=dtype)
        wide = torch.full((2, offset + out_channels + 5, 3, 5, 4), SENTINEL, dtype=dtype)
        wide = wide.contiguous(memory_format=torch.channels_last_3d)
        untouched = wide.clone()
        out = wide[:, offset : offset + out_channels]
        returned = conv3d_bn_relu(*case, out=out)
        assert returned is out
        assert torch.equal(out, conv3d_bn_relu(*case))
        assert torch.equal(wide[:, :offset], untouched[:, :offset])
        assert torch.equal(wide[:, offset + out_channels :], untouched[:, offset + out_channels :])


def test_out_may_be_a_slice_of_time_and_space(isa: str) -> None:
    case = make_case(1, 24, 17, (2, 5, 4), (3, 3, 3))
    wide = torch.full((2, 30, 5, 9, 8), SENTINEL).contiguous(memory_format=torch.channels_last_3d)
    inside = torch.zeros_like(wide, dtype=torch.bool)
    place = (slice(1, 2), slice(4, 21), slice(1, 4, 2), slice(3, 8), slice(2, 6))
    inside[place] = True
    conv3d_bn_relu(*case, out=wide[place])
    assert torch.equal(wide[place], conv3d_bn_relu(*case))
    assert (wide[~inside] == SENTINEL).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("in_channels", [3, 17, 24])
def test_layouts_of_x(in_channels: int, dtype: torch.dtype) -> None:
    case = make_case(2, in_channels + 8, 16, (5, 7, 6), (3, 3, 3), (1, 2, 1), dtype=dtype)
    wide, weight = case.x, case.weight[:, :in_channels]
    frames = wide[:, :in_channels]
    layouts = {
        "channel slice": wide[:, 3 : 3 + in_channels],
        "contiguous": frames.contiguous(),
        "from NTHWC": frames.permute(0, 2, 3, 4, 1).contiguous().permute(0, 4, 1, 2, 3),
        "time and space slice": frames[:, :, 1:4, 2:, :5],
        "repeated frame": frames[:, :, :1].expand(-1, -1, 5, -1, -1),
        "one pixel": frames[:, :, :1, :1, :1],
    }
    for name, x in layouts.items():
        before = x.clone()
        ours = case._replace(x=x, weight=weight)
        dense = case._replace(x=x.contiguous(memory_format=torch.channels_last_3d), weight=weight)
        check(ours)
        assert torch.equal(conv3d_bn_relu(*ours), conv3d_bn_relu(*dense)), name
        assert torch.equal(x, before), name


def test_packed_convolution_reads_channel_slices() -> None:
    case = make_case(2, 40, 24, (3, 5, 4), (3, 3, 3))
    narrow = case._replace(x=case.x[:, 5:29], weight=case.weight[:, 5:29])
    packed = PackedConv3d.pack(narrow.weight, narrow.bias, (1, 1, 1), relu=True, dtype=torch.float32)
    assert torch.equal(packed(narrow.x), conv3d_bn_relu(*narrow))


def test_empty_batch() -> None:
    case = make_case(1, 16, 17, (3, 5, 4), (3, 3, 3), (2, 2, 2))
    assert conv3d_bn_relu(*case._replace(x=case.x[:0])).shape == (0, 17, 2, 3, 2)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf"), 3e38])
@pytest.mark.parametrize("in_channels", [3, 16, 17])
def test_values_that_are_not_finite_reach_the_outputs_they_touch_and_no_others(
    isa: str, in_channels: int, value: float
) -> None:
    for dtype, (kernel, stride) in itertools.product(
        (torch.float32, torch.bfloat16),
        (
            ((1, 1, 1), (1, 1, 1)),
            ((3, 3, 3), (1, 1, 1)),
            ((5, 5, 5), (2, 2, 2)),
            ((1, 3, 3), (1, 1, 1)),
            ((3, 1, 1), (1, 1, 1)),
        ),
    ):
        case = make_case(2, in_channels, 17, (9, 6, 7), kernel, stride, dtype=dtype, relu=False)
        clean = conv3d_bn_relu(*case)
        # Of the first channel, which lies right after the windows of the pixels before.
        case.x[1, 0, 4, 3, 4] = value
        y = conv3d_bn_relu(*case)
        padded = pad_same(case.x.float(), kernel, stride)
        expected = F.conv3d(padded, case.weight, case.bias, stride)
        assert_close("conv3d", y[0], clean[0].double())
        assert torch.equal(y.isfinite(), expected.to(dtype).isfinite()), (dtype, kernel)
        assert torch.equal(y.isnan(), expected.isnan())
        finite = expected.abs() < 1e4
        assert_close("conv3d", y[finite], expected[finite].double(), scale=clean.abs().max().item())
        assert conv3d_bn_relu(*case[:4], relu=True)[expected.isnan()].isnan().all()


def test_packed_convolutions_spread_what_is_not_finite_over_tiles_of_the_winograd_form(isa: str) -> None:
    """As the steps of the whole network do; no window and no tile around it is touched."""
    case = make_case(1, 16, 17, (13, 6, 7), (3, 3, 3), relu=False)
    window = Geometry((3, 3, 3), (1, 1, 1), None, False)
    packed = WinogradConv3d.of(case.weight, case.bias, window, (4, 2, 2), torch.float32)
    assert not packed.spread(packed(case.x))
    case.x[0, 3, 4, 2, 3] = float("nan")
    y = packed(case.x)
    assert packed.spread(y)
    # Pixel (4, 2, 3) is in the windows of outputs (3, 1, 2) to (5, 3, 4), which are in tiles of 4x2x2 from
    # (0, 0, 2) to (7, 3, 5).
    touched = torch.zeros(13, 6, 7, dtype=torch.bool)
    touched[:8, :4, 2:6] = True
    assert torch.equal(y.isnan(), touched.expand(1, 17, -1, -1, -1))


def test_relu_keeps_nan_weights_and_bias_visible(isa: str) -> None:
    case = make_case(1, 16, 17, (2, 3, 3), (3, 3, 3))
    case.bias[3] = float("nan")
    case.weight[5, 0, 1, 1, 1] = float("nan")
    nan = conv3d_bn_relu(*case).isnan().flatten(2).all(dim=2)[0]
    assert nan.nonzero().flatten().tolist() == [3, 5]


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_result_depends_on_nothing_but_the_arguments(
    isa: str, dtype: torch.dtype, set_threads: Callable[[int], None]
) -> None:
    for case in (
        make_case(2, 3, 64, (5, 20, 21), (7, 7, 7), (2, 2, 2), dtype=dtype),
        make_case(1, 48, 64, (4, 14, 13), (3, 3, 3), dtype=dtype),
        make_case(1, 64, 40, (4, 14, 13), (1, 1, 1), dtype=dtype),
    ):
        results = []
        for threads in (1, 2, 3, 1):
            set_threads(threads)
            results.append(conv3d_bn_relu(*case))
        assert all(torch.equal(results[0], other) for other in results[1:])
        # A clip's result is its own, whatever shares its batch.
        single = conv3d_bn_relu(*case._replace(x=case.x[:1]))
        assert_close("conv3d", single, results[0][:1].double())


def test_python_threads_at_once(isa: str) -> None:
    cases = [make_case(1, 24, 40, (4, 9, 9 + seed), (3, 3, 3), seed=seed) for seed in range(4)]
    packed = [PackedConv3d.pack(c.weight, c.bias, c.stride, relu=True, dtype=torch.float32) for c in cases]
    expected = [conv3d_bn_relu(*case) for case in cases]

    def work(i: int) -> bool:
        case = cases[i % 4]
        return torch.equal(packed[i % 4](case.x), expected[i % 4]) and torch.equal(
            conv3d_bn_relu(*case), expected[i % 4]
        )

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(work, range(60)))


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("has_bias", [False, True])
def test_gradients(relu: bool, has_bias: bool) -> None:
    case = make_case(2, 3, 5, (5, 6, 7), (3, 2, 3), (2, 1, 2), bias=has_bias, relu=relu)
    tensors = [t for t in case[:3] if t is not None]
    ours = [t.clone().requires_grad_() for t in tensors]
    theirs = [t.double().requires_grad_() for t in tensors]
    y = conv3d_bn_relu(*ours, *(() if has_bias else (None,)), case.stride, relu)
    padded = pad_same(theirs[0], (3, 2, 3), case.stride)
    expected = F.conv3d(padded, *theirs[1:], stride=case.stride)
    expected = F.relu(expected) if relu else expected
    assert_close("conv3d", y.detach(), expected.detach())
    zeros = conv3d_bn_relu(*ours, *(() if has_bias else (None,)), case.stride, relu, padding=(2, 0, 1))
    assert zeros.requires_grad
    with torch.no_grad():
        check_padded(case, (2, 0, 1))
        fused = conv3d_bn_relu(*case, padding=(2, 0, 1))
    assert_close("conv3d", fused, zeros.detach())
    grad = torch.randn(y.shape, generator=torch.Generator().manual_seed(9))
    y.backward(grad)
    expected.backward(grad.double())
    for mine, other in zip(ours, theirs, strict=True):
        assert_close("conv3d_gradient", mine.grad, other.grad)


@pytest.mark.parametrize("which", [0, 1, 2])
def test_any_argument_may_need_gradients(which: int) -> None:
    case = make_case(1, 3, 5, (3, 4, 5), (3, 3, 3))
    case[which].requires_grad_()
    y = conv3d_bn_relu(*case)
    assert y.requires_grad
    y.sum().backward()
    assert case[which].grad.abs().sum() > 0
    with torch.no_grad():
        fused = conv3d_bn_relu(*case)
    assert not fused.requires_grad
    assert_close("conv3d", fused, y.detach())
    with torch.inference_mode():
        assert torch.equal(conv3d_bn_relu(*case), fused)


def test_defaults_of_the_process_do_not_matter() -> None:
    case = make_case(1, 16, 17, (3, 5, 5), (3, 3, 3))
    expected = conv3d_bn_relu(*case)
    with torch.device("meta"):
        assert torch.equal(conv3d_bn_relu(*case), expected)
    torch.set_default_dtype(torch.float64)
    try:
        # A window that nothing else here uses, so that nothing about it was computed before.
        unseen = make_case(1, 16, 17, (5, 5, 5), (6, 1, 1), (2, 1, 1))
        unseen = unseen._replace(x=unseen.x.float(), weight=unseen.weight.float(), bias=unseen.bias.float())
        check(unseen)
    finally:
        torch.set_default_dtype(torch.float32)


def test_weights_in_the_dtype_of_the_clip() -> None:
    case = make_case(1, 16, 17, (2, 5, 5), (3, 3, 3), dtype=torch.bfloat16)
    half = case._replace(weight=case.weight.bfloat16(), bias=case.bias.bfloat16())
    widened = case._replace(weight=half.weight.float(), bias=half.bias.float())
    assert torch.equal(conv3d_bn_relu(*half), conv3d_bn_relu(*widened))


X, WEIGHT = torch.zeros(1, 3, 4, 5, 6), torch.zeros(8, 3, 3, 3, 3)
OUT = torch.zeros(1, 8, 4, 5, 6).contiguous(memory_format=torch.channels_last_3d)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"x": X[0]}, r"x must be \(N, Cin, T, H, W\).*\(3, 4, 5, 6\)"),
        ({"x": X.double()}, "x must be float32, bfloat16 or float16, got torch.float64"),
        ({"x": X.int()}, "x must be float32, bfloat16 or float16, got torch.int32"),
        ({"weight": WEIGHT[0]}, r"weight must be \(Cout, 3, kt, kh, kw\).*\(3, 3, 3, 3\)"),
        ({"weight": WEIGHT[:, :2]}, r"weight must be \(Cout, 3, kt, kh, kw\).*\(8, 2, 3, 3, 3\)"),
        ({"weight": WEIGHT.int()}, "weight must be .*int32"),
        ({"weight": WEIGHT.double()}, "weight must be .*float64"),
        ({"weight": WEIGHT[:, :, :0]}, r"weight must .*\(8, 3, 0, 3, 3\)"),
        ({"weight": WEIGHT.to("meta")}, "weight .*meta"),
        ({"bias": torch.zeros(7)}, r"bias must have shape \(8,\), got \(7,\)"),
        ({"bias": torch.zeros(8, 1)}, r"bias must have shape \(8,\), got \(8, 1\)"),
        ({"stride": (1, 1)}, r"stride must be .*\(1, 1\)"),
        ({"stride": (1, 0, 1)}, r"stride must be .*\(1, 0, 1\)"),
        ({"padding": "valid"}, 'padding must be "same" or 3 .*valid'),
        ({"padding": 1}, 'padding must be "same" or 3 .*1'),
        ({"padding": (1, 1)}, r'padding must be "same" or 3 .*\(1, 1\)'),
        ({"padding": (1, -1, 1)}, r'padding must be "same" or 3 .*\(1, -1, 1\)'),
        ({"x": X[:, :, :1], "padding": (0, 1, 1)}, r"x of .*\(1, 5, 6\) .*\(0, 1, 1\) .*\(3, 3, 3\)"),
        ({"out": OUT, "padding": (0, 1, 1)}, r"out must be .*\(1, 8, 2, 5, 6\), got .*\(1, 8, 4, 5, 6\)"),
        ({"out": torch.zeros(1, 8, 4, 5, 5)}, r"out must be .*\(1, 8, 4, 5, 6\), got .*\(1, 8, 4, 5, 5\)"),
        ({"out": torch.zeros(1, 8, 4, 5, 6).half()}, "out must be torch.float32 .*torch.float16"),
        ({"out": torch.zeros(1, 8, 4, 5, 6)}, "out must be channels-last"),
        ({"x": X.clone().requires_grad_(), "out": OUT}, "out cannot .*no_grad"),
    ],
)
def test_errors_name_the_argument_and_its_value(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        conv3d_bn_relu(**({"x": X, "weight": WEIGHT} | arguments))
