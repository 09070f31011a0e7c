"""Minimal filters along every combination of axes, and which of them a convolution takes."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from tolerances import assert_close
from torch import Tensor

from fasti3d.ops.conv3d_bn_relu.forms import Form, choose_form, forms
from fasti3d.ops.conv3d_bn_relu.geometry import Geometry
from fasti3d.ops.conv3d_bn_relu.packed import DirectConv3d, PackedConv3d, WinogradConv3d
from fasti3d.ops.conv3d_bn_relu.winograd import amplification, minimal_filter
from fasti3d.runtime import extension

pytestmark = pytest.mark.skipif(extension.CORE is None, reason="the extension was not built")

Triple = tuple[int, int, int]
ONE = (1, 1, 1)
LAST = torch.channels_last_3d
SENTINEL = 12345.0


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def weights(outputs: int, channels: int, kernel: Triple) -> tuple[Tensor, Tensor]:
    weight = random(outputs, channels, *kernel, seed=1)
    return weight / weight[0].numel() ** 0.5, random(outputs, seed=2)


def exact(x: Tensor, weight: Tensor, bias: Tensor, geometry: Geometry) -> Tensor:
    assert geometry.padding is not None
    return F.conv3d(x.double(), weight.double(), bias.double(), geometry.stride, geometry.padding)


def packed_as(form: Form, weight: Tensor, bias: Tensor, geometry: Geometry) -> PackedConv3d:
    if form.direct:
        return DirectConv3d.of(weight, bias, geometry, form.dtype)
    return WinogradConv3d.of(weight, bias, geometry, form.outputs, form.dtype)


# (in, out, kernel, stride, padding, size): odd sizes, tails of channels and of tiles, wide padding.
PROBLEMS: dict[str, tuple[int, int, Triple, Triple, Triple, Triple]] = {
    "3x3x3": (17, 33, (3, 3, 3), ONE, (1, 1, 1), (5, 7, 6)),
    "3x3x3, no padding, few rows": (16, 16, (3, 3, 3), ONE, (0, 0, 0), (3, 3, 4)),
    "3x3x3, unevenly": (24, 20, (3, 3, 3), ONE, (2, 0, 4), (1, 6, 3)),
    "3x3x3, strided": (20, 24, (3, 3, 3), (2, 2, 2), (1, 1, 1), (7, 9, 8)),
    "3x3x3, few channels": (3, 18, (3, 3, 3), ONE, (1, 1, 1), (6, 7, 9)),
    "1x3x3": (18, 17, (1, 3, 3), ONE, (0, 1, 1), (3, 9, 5)),
    "1x3x3, strided frames": (18, 17, (1, 3, 3), (2, 1, 1), (0, 1, 1), (5, 6, 5)),
    "3x1x1": (32, 16, (3, 1, 1), ONE, (1, 0, 0), (9, 3, 5)),
    "stem": (3, 20, (7, 7, 7), (2, 2, 2), (2, 3, 3), (11, 17, 19)),
    "stem of one frame": (2, 20, (1, 7, 7), (1, 2, 2), (0, 3, 3), (3, 20, 13)),
    "stem of five frames": (3, 20, (5, 7, 7), (1, 2, 2), (2, 3, 3), (4, 12, 13)),
    "4x5x6": (16, 19, (4, 5, 6), (2, 2, 1), (1, 2, 3), (6, 9, 7)),
}


@pytest.mark.parametrize("name", PROBLEMS)
def test_every_form(isa: str, name: str) -> None:
    """With a residual, into a slice of channels, from a frame in the middle of a tile on."""
    channels, outputs, kernel, stride, padding, size = PROBLEMS[name]
    x = random(2, channels, *size).contiguous(memory_format=LAST)
    weight, bias = weights(outputs, channels, kernel)
    geometry = Geometry(kernel, stride, padding, True)
    sums = exact(x, weight, bias, geometry)
    n, _, frames, *space = sums.shape
    residual = random(*sums.shape, seed=3).contiguous(memory_format=LAST)
    start = min(1, frames - 1)
    found = forms(channels, outputs, geometry, torch.float32)
    assert len(found) > 2
    assert len({form.outputs for form in found}) == len(found)
    for form in found:
        packed = packed_as(form, weight, bias, geometry)
        assert_close("conv3d", packed(x), sums.relu(), scale=sums.abs().max().item())
        wide = torch.full((n, outputs + 7, frames - start, *space), SENTINEL).contiguous(memory_format=LAST)
        packed(x, wide[:, 4 : 4 + outputs], start, residual[:, :, start:])
        assert torch.equal(wide[:, 4 : 4 + outputs], packed(x, residual=residual)[:, :, start:]), form
        assert_close("conv3d", wide[:, 4 : 4 + outputs], (sums + residual).relu()[:, :, start:])
        assert (wide[:, :4] == SENTINEL).all()
        assert (wide[:, 4 + outputs :] == SENTINEL).all()


@pytest.mark.parametrize("outputs", [(4, 2, 2), (2, 2, 2), (4, 1, 1), (1, 2, 4)])
def test_a_clip_s_result_is_its_own(isa: str, outputs: Triple, set_threads: Callable[[int], None]) -> None:
    """To the bit, whatever shares its batch, whichever frames are asked for, however many threads run."""
    x = random(3, 32, 9, 13, 12).contiguous(memory_format=LAST)
    weight, bias = weights(48, 32, (3, 3, 3))
    packed = WinogradConv3d.of(weight, bias, Geometry((3, 3, 3), ONE, None, False), outputs, torch.float32)
    whole = packed(x)
    for threads in (1, 2, 3):
        set_threads(threads)
        assert torch.equal(packed(x), whole)
        assert torch.equal(packed(x[1:2]), whole[1:2])
        for begin, end in ((0, 1), (2, 7), (5, 9)):
            out = torch.empty(1, 48, end - begin, 13, 12).contiguous(memory_format=LAST)
            assert torch.equal(packed(x[2:], out, begin), whole[2:, :, begin:end])


def test_error_is_as_predicted() -> None:
    """Of noise, in L2: within its limit in tiles of 4x2x2, and three times that in tiles of 4x4x4."""
    x = random(1, 64, 6, 12, 12)
    weight, bias = weights(32, 64, (3, 3, 3))
    geometry = Geometry((3, 3, 3), ONE, (1, 1, 1), False)
    expected = exact(x, weight, torch.zeros_like(bias), geometry)
    clip = x.contiguous(memory_format=LAST)

    def error(*outputs: int) -> float:
        t, h, w = outputs
        packed = WinogradConv3d.of(weight, torch.zeros_like(bias), geometry, (t, h, w), torch.float32)
        return float((packed(clip) - expected).norm() / expected.norm())

    assert error(2, 2, 2) < error(4, 2, 2) < 8e-7
    assert error(4, 4, 4) > 2.5 * error(4, 2, 2)
    assert amplification(1, 3) == pytest.approx(1)
    assert amplification(4, 3) > amplification(2, 3) > 1.2


@pytest.mark.parametrize("outputs", [(4, 2, 2), (4, 1, 1), (1, 2, 2)])
def test_a_value_that_is_not_finite_anywhere_in_a_tile_shows(isa: str, outputs: Triple) -> None:
    weight, bias = weights(17, 16, (3, 3, 3))
    packed = WinogradConv3d.of(weight, bias, Geometry((3, 3, 3), ONE, None, False), outputs, torch.float32)
    clean = torch.zeros(1, 16, 8, 6, 5).contiguous(memory_format=LAST)
    assert not packed.spread(packed(clean))
    for place in itertools.product(range(2, 6), range(1, 3), range(1, 4)):
        x = clean.clone()
        x[0, 3][place] = float("inf")
        y = packed(x)
        assert packed.spread(y), place
        assert y[:, :, :, 4:].isfinite().all()


def test_the_choice_keeps_its_limits() -> None:
    same = Geometry((3, 3, 3), ONE, None, True)
    layer = (160, 320, same, torch.float32)
    chosen = choose_form(*layer)
    assert chosen.outputs == (4, 2, 2)
    weight, _ = weights(320, 160, (3, 3, 3))
    filters = [minimal_filter(m, 3).filters for m in chosen.outputs]
    assert torch.ops.fasti3d.conv3d_pack(weight, torch.float32, filters).nbytes == chosen.bytes
    less = choose_form(*layer, memory_limit=chosen.bytes - 1)
    assert less.bytes < chosen.bytes
    assert less.time > chosen.time
    assert choose_form(*layer, memory_limit=0).bytes <= 2.7 * weight.nbytes
    every = {form.outputs for form in forms(*layer)}
    assert (4, 4, 4) not in every  # too inexact
    assert {(4, 2, 2), (2, 2, 4), ONE} < every


def test_the_choice_by_window_and_dtype() -> None:
    """The fewer products pay for the transforms, or the direct form stays."""
    expected: dict[tuple[int, int, Triple, Triple, torch.dtype], Triple] = {
        (64, 192, (1, 1, 1), ONE, torch.float32): ONE,
        (64, 192, (3, 3, 3), ONE, torch.float32): (4, 2, 2),
        (64, 144, (1, 3, 3), ONE, torch.float32): (1, 4, 2),
        (144, 64, (3, 1, 1), ONE, torch.float32): (4, 1, 1),
        (128, 128, (1, 3, 3), (1, 2, 2), torch.float32): ONE,
        (64, 128, (3, 3, 3), (2, 2, 2), torch.float32): ONE,
        (64, 64, (3, 3, 3), (2, 1, 1), torch.float32): (1, 4, 2),
        (3, 64, (7, 7, 7), (2, 2, 2), torch.float32): (3, 3, 1),
        (3, 64, (1, 7, 7), (1, 2, 2), torch.float32): (1, 4, 1),
        (3, 64, (7, 7, 7), (2, 2, 2), torch.bfloat16): (3, 3, 1),
        (64, 192, (3, 3, 3), ONE, torch.bfloat16): (2, 1, 1),
        (144, 64, (3, 1, 1), ONE, torch.bfloat16): ONE,
        (63, 64, (3, 3, 3), ONE, torch.bfloat16): ONE,
    }
    for (channels, outputs, kernel, stride, dtype), tile in expected.items():
        form = choose_form(channels, outputs, Geometry(kernel, stride, None, True), dtype)
        assert form.outputs == tile, (channels, outputs, kernel, dtype)
        assert (form.dtype == torch.float32) == (dtype == torch.float32 or channels < 16)
