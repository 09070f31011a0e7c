"""Random problems for every operator, each compared with its reference."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from tolerances import assert_close
from torch import Tensor
from tvl1_making import arguments

from fasti3d.flow import TVL1Params, tvl1
from fasti3d.ops import (
    average_head,
    conv3d_bn_relu,
    conv3d_training,
    depthwise_conv3d,
    max_pool3d,
    max_pool3d_same,
)
from fasti3d.ops.batch_norm_relu import (
    batch_norm_relu_backward_,
    batch_norm_relu_sums,
    batch_norm_stats,
    scale_shift_relu_,
)
from fasti3d.ops.conv3d_bn_relu.forms import forms
from fasti3d.ops.conv3d_bn_relu.geometry import Geometry
from fasti3d.ops.conv3d_bn_relu.packed import DirectConv3d, PackedConv3d, TilesConv3d, WinogradConv3d
from fasti3d.ops.conv3d_bn_relu.reference import conv3d_bn_relu_reference
from fasti3d.ops.conv3d_training import cpu_forms
from fasti3d.ops.conv3d_training import reference as passes
from fasti3d.ops.depthwise_conv3d import DepthwiseConv3d
from fasti3d.ops.depthwise_conv3d.reference import depthwise_conv3d_reference
from fasti3d.ops.fingerprint import fingerprint
from fasti3d.ops.i3d_head.reference import average_head_reference
from fasti3d.ops.max_pool3d_same.reference import max_pool3d_backward, max_pool3d_reference
from fasti3d.ops.max_pool3d_taps import max_pool3d_taps
from fasti3d.ops.tvl1.reference import tvl1_reference
from fasti3d.runtime import extension

CHANNELS_LAST = torch.channels_last_3d
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
SENTINEL = 12345.0


def layout(pick: random.Random, x: Tensor) -> Tensor:
    """The same numbers in another order, in a part of other memory, or not aligned."""
    n, c, t, h, w = x.shape
    kind = pick.choice(
        ("as it is", "channels last", "channels of more", "pixels of more", "every other", "offset")
    )
    if kind == "channels last":
        return x.contiguous(memory_format=CHANNELS_LAST)
    if kind == "offset":
        return x.new_full((x.numel() + 3,), SENTINEL)[3:].view(x.shape).copy_(x)
    shapes = {
        "channels of more": (n, c + 5, t, h, w),
        "pixels of more": (n, c, t + 2, h + 3, w + 1),
        "every other": (n, c, 2 * t, 2 * h, 2 * w),
    }
    if kind not in shapes:
        return x
    wide = x.new_full(shapes[kind], SENTINEL).contiguous(memory_format=CHANNELS_LAST)
    views = {
        "channels of more": wide[:, 3 : 3 + c],
        "pixels of more": wide[:, :, 1 : 1 + t, 2 : 2 + h, 1 : 1 + w],
        "every other": wide[:, :, ::2, ::2, ::2],
    }
    return views[kind].copy_(x)


def slice_of_more(shape: tuple[int, ...], dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """A channels-last clip to write to, a slice of the second, which holds nothing but SENTINEL."""
    wide = torch.full((shape[0], shape[1] + 6, *shape[2:]), SENTINEL, dtype=dtype)
    wide = wide.contiguous(memory_format=CHANNELS_LAST)
    return wide[:, 4 : 4 + shape[1]], wide


def assert_slice_alone(out: Tensor, wide: Tensor) -> None:
    assert (wide[:, :4] == SENTINEL).all(), "written before the slice"
    assert (wide[:, 4 + out.shape[1] :] == SENTINEL).all(), "written after the slice"


def geometry(pick: random.Random) -> dict[str, Any]:
    """Of a convolution: each shape of kernel, few and many channels, padding beyond the kernel."""
    usual = [(1, 1, 1), (3, 3, 3), (7, 7, 7), (3, 1, 1), (1, 3, 3), (1, 7, 7), (5, 1, 1)]
    kernel = pick.choice(usual) if pick.random() < 0.5 else tuple(pick.choices(range(1, 6), k=3))
    stride = tuple(pick.choices((1, 1, 1, 2, 2, 5, 2**31 - 1), k=3))
    padding = None if pick.random() < 0.5 else tuple(pick.randint(0, k + 1) for k in kernel)
    least = [
        1 if padding is None else max(k - 2 * p, 1) for k, p in zip(kernel, padding or kernel, strict=True)
    ]
    return {
        "n": pick.choice((0, 1, 1, 2)),
        "channels": pick.choice((1, 3, 15, 16, 17, 24, 33, pick.randint(1, 50))),
        "outputs": pick.choice((1, 15, 16, 17, 33, pick.randint(1, 40))),
        "kernel": kernel,
        "stride": stride,
        "padding": padding,
        "size": [pick.randint(low, low + 6) for low in least],
    }


def convolution(pick: random.Random) -> None:
    """The function for users: float32 in any layout; float16, which runs in float32 here."""
    p = geometry(pick)
    dtype = pick.choice((torch.float32, torch.float32, torch.float16))
    x = layout(pick, torch.randn(p["n"], p["channels"], *p["size"]).to(dtype))
    weight = torch.randn(p["outputs"], p["channels"], *p["kernel"])
    weight /= weight[0].numel() ** 0.5
    bias = torch.randn(p["outputs"]) if pick.random() < 0.7 else None
    relu = pick.random() < 0.5
    exact = exact_convolution(x, weight, bias, p)
    out, wide = slice_of_more(tuple(exact.shape), dtype)
    given = out if pick.random() < 0.5 else None
    residual = pick_residual(pick, out, in_place=given is not None)
    exact = exact if residual is None else exact + residual.double()
    added = None if residual is None else residual.clone()
    y = conv3d_bn_relu(x, weight, bias, p["stride"], relu, given, p["padding"] or "same", residual)
    close(y, exact, relu)
    if given is not None:
        assert y is out
        assert_slice_alone(out, wide)
    if dtype == torch.float32:
        dense = x.contiguous(memory_format=CHANNELS_LAST)
        threads = torch.get_num_threads()
        torch.set_num_threads(threads % 3 + 1)
        again = conv3d_bn_relu(dense, weight, bias, p["stride"], relu, None, p["padding"] or "same", added)
        torch.set_num_threads(threads)
        assert torch.equal(again, y), "depends on the layout or the threads"


def training(pick: random.Random) -> None:
    """The three passes, of maps in any layout, and the filters' forms wherever they can be asked for."""
    p = geometry(pick) | {"padding": None}
    x = layout(pick, torch.randn(p["n"], p["channels"], *p["size"]))
    weight = torch.randn(p["outputs"], p["channels"], *p["kernel"])
    weight /= weight[0].numel() ** 0.5
    exact = passes.forward(x.double(), weight.double(), p["stride"])
    grad = layout(pick, torch.randn(exact.shape))
    y = conv3d_training.forward(x, weight, p["stride"])
    close(y, exact, relu=False)
    given = grad.double(), weight.double(), p["stride"]
    close(
        conv3d_training.grad_input(grad, weight, p["stride"], p["size"]),
        passes.grad_input(*given, p["size"]),
        relu=False,
    )
    exact = passes.grad_weight(grad.double(), x.double(), p["stride"], p["kernel"])
    close(conv3d_training.grad_weight(grad, x, p["stride"], p["kernel"]), exact, relu=False)
    taps = {1: (1, 3), 2: (4, 5, 6, 7)}.get(p["stride"][0], ())
    if extension.CORE is not None and p["kernel"][0] in taps:
        frames = pick.choice((2, 4)) if p["kernel"][0] > 1 else 1
        sums = cpu_forms.filtered_grad_weight(grad, x, p["stride"], p["kernel"], frames)
        close(sums, exact, relu=False)
        torch.set_num_threads(torch.get_num_threads() % 3 + 1)
        again = cpu_forms.filtered_grad_weight(grad, x, p["stride"], p["kernel"], frames)
        assert torch.equal(again, sums), "depends on the threads"


def pick_residual(pick: random.Random, out: Tensor, *, in_place: bool) -> Tensor | None:
    """Nothing, a clip of its own in some layout, or what already is in ``out``."""
    kind = pick.choice(("none", "clip", "out" if in_place else "clip"))
    if kind == "none":
        return None
    residual = torch.randn(out.shape).to(out.dtype)
    return out.copy_(residual) if kind == "out" else layout(pick, residual)


def exact_convolution(x: Tensor, weight: Tensor, bias: Tensor | None, p: dict[str, Any]) -> Tensor:
    return conv3d_bn_relu_reference(
        x.double(), weight.double(), None if bias is None else bias.double(), p["stride"], False, p["padding"]
    )


def close(y: Tensor, exact: Tensor, relu: bool) -> None:
    if y.numel():
        assert_close("conv3d", y, F.relu(exact) if relu else exact, scale=exact.abs().max().item())
    assert y.shape == exact.shape


def packed(pick: random.Random) -> None:
    """The raw operators in every form and dtype, into frames from ``start`` on."""
    p = geometry(pick)
    p["n"] = max(p["n"], 1)
    half = pick.random() < 0.4
    dtype = torch.bfloat16 if half else torch.float32
    x = torch.randn(p["n"], p["channels"], *p["size"]).to(dtype).contiguous(memory_format=CHANNELS_LAST)
    weight = torch.randn(p["outputs"], p["channels"], *p["kernel"])
    weight /= weight[0].numel() ** 0.5
    bias = torch.randn(p["outputs"])
    exact = exact_convolution(x, weight, bias, p)
    start = pick.randrange(exact.shape[2])
    shape = (*exact.shape[:2], pick.randint(1, exact.shape[2] - start), *exact.shape[3:])
    out, wide = slice_of_more(shape, dtype)
    relu = pick.random() < 0.5
    exact = exact[:, :, start : start + shape[2]]
    residual = pick_residual(pick, out, in_place=True)
    if residual is not None:
        exact = exact + residual.double()
        residual = residual if residual.stride(1) == 1 else residual.contiguous(memory_format=CHANNELS_LAST)
    pack(pick, weight, bias, p, dtype, relu)(x, out, start, residual)
    close(out, exact, relu)
    assert_slice_alone(out, wide)


def pack(
    pick: random.Random, weight: Tensor, bias: Tensor, p: dict[str, Any], dtype: torch.dtype, relu: bool
) -> PackedConv3d:
    """In any form that PackedConv3d.pack could choose, and in bfloat16 in one that the CPU only emulates."""
    window = Geometry(p["kernel"], p["stride"], p["padding"], relu)
    if dtype == torch.bfloat16 and (not extension.has_bf16_dot() or pick.random() < 0.5):
        return TilesConv3d.of(weight, bias, window)
    form = pick.choice(forms(weight.shape[1], len(weight), window, dtype))
    if not form.direct:
        return WinogradConv3d.of(weight, bias, window, form.outputs, form.dtype)
    return DirectConv3d.of(weight, bias, window, dtype)


def depthwise(pick: random.Random) -> None:
    p = geometry(pick)
    dtype = pick.choice(DTYPES)
    x = layout(pick, torch.randn(p["n"], p["channels"], *p["size"]).to(dtype))
    weight, bias = torch.randn(p["channels"], 1, *p["kernel"]), torch.randn(p["channels"])
    relu = pick.random() < 0.5
    y = depthwise_conv3d(x, weight, bias, p["stride"], p["padding"] or "same", relu)
    exact = depthwise_conv3d_reference(x.double(), weight, bias, p["stride"], p["padding"], False)
    if y.numel():
        scale = exact.abs().max().item()
        assert_close("depthwise_conv3d", y, F.relu(exact) if relu else exact, scale=scale)
    assert y.shape == exact.shape
    if dtype == torch.float16 or not p["n"]:
        return
    start = pick.randrange(exact.shape[2])
    shape = (*exact.shape[:2], pick.randint(1, exact.shape[2] - start), *exact.shape[3:])
    out, wide = slice_of_more(shape, dtype)
    packed = DepthwiseConv3d.pack(weight, bias, p["stride"], relu=relu, dtype=dtype, padding=p["padding"])
    packed(x.contiguous(memory_format=CHANNELS_LAST), out, start)
    assert torch.equal(out, y[:, :, start : start + shape[2]])
    assert_slice_alone(out, wide)


def pool(pick: random.Random) -> None:
    dtype = pick.choice(DTYPES)
    size = [pick.randint(1, 12) for _ in range(3)]
    if pick.random() < 0.1:
        size[pick.randrange(3)] = 0
    x = torch.randn(pick.choice((0, 1, 2)), pick.choice((0, 1, 3, 16, 37)), *size)
    for value in (float("nan"), float("inf"), float("-inf"), -0.0):
        x = torch.where(torch.rand_like(x) < 0.03, value, x)
    x = layout(pick, x.to(dtype))
    kernel = pick.choices((1, 2, 3, 5, 7, 50, 2**31 - 1), (3, 3, 4, 2, 1, 1, 1), k=3)
    stride = pick.choices((1, 2, 3, 50, 2**31 - 1), (5, 4, 2, 1, 1), k=3)
    padding, ceil_mode = None, False
    if 0 not in size and pick.random() < 0.5:
        kernel = [min(k, n + n // 2) for k, n in zip(kernel, size, strict=True)]
        padding = [pick.randint(max(0, -((n - k) // 2)), k // 2) for k, n in zip(kernel, size, strict=True)]
        ceil_mode = pick.random() < 0.5
        y = max_pool3d(x, kernel, stride, padding, ceil_mode)
    else:
        y = max_pool3d_same(x, kernel, stride)
    same_bits(y, max_pool3d_reference(x, kernel, stride, padding, ceil_mode))
    dense = x.contiguous(memory_format=CHANNELS_LAST)
    out, wide = slice_of_more(tuple(y.shape), dtype)
    torch.ops.fasti3d.max_pool3d_(dense, kernel, stride, padding, ceil_mode, out)
    same_bits(out, y)
    assert_slice_alone(out, wide)


def same_bits(a: Tensor, b: Tensor) -> None:
    """All but which NaN it is."""
    assert a.shape == b.shape
    torch.testing.assert_close(a, b, rtol=0, atol=0, equal_nan=True)


def pool_with_taps(pick: random.Random) -> None:
    """Values are torch's, taps point to them, and the gradient is torch's wherever windows hold no -inf."""
    dtype = pick.choice((torch.float32, torch.bfloat16))
    size = [pick.randint(1, 9) for _ in range(3)]
    x = torch.randn(pick.choice((0, 1, 2)), pick.choice((1, 3, 16, 37)), *size)
    x = x.round() if pick.random() < 0.5 else torch.where(torch.rand_like(x) < 0.03, float("nan"), x)
    x = channels_last_layout(pick, x.to(dtype))
    kernel, stride = pick.choices((1, 2, 3, 5, 6), k=3), pick.choices((1, 2, 3, 50), (5, 4, 2, 1), k=3)
    y, taps = max_pool3d_taps(x, kernel, stride)
    same_bits(y, max_pool3d_reference(x, kernel, stride, None))
    grad = channels_last_layout(pick, torch.randn(y.shape).round().to(dtype))
    out, wide = slice_of_more(tuple(x.shape), dtype)
    torch.ops.fasti3d.max_pool3d_taps_backward_(grad, taps, kernel, stride, out)
    if x.numel():
        exact = max_pool3d_backward(grad.double(), x.double(), kernel, stride, None)
        same_bits(out, exact.to(dtype))
    assert_slice_alone(out, wide)


def channels_last_layout(pick: random.Random, x: Tensor) -> Tensor:
    """The same numbers with adjacent channels."""
    found = layout(pick, x)
    return found if x.shape[1] == 1 or found.stride(1) == 1 else x.contiguous(memory_format=CHANNELS_LAST)


def norm(pick: random.Random) -> None:
    """The passes of a batch norm with ReLU, against the references in float64."""
    dtype = pick.choice((torch.float32, torch.bfloat16))
    shape = (pick.choice((1, 2)), pick.choice((1, 3, 16, 37, 65)), *(pick.randint(1, 12) for _ in range(3)))
    x, grad = (channels_last_layout(pick, torch.randn(shape).to(dtype)) for _ in range(2))
    scale, shift, slope, offset = torch.randn(4, shape[1])
    wide = [t.double() for t in (grad, x, scale, shift, slope, offset)]
    stats = batch_norm_stats(x)
    expected = batch_norm_stats(wide[1])
    torch.testing.assert_close([t.double() for t in stats], list(expected), rtol=1e-5, atol=1e-6)
    mean = expected[0].float()
    sums = batch_norm_relu_sums(grad, x, mean, scale, shift)
    exact = batch_norm_relu_sums(*wide[:2], mean.double(), *wide[2:4])
    # A sum of terms of some size, of which rounding may move some across the ReLU's 0.
    size = float(grad.float().abs().max() * (1 + x.float().abs().max())) * x.numel() ** 0.5
    torch.testing.assert_close([t.double() for t in sums], list(exact), rtol=1e-5, atol=1e-4 * size + 1e-6)
    out, memory = slice_of_more(shape, dtype)
    near = {torch.float32: 1e-5, torch.bfloat16: 2.0**-7}[dtype]
    scale_shift_relu_(x, scale, shift, out)
    y = scale_shift_relu_(*wide[1:4], torch.empty_like(wide[1]).contiguous(memory_format=CHANNELS_LAST))
    torch.testing.assert_close(out.double(), y, rtol=near, atol=near)
    batch_norm_relu_backward_(grad, x, mean, scale, shift, slope, offset, out)
    y = batch_norm_relu_backward_(*wide[:2], mean.double(), *wide[2:], torch.empty_like(y))
    off_the_edge = (wide[1] * wide[2].view(-1, 1, 1, 1) + wide[3].view(-1, 1, 1, 1)).abs() > 1e-5
    torch.testing.assert_close(out.double()[off_the_edge], y[off_the_edge], rtol=near, atol=10 * near)
    assert_slice_alone(out, memory)


def head(pick: random.Random) -> None:
    size = [pick.randint(1, 9) for _ in range(3)]
    shape = (pick.choice((0, 1, 2)), pick.choice((0, 1, 5, 64)), *size)
    window = None if pick.random() < 0.3 else [pick.randint(1, n) for n in size]
    x = layout(pick, torch.randn(shape).to(pick.choice(DTYPES)))
    classes = pick.choice((0, 1, 7))
    weight, bias = torch.randn(classes, shape[1]), torch.randn(classes)
    features, logits = average_head(x, weight, bias, window)
    expected = average_head_reference(x.double().float(), weight.clone(), bias, window)
    assert features.shape == (*shape[:2], 1 if window is None else size[0] - window[0] + 1)
    torch.testing.assert_close((features, logits), expected)
    if not shape[1]:
        assert torch.equal(logits, bias.expand(shape[0], classes))


def print_of_tensors(pick: random.Random) -> None:
    tensors = [
        torch.randn(pick.choices((0, 1, 3, 17, 40), k=pick.randint(0, 4))).to(pick.choice(DTYPES))
        for _ in range(pick.randint(0, 4))
    ]
    number = fingerprint(tensors)
    assert number == fingerprint([t.clone() for t in tensors])
    # Strides that do not matter: of axes of one place.
    assert number == fingerprint([t.clone().unsqueeze(0)[:1].squeeze(0) for t in tensors])
    for t in tensors:
        if t.numel():
            t.view(-1)[pick.randrange(t.numel())] += 1
            assert fingerprint(tensors) != number
            return


def flow(pick: random.Random, *, any_values: bool = False) -> None:
    """TV-L1, bit for bit; with ``any_values`` up to the ends of what parameters may be, and finite there."""
    h, w = (pick.choice((3, 4, 15, 16, 17, pick.randint(3, 60))) for _ in range(2))
    pairs = pick.choice((0, 1, 1, 2, 3))
    changes: dict[str, Any] = {
        "nscales": pick.choice((1, 2, 5)),
        "warps": pick.choice((0, 1, 1, 2)),
        "epsilon": 0.0,
        "inner_iterations": pick.choice((1, 2, 5)),
        "outer_iterations": pick.choice((1, 2)),
        "scale_step": pick.choice((0.8, 0.5, 0.95)),
        "gamma": pick.choice((0.0, 0.0, 0.1)),
        "median_filtering": pick.choice((0, 1, 3, 5)),
        "mode": pick.choice(("opencv-cpu", "opencv-cuda")),
    }
    if any_values:
        theta = 10 ** pick.uniform(-12, 6)
        changes["theta"] = theta
        wild = {
            "tau": theta * 10 ** pick.uniform(-20, 6.3),
            "lambda_": 10 ** pick.uniform(-20, 6.3) / theta,
            "gamma": 10 ** pick.uniform(-50, 6),
            "epsilon": 10 ** pick.uniform(-320, 300),
            "scale_step": pick.choice((5e-324, 1e-9, 0.01, 0.999, 1 - 1e-12)),
            "nscales": pick.choices((1, 20, 1000), (60, 37, 3))[0],
        }
        changes |= {name: value for name, value in wild.items() if pick.random() < 0.5}
        if changes["nscales"] == 1000:
            changes |= {"inner_iterations": 1, "outer_iterations": 1, "warps": 1}
            h, w = min(h, 20), min(w, 20)
    kind = pick.choice((torch.uint8, torch.float32, torch.float64))
    make = (lambda *s: torch.randint(0, 256, s, dtype=kind)) if kind == torch.uint8 else torch.rand
    frames = [make(pairs, h, w).to(kind) for _ in range(2)]
    start = None
    if pick.random() < 0.3:
        size = pick.choice((1.0, 100.0, 1e6, 1e9))
        start = (torch.randn(pairs, 2, h, w) * size).clamp(-1e9, 1e9)
    try:
        params = TVL1Params(**changes)
    except ValueError as error:
        if any_values and re.search(r" must be (at most 1e\+06|above 0)", str(error)):
            return
        raise
    result = tvl1(*frames, params=params, initial_flow=start)
    assert result.shape == (pairs, 2, h, w)
    assert result.isfinite().all(), params
    if not pairs:
        return
    images = [f if kind == torch.uint8 else f.float() for f in frames]
    expected, _ = tvl1_reference(images[0], images[1], start, *arguments(params))
    if params.epsilon == 0:  # elsewhere a sum, whose last bit is not laid down, decides over the iterations
        torch.testing.assert_close(result, expected, rtol=0, atol=0)
    assert expected.isfinite().all()
    one = pick.randrange(pairs)
    alone = tvl1(*(f[one] for f in frames), params=params, initial_flow=None if start is None else start[one])
    torch.testing.assert_close(alone, result[one], rtol=0, atol=0)


def any_flow(pick: random.Random) -> None:
    flow(pick, any_values=True)


# Their shares.
KINDS: dict[Callable[[random.Random], None], int] = {
    convolution: 24,
    training: 12,
    packed: 20,
    pool: 14,
    pool_with_taps: 8,
    norm: 8,
    depthwise: 14,
    head: 4,
    print_of_tensors: 4,
    flow: 10,
    any_flow: 8,
}
