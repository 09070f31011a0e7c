"""The Triton convolutions in Triton's interpreter against F.conv3d in float64: run by test_conv3d_triton.py.

A process must say TRITON_INTERPRET=1 before it imports triton, so these tests have one of their own.
Every result goes into a poisoned channel slice with sentinels around it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from interpreting import CHIPS, SENTINEL, check_sums, clip, pack, tensor_cores, weights
from tolerances import assert_close
from torch import Tensor

from fasti3d.inputs import Scaling, as_floats
from fasti3d.inspect import tune
from fasti3d.ops.conv3d_bn_relu import config, launch, plain
from fasti3d.ops.conv3d_bn_relu.candidates import candidates
from fasti3d.ops.conv3d_bn_relu.config import Config
from fasti3d.ops.conv3d_bn_relu.geometry import Geometry
from fasti3d.ops.conv3d_bn_relu.packed import TritonConv3d, pack_triton
from fasti3d.resnet.variants import VARIANTS, Variant
from fasti3d.runtime.precision import Precision
from fasti3d.same_padding import pad_same

Triple = tuple[int, int, int]

ONE, THREE, TWO = (1, 1, 1), (3, 3, 3), (2, 2, 2)


_tensor_cores = pytest.fixture(autouse=True)(tensor_cores)


@pytest.fixture(autouse=True)
def _fresh_choices() -> Iterator[None]:
    """Forgets what was chosen among the candidates that a test changed."""
    yield
    config.choose.cache_clear()


@pytest.fixture(params=CHIPS)
def form(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Runs the test as on a chip with descriptors and as on one without."""
    monkeypatch.setattr(launch, "gpu_traits", lambda device: CHIPS[request.param])
    return request.param


@pytest.fixture
def chosen(monkeypatch: pytest.MonkeyPatch) -> list[Config]:
    """Every configuration that was run."""
    seen: list[Config] = []

    def choose(problem: config.Problem) -> Config:
        seen.append(config.choose(problem))
        return seen[-1]

    monkeypatch.setattr(launch, "choose", choose)
    return seen


def check(
    x: Tensor,
    out_channels: int,
    kernel: Triple,
    stride: Triple = ONE,
    *,
    relu: bool = True,
    around: tuple[int, int] = (8, 8),
    pieces: int | None = None,
    padding: Triple | None = None,
    residual: Tensor | None = None,
    in_place: bool = False,
    weight_dtype: torch.dtype = torch.float32,
) -> None:
    """Convolves into a slice, in pieces of so many frames, and compares."""
    weight, bias = weights(out_channels, x.shape[1], kernel)
    weight = weight.to(weight_dtype).float()
    packed = pack(weight, bias, stride, relu, x.dtype, padding)
    padded = pad_same(x.double(), kernel, stride) if padding is None else x.double()
    exact = F.conv3d(padded, weight.double(), bias.double(), stride, padding or 0)
    exact = exact if residual is None else exact + residual.double()
    n, _, t, h, w = exact.shape
    wide = torch.full((n, t, h, w, around[0] + out_channels + around[1]), SENTINEL, dtype=x.dtype)
    inside = slice(around[0], around[0] + out_channels)
    wide[..., inside] = torch.nan
    out = wide.permute(0, 4, 1, 2, 3)[:, inside]
    if in_place:
        residual = out.copy_(residual)
    before = x.clone()
    for begin in range(0, t, pieces or t):
        frames = slice(begin, begin + (pieces or t))
        packed(x, out[:, :, frames], begin, None if residual is None else residual[:, :, frames])
    assert_close("conv3d", out, exact.relu() if relu else exact, scale=exact.abs().max().item())
    untouched = wide.permute(0, 4, 1, 2, 3)
    assert (untouched[:, : around[0]] == SENTINEL).all()
    assert (untouched[:, inside.stop :] == SENTINEL).all()
    assert torch.equal(x, before)


@pytest.mark.parametrize(
    ("channels", "kernel", "stride", "padding"),
    [
        (16, THREE, ONE, (1, 1, 1)),
        (16, THREE, (1, 2, 2), (1, 1, 1)),
        (16, (1, 3, 3), ONE, (0, 0, 2)),
        (16, (3, 1, 1), (2, 1, 1), (1, 0, 0)),
        (16, ONE, ONE, (1, 0, 2)),
        (16, ONE, (1, 2, 2), (0, 0, 0)),
        (3, (3, 7, 7), (1, 2, 2), (1, 3, 3)),
    ],
)
def test_padding_of_other_networks(
    form: str, channels: int, kernel: Triple, stride: Triple, padding: Triple
) -> None:
    check(clip(2, channels, (4, 6, 8)), 16, kernel, stride, padding=padding, pieces=2)


RESIDUALS = {
    "three": ((2, 16, (3, 5, 7)), 24, THREE, ONE, None),
    "one": ((2, 16, (3, 5, 7)), 24, ONE, ONE, None),
    "strided": ((2, 16, (3, 5, 7)), 24, (1, 3, 3), (1, 2, 2), (0, 1, 1)),
    "folded": ((1, 3, (4, 6, 7)), 16, THREE, (1, 2, 2), (1, 1, 1)),
    "odd": ((1, 17, (2, 3, 5)), 19, (3, 1, 1), ONE, None),
}


@pytest.mark.parametrize("name", RESIDUALS)
def test_residuals(form: str, name: str, chosen: list[Config]) -> None:
    """Dense, repeated, a slice of a wider clip with no alignment of its own, and the output itself."""
    (n, channels, size), out_channels, kernel, stride, padding = RESIDUALS[name]
    x = clip(n, channels, size)
    weight, bias = weights(out_channels, channels, kernel)
    shape = pack(weight, bias, stride, True, x.dtype, padding)(x).shape
    wide = 3 * clip(n, out_channels + 16, (shape[2], shape[3], shape[4]), seed=5)
    dense = wide[:, 8 : 8 + out_channels].contiguous(memory_format=torch.channels_last_3d)
    slices = wide[:, 8 : 8 + out_channels], wide[:, 3 : 3 + out_channels], dense[:, :, :1].expand(shape)
    for residual in (dense, *slices):
        check(x, out_channels, kernel, stride, padding=padding, residual=residual, pieces=2)
    check(x, out_channels, kernel, stride, padding=padding, residual=dense, in_place=True, relu=False)
    expected = form if name in ("three", "one") else "pointer"
    assert {c.form for c in chosen[1:2]} == {expected}


def test_residuals_in_bfloat16_are_added_before_the_sum_is_rounded(form: str) -> None:
    x = clip(1, 32, (2, 4, 5), torch.bfloat16)
    weight, bias = weights(40, 32, THREE)
    packed = pack(weight.bfloat16().float(), bias, ONE, False, x.dtype)
    exact = F.conv3d(pad_same(x.double(), THREE, ONE), weight.bfloat16().double(), bias.double())
    residual = (0.01 * torch.randn(exact.shape) - exact).bfloat16()
    residual = residual.contiguous(memory_format=torch.channels_last_3d)
    difference = exact + residual.double()
    assert_close("conv3d", packed(x, residual=residual), difference, scale=difference.abs().max().item())


def check_split(x: Tensor, parts: tuple[int, int], around: tuple[int, int] = (8, 8)) -> None:
    """One product into a slice each of two wider clips, and compares."""
    weight, bias = weights(sum(parts), x.shape[1], ONE)
    packed = pack(weight, bias, ONE, True, x.dtype)
    exact = F.conv3d(x.double(), weight.double(), bias.double())
    n, _, t, h, w = exact.shape
    wides = [
        torch.full((n, t, h, w, around[0] + part + around[1]), SENTINEL, dtype=x.dtype) for part in parts
    ]
    outs = []
    for part, wide in zip(parts, wides, strict=True):
        wide[..., around[0] : around[0] + part] = torch.nan
        outs.append(wide.permute(0, 4, 1, 2, 3)[:, around[0] : around[0] + part])
    packed.into_two(x, outs[0], outs[1])
    assert_close("conv3d", torch.cat(outs, 1), exact.relu(), scale=exact.abs().max().item())
    for part, wide in zip(parts, wides, strict=True):
        assert (wide[..., : around[0]] == SENTINEL).all()
        assert (wide[..., around[0] + part :] == SENTINEL).all()


@pytest.mark.parametrize("parts", [(16, 32), (64, 112), (192, 112), (8, 24), (136, 8)])
def test_two_outputs(form: str, parts: tuple[int, int], chosen: list[Config]) -> None:
    check_split(clip(2, 48, (2, 3, 5)), parts)
    check_split(clip(2, 16, (2, 3, 5), torch.bfloat16), parts)
    assert {c.form for c in chosen} == {form}


def test_two_outputs_of_any_layout(form: str, chosen: list[Config]) -> None:
    check_split(clip(2, 40, (4, 6, 7))[:, 8:24, 1:3, ::2], (16, 24))
    assert chosen.pop().form == form
    check_split(clip(1, 16, (2, 3, 5)), (16, 24), around=(3, 5))
    check_split(clip(1, 16, (2, 3, 5)), (11, 22), around=(0, 0))
    check_split(clip(2, 24, (2, 3, 5)).contiguous(), (17, 32), around=(0, 7))
    assert {c.form for c in chosen} == {"pointer"}


@pytest.mark.parametrize("channels", [8, 16, 24, 48, 96])
@pytest.mark.parametrize("kernel", [ONE, THREE])
def test_channels(form: str, kernel: Triple, channels: int, chosen: list[Config]) -> None:
    size = (3, 5, 7) if kernel == ONE or channels < 48 else (2, 3, 5)
    check(clip(2, channels, size), channels + 8, kernel)
    folded = channels < 16 and kernel == THREE  # whose rows overlap, which descriptors are not trusted with
    assert {c.form for c in chosen} == {"pointer" if folded else form}


@pytest.mark.parametrize(
    ("kernel", "size"),
    [
        ((1, 3, 3), (3, 4, 5)),
        ((3, 1, 1), (4, 3, 3)),
        ((2, 1, 2), (3, 2, 5)),
        ((1, 1, 7), (1, 2, 9)),
        ((5, 2, 4), (2, 3, 3)),
        (THREE, (1, 1, 1)),
        (THREE, (2, 1, 9)),
    ],
)
def test_windows(form: str, kernel: Triple, size: Triple, chosen: list[Config]) -> None:
    check(clip(1, 16, size), 24, kernel, relu=False)
    assert {c.form for c in chosen} == {form}


@pytest.mark.parametrize("stride", [TWO, (1, 2, 2), (2, 1, 1)])
@pytest.mark.parametrize("size", [(3, 5, 4), (4, 4, 5)])
def test_strides(form: str, stride: Triple, size: Triple, chosen: list[Config]) -> None:
    check(clip(2, 16, size), 16, THREE, stride)
    check(clip(2, 24, size), 16, ONE, stride)
    assert {c.form for c in chosen} == {"pointer"}


def test_bfloat16(form: str) -> None:
    check(clip(1, 32, (2, 4, 5), torch.bfloat16), 40, THREE)
    check(clip(1, 32, (2, 4, 5), torch.bfloat16), 40, ONE)
    check(clip(1, 3, (3, 6, 5), torch.bfloat16), 16, THREE, TWO)


FLOAT32: dict[str, tuple[int, int, Triple, Triple]] = {
    "three": (40, 44, THREE, ONE),
    "one": (20, 12, ONE, ONE),
    "strided": (16, 24, (1, 3, 3), (1, 2, 2)),
    "odd": (17, 9, (3, 1, 1), ONE),
    "stem": (3, 16, (7, 7, 7), TWO),
}


@pytest.mark.parametrize("name", FLOAT32)
def test_float32(form: str, name: str, chosen: list[Config]) -> None:
    """Four values are 16 bytes: more channels and slices are aligned than in half precision."""
    channels, out_channels, kernel, stride = FLOAT32[name]
    check(clip(2, channels, (3, 4, 5), torch.float32), out_channels, kernel, stride, around=(4, 12), pieces=2)
    assert {c.form for c in chosen} == {form if name in ("three", "one") else "pointer"}
    assert {c.precision for c in chosen} == {Precision.TF32X3}
    if name == "one":
        residual = clip(2, out_channels, (3, 4, 5), torch.float32, seed=5)
        check(clip(2, channels, (3, 4, 5), torch.float32), out_channels, kernel, residual=residual)
        check_split(clip(2, channels, (3, 4, 5), torch.float32), (12, 20), around=(4, 4))
        assert {c.form for c in chosen} == {form}


def test_float32_as_one_product_is_less_exact(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """So what passes above makes three."""
    monkeypatch.setattr(launch, "precision_of", lambda dtype: Precision.TF32)
    x = clip(2, 32, (3, 4, 5), torch.float32)
    with pytest.raises(AssertionError, match=r"conv3d in torch\.float32: error 0\.000"):
        check(x, 16, THREE)
    check(x.half().float(), 16, THREE, weight_dtype=torch.float16)


@pytest.mark.parametrize("size", [(4, 8, 7), (3, 5, 6), (1, 1, 1)])
def test_the_stem(form: str, size: Triple, chosen: list[Config]) -> None:
    check(clip(2, 3, size), 64, (7, 7, 7), TWO)
    if size[2] > 2:  # else no rows overlap
        assert {(c.form, c.block_k) for c in chosen} == {("pointer", 32)}


@pytest.mark.parametrize("channels", [1, 2, 5, 15])
def test_few_channels(form: str, channels: int) -> None:
    check(clip(1, channels, (3, 4, 5)), 16, THREE, (2, 1, 2))
    check(clip(2, channels, (2, 3, 5)), 16, (1, 3, 3))
    check(clip(1, channels, (2, 3, 5)), 16, ONE, (1, 2, 1))


def test_few_channels_in_any_layout(form: str) -> None:
    wide = clip(2, 5, (4, 6, 7))
    for x in (
        wide.contiguous(),
        wide[:, 1:4],
        wide[:, :2, ::2, 1:, :5],
        wide[:, :, :1].expand(-1, -1, 3, -1, -1),
    ):
        check(x, 16, THREE, TWO)
    check(wide.contiguous(), 16, ONE)


@pytest.mark.parametrize(("kernel", "stride"), [((7, 7, 7), TWO), (THREE, (1, 2, 1))])
def test_bytes_are_scaled_as_they_are_folded(
    kernel: Triple, stride: Triple, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To the bit as if they had been scaled before: every byte, and zeros around the clip."""
    monkeypatch.setattr(launch, "gpu_traits", lambda device: CHIPS["pointer"])
    frames = torch.arange(2 * 3 * 4 * 11 * 3).reshape(2, 3, 4, 11, 3).to(torch.uint8)
    assert len(frames.unique()) == 256
    apart = frames.repeat_interleave(2, dim=2)[:, :, ::2]
    weight, bias = weights(16, 3, kernel)
    packed = pack(weight, bias, stride, False, torch.float16)
    expected = packed(as_floats(frames.permute(0, 4, 1, 2, 3), torch.float16))
    for x in (frames, frames.transpose(1, 4).contiguous().transpose(1, 4), apart):
        out = torch.full_like(expected, torch.nan)
        for frame in range(out.shape[2]):
            packed(x.permute(0, 4, 1, 2, 3), out[:, :, frame : frame + 1], frame)
        assert torch.equal(out, expected)


@pytest.mark.parametrize("its", VARIANTS.values(), ids=VARIANTS)
def test_bytes_are_normalized_as_they_are_folded(its: Variant, monkeypatch: pytest.MonkeyPatch) -> None:
    """To the bit as if mean and standard deviation had been taken before, and zeros around the clip after."""
    monkeypatch.setattr(launch, "gpu_traits", lambda device: CHIPS["pointer"])
    kernel, stride = its.stem, (its.stem_stride, 2, 2)
    padding = (kernel[0] // 2, kernel[1] // 2, kernel[2] // 2)
    scaling = Scaling(its.preprocessing.mean, its.preprocessing.std)
    frames = torch.arange(2 * 3 * 4 * 11 * 3).reshape(2, 3, 4, 11, 3).to(torch.uint8).permute(0, 4, 1, 2, 3)
    weight, bias = weights(16, 3, kernel)
    geometry = Geometry(kernel, stride, padding, False)
    packed = TritonConv3d.of(weight, bias, geometry, torch.float16)
    expected = packed(as_floats(frames, torch.float16, scaling))
    out = torch.full_like(expected, torch.nan)
    packed.of_bytes(scaling, 3)(frames, out)
    assert torch.equal(out, expected)
    plain.fold_into(frames, geometry, cells := packed.new_cells(frames), scaling)
    folded = torch.full_like(cells, torch.nan)
    packed.of_bytes(scaling, 3).fold(frames, folded)
    assert torch.equal(folded, cells)


@pytest.mark.parametrize("channels", [17, 20])
def test_channels_that_are_no_multiple_of_8(form: str, channels: int, chosen: list[Config]) -> None:
    check(clip(1, channels, (2, 3, 5)), 19, (1, 3, 3), around=(0, 0))
    check(clip(1, channels, (2, 3, 5)), 16, ONE)
    assert {c.form for c in chosen} == {"pointer"}


def test_slices_that_are_not_aligned(form: str, chosen: list[Config]) -> None:
    check(clip(1, 16, (2, 3, 5)), 16, (1, 3, 3), around=(3, 5))
    check(clip(1, 32, (2, 3, 5))[:, 4:20], 16, (1, 3, 3))
    assert {c.form for c in chosen} == {"pointer"}
    check(clip(1, 16, (2, 3, 5)), 17, (1, 3, 3), around=(8, 7))
    assert chosen[-1].form == form


@pytest.mark.parametrize("kernel", [ONE, THREE])
def test_slices_of_x(form: str, kernel: Triple, chosen: list[Config]) -> None:
    wide = clip(2, 40, (4, 6, 7))
    check(wide[:, 8:24], 16, kernel)
    check(wide[:1, 8:24, 1:3], 16, kernel)
    check(wide[:1, 8:24, :1, 2:, 1:5], 16, kernel)
    assert {c.form for c in chosen} == {form}
    check(wide[:1, :16, ::2], 16, kernel)
    check(wide[:1, :16, :1].expand(-1, -1, 2, -1, -1), 16, kernel)
    check(wide[:1, :16].contiguous(), 16, kernel)


@pytest.mark.parametrize(
    ("channels", "kernel", "stride"),
    [(16, ONE, ONE), (16, THREE, ONE), (16, THREE, TWO), (3, (7, 7, 7), TWO), (3, (1, 1, 3), ONE)],
)
def test_pieces_of_frames(form: str, channels: int, kernel: Triple, stride: Triple) -> None:
    check(clip(2, channels, (7, 4, 5)), 16, kernel, stride, pieces=3)


@pytest.mark.parametrize("tile", config.SMALL_DESCRIPTOR_TILES)
def test_every_descriptor_tile_in_float32(tile: config.Tile, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "gpu_traits", lambda device: CHIPS["descriptor"])
    monkeypatch.setattr(config, "SMALL_DESCRIPTOR_TILES", (tile,))
    config.choose.cache_clear()
    check(clip(2, 36, (3, 5, 6), torch.float32), tile.channels + 8, (1, 3, 1))


@pytest.mark.parametrize("tile", config.SMALL_POINTER_TILES)
def test_every_pointer_tile_in_float32(tile: config.Tile, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "gpu_traits", lambda device: CHIPS["pointer"])
    monkeypatch.setattr(config, "SMALL_POINTER_TILES", (tile,))
    config.choose.cache_clear()
    check(clip(2, 36, (3, 5, 6), torch.float32), tile.channels + 8, (1, 3, 1))


@pytest.mark.parametrize("tile", config.DESCRIPTOR_TILES)
def test_every_descriptor_tile(tile: config.Tile, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second clip and the last channels are beyond the edge of their tiles."""
    monkeypatch.setattr(launch, "gpu_traits", lambda device: CHIPS["descriptor"])
    monkeypatch.setattr(config, "DESCRIPTOR_TILES", (tile,))
    config.choose.cache_clear()
    check(clip(2, 24, (3, 5, 6)), tile.channels + 8, (1, 3, 1))
    residual = clip(2, tile.channels - 8, (3, 5, 6), seed=5)
    check(clip(2, 96, (3, 5, 6)), tile.channels - 8, ONE, residual=residual)
    check_split(clip(2, 24, (3, 5, 6)), (tile.channels + 16, tile.channels - 16))


def test_bytes_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if they had been scaled before, but for that one's rounding."""
    monkeypatch.setattr(launch, "gpu_traits", lambda device: CHIPS["pointer"])
    frames = torch.arange(3 * 4 * 11 * 2).reshape(1, 3, 4, 11, 2).to(torch.uint8)[..., [0, 1, 0]]
    weight, bias = weights(16, 3, THREE)
    packed = pack(weight, bias, TWO, False, torch.float32)
    x = frames.permute(0, 4, 1, 2, 3)
    expected = packed(as_floats(x, torch.float32))
    out = torch.full_like(expected, torch.nan)
    packed(x, out)
    assert_close("conv3d", out, expected)


@pytest.mark.parametrize("tile", config.POINTER_TILES)
def test_every_pointer_tile(tile: config.Tile, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "gpu_traits", lambda device: CHIPS["pointer"])
    monkeypatch.setattr(config, "POINTER_TILES", (tile,))
    config.choose.cache_clear()
    check(clip(2, 24, (3, 5, 6)), tile.channels + 8, (1, 3, 1))
    residual = clip(2, tile.channels - 8, (3, 5, 6), seed=5)
    check(clip(2, 96, (3, 5, 6)), tile.channels - 8, ONE, residual=residual)
    check_split(clip(2, 24, (3, 5, 6)), (tile.channels + 16, tile.channels - 16))


@pytest.mark.parametrize("box", [(2, 2, 2, 4), (1, 4, 1, 8), (4, 1, 8, 1)])
@pytest.mark.parametrize("rest", [0, 16])
def test_boxes(box: config.Box, rest: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "gpu_traits", lambda device: CHIPS["descriptor"])
    tile: dict[str, Any] = {"box": box, "block_n": 32, "block_n_rest": rest, "block_k": 16}
    monkeypatch.setattr(launch, "choose", lambda problem: Config("descriptor", **tile, warps=4, stages=3))
    check(clip(3, 32, (3, 3, 5)), 56, (3, 1, 2))


@pytest.mark.parametrize(("channels", "kernel"), [(24, (1, 3, 1)), (24, ONE), (3, THREE)])
def test_every_candidate(form: str, channels: int, kernel: Triple) -> None:
    """Of a problem, against the reference that ``fasti3d tune`` holds them against."""
    x = clip(2, channels, (3, 4, 5))
    weight, bias = weights(40, channels, kernel)
    out = pack(weight, bias, ONE, True, x.dtype)(x)
    packed = pack_triton(weight, ONE, x.dtype)
    residual = clip(2, 40, (3, 4, 5), seed=5) if channels == 24 else None
    work = launch.prepare(x, packed, bias, Geometry(kernel, ONE, None, True), out, 0, residual)
    expected = tune.reference(work)
    for candidate in candidates(work.problem):
        work.out.fill_(torch.nan)
        launch.run(candidate, work)
        assert tune.fault(work, expected) is None, candidate


@pytest.mark.parametrize(
    ("channels", "kernel", "stride"), [(16, THREE, ONE), (16, ONE, ONE), (16, ONE, TWO), (3, (3, 5, 5), TWO)]
)
def test_strides_beyond_two_to_the_31(form: str, channels: int, kernel: Triple, stride: Triple) -> None:
    """Clips and results that lie 2**31 values apart, in memory that is only there where it is touched."""
    size, apart = (2, 3, 4), 2**31 + 64
    small = clip(2, channels, size)
    weight, bias = weights(16, channels, kernel)
    packed = pack(weight, bias, stride, True, small.dtype)
    expected = packed(small)

    def far(like: Tensor) -> Tensor:
        memory = torch.empty(apart + 2 * like[0].numel(), dtype=like.dtype)
        return memory.as_strided(like.shape, (apart, *like.stride()[1:]))

    x, out = far(small), far(expected)
    x.copy_(small)
    check_sums(True)
    packed(x, out.fill_(torch.nan))
    check_sums(False)
    assert torch.equal(out, expected)


@pytest.mark.parametrize(
    ("channels", "dtype"), [(16, torch.float16), (24, torch.float16), (16, torch.float32)], ids=str
)
def test_non_finite_values_reach_every_output_they_touch(
    form: str, channels: int, dtype: torch.dtype
) -> None:
    """As what they are: of the parts of an infinite float32 one is not a number."""
    x = clip(2, channels, (3, 4, 5), dtype)
    weight, bias = weights(16, channels, THREE)
    packed = pack(weight, bias, ONE, True, x.dtype)
    clean = packed(x)
    for value in (torch.nan, torch.inf, -torch.inf):
        x[1, 1, 1, 2, 3] = value
        exact = F.conv3d(pad_same(x.double(), THREE, ONE), weight.double(), bias.double())
        y = packed(x)
        assert torch.equal(y[0], clean[0])
        assert torch.equal(y[1].isfinite(), exact[1].relu().isfinite())
        assert torch.equal(y[1].isnan(), exact[1].isnan())


@pytest.mark.parametrize("kernel", [ONE, THREE])
@pytest.mark.parametrize("value", [torch.inf, torch.nan])
def test_weights_that_are_not_finite_meet_no_other_pixels(form: str, kernel: Triple, value: float) -> None:
    """The last chunk of a tap has more places than the 24 channels; the weight is the next tap's first."""
    x = clip(1, 24, (2, 3, 4))
    weight, bias = weights(40, 24, kernel)
    middle = tuple(n // 2 for n in kernel)
    weight[(7, 0, *middle)] = value
    weight[(7, 0, *(n - 1 for n in kernel))] = value
    y = pack(weight, bias, ONE, False, x.dtype)(x)
    exact = F.conv3d(pad_same(x.double(), kernel, ONE), weight.double(), bias.double())
    for what in (torch.isnan, torch.isposinf, torch.isneginf):
        assert torch.equal(what(y), what(exact))
    assert y[:, 8:].isfinite().all()


@pytest.mark.parametrize("value", [torch.inf, torch.nan])
def test_weights_of_one_output_that_are_not_finite_leave_the_other(form: str, value: float) -> None:
    x = clip(1, 24, (2, 3, 4))
    weight, bias = weights(48, 24, ONE)
    weight[16:] = value
    first, second = (torch.empty_like(x[:, :16]), torch.empty(1, 32, 2, 3, 4, dtype=x.dtype))
    second = second.contiguous(memory_format=torch.channels_last_3d)
    pack(weight, bias, ONE, False, x.dtype).into_two(x, first, second)
    assert first.isfinite().all()
    assert not second.isfinite().any()


def test_empty_batch(form: str) -> None:
    weight, bias = weights(16, 16, THREE)
    assert pack(weight, bias, TWO, True, torch.float16)(clip(1, 16, (3, 4, 5))[:0]).shape == (0, 16, 2, 2, 3)
