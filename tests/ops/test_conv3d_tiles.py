"""The bfloat16 convolution on matrix tiles: AMX where the CPU has it, and everywhere in plain C++."""

from __future__ import annotations

import ctypes
import itertools
import mmap
import random
from collections.abc import Callable, Iterator
from typing import NamedTuple

import pytest
import torch
import torch.nn.functional as F
from tolerances import assert_close
from torch import Tensor

from fasti3d.ops.conv3d_bn_relu.geometry import Geometry
from fasti3d.ops.conv3d_bn_relu.packed import PackedConv3d, TilesConv3d
from fasti3d.ops.conv3d_bn_relu.tiles import TileForm, tile_form
from fasti3d.runtime import extension

Triple = tuple[int, int, int]

LAST = torch.channels_last_3d
CHANNELS = [1, 2, 3, 5, 8, 10, 16, 17, 24, 32, 33, 48, 64, 80, 112]
WINDOWS: list[Triple] = [(1, 1, 1), (3, 3, 3), (1, 3, 3), (3, 1, 1), (2, 3, 7), (1, 1, 2)]

pytestmark = pytest.mark.skipif(extension.CORE is None, reason="the extension was not built")


@pytest.fixture(params=["emulated", "amx"])
def tiles(request: pytest.FixtureRequest) -> Iterator[None]:
    """Inside, tiles are the CPU's or plain C++."""
    assert extension.CORE is not None
    before = extension.CORE.isa()
    if request.param == "amx" and before != "amx":
        pytest.skip("this CPU, or FASTI3D_ISA, offers no amx")
    extension.CORE.limit_isa("amx" if request.param == "amx" else "baseline")
    yield
    extension.CORE.limit_isa(before)


class Layer(NamedTuple):
    """Clip, weights that bfloat16 holds exactly, and window."""

    x: Tensor
    weight: Tensor
    bias: Tensor
    geometry: Geometry

    def exact(self) -> Tensor:
        """The sums in float64, before residual and ReLU."""
        pads = [zeros for pair in reversed(self.geometry.pads(self.x.shape[2:])) for zeros in pair]
        padded = F.pad(self.x.double(), pads)
        return F.conv3d(padded, self.weight.double(), self.bias.double(), self.geometry.stride)

    def packed(self) -> PackedConv3d:
        return TilesConv3d.of(self.weight, self.bias, self.geometry)


def make_layer(
    channels: tuple[int, int],
    kernel: Triple,
    size: Triple,
    *,
    batch: int = 1,
    stride: Triple = (1, 1, 1),
    padding: Triple | None = None,
    relu: bool = False,
    seed: int = 0,
) -> Layer:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(batch, channels[0], *size, generator=generator).bfloat16().contiguous(memory_format=LAST)
    weight = torch.randn(channels[1], channels[0], *kernel, generator=generator)
    weight = (weight / weight[0].numel() ** 0.5).bfloat16().float()
    return Layer(
        x, weight, torch.randn(channels[1], generator=generator), Geometry(kernel, stride, padding, relu)
    )


def check(layer: Layer) -> None:
    """In a slice of wider clips with a residual, and from a later frame on."""
    sums = layer.exact()
    scale = sums.abs().max().item()
    finish = F.relu if layer.geometry.relu else torch.Tensor
    convolve = layer.packed()
    assert_close("conv3d_tiles", convolve(layer.x), finish(sums), scale=scale)

    n, channels, frames, *space = sums.shape
    residual = torch.randn(sums.shape, generator=torch.Generator().manual_seed(7)).bfloat16()
    wide = torch.full((n, channels + 7, frames, *space), 99.0).bfloat16().contiguous(memory_format=LAST)
    start = frames // 2
    out = wide[:, 5 : 5 + channels, : frames - start]
    added = residual[:, :, start:].contiguous(memory_format=LAST)
    assert convolve(layer.x, out, start, added) is out
    expected = finish(sums + residual)[:, :, start:]
    assert_close("conv3d_tiles", out, expected, scale=(sums + residual).abs().max().item())
    assert bool((wide[:, :5] == 99).all())
    assert bool((wide[:, 5 + channels :] == 99).all())
    assert bool((wide[:, :, frames - start :] == 99).all())


def random_layer(seed: int) -> Layer:
    pick = random.Random(seed)
    kernel = pick.choice([*WINDOWS, tuple(pick.choices((1, 2, 3, 4, 5, 7), k=3))])
    size = tuple(pick.randint(1, 11) for _ in range(3))
    zeros = [(max(0, (k - n + 1) // 2), k // 2 + 1) for k, n in zip(kernel, size, strict=True)]
    padding = tuple(pick.randint(least, max(least, most)) for least, most in zeros)
    return make_layer(
        (pick.choice(CHANNELS), pick.choice([1, 8, 16, 17, 32, 40, 100])),
        kernel,
        size,
        batch=pick.randint(1, 3),
        stride=pick.choice([(1, 1, 1), (1, 1, 1), (2, 2, 2), tuple(pick.choices((1, 2, 3), k=3))]),
        padding=pick.choice([None, padding]),
        relu=pick.random() < 0.5,
        seed=seed,
    )


def test_random_layers(tiles: None, set_threads: Callable[[int], None]) -> None:
    for seed in range(60):
        set_threads(1 + seed % 3)
        check(random_layer(seed))


@pytest.mark.parametrize("kernel", WINDOWS)
def test_channels(tiles: None, kernel: Triple) -> None:
    for channels in zip(CHANNELS, reversed(CHANNELS), strict=True):
        check(make_layer(channels, kernel, (2, 3, 9)))


def test_numbers_of_pixels_about_a_tile(tiles: None) -> None:
    for kernel, channels, width in itertools.product(
        [(1, 1, 1), (1, 3, 3)], (3, 32), (1, 15, 16, 17, 33, 50)
    ):
        check(make_layer((channels, 17), kernel, (1, 1, width)))


def test_strides_beyond_the_window(tiles: None) -> None:
    """What lies between windows is neither copied nor kept in memory."""
    for stride, channels in itertools.product([(3, 4, 5), (1, 5, 2), (2**31 - 1,) * 3], (3, 32)):
        check(make_layer((channels, 17), (2, 3, 3), (7, 9, 38), stride=stride))


def test_layers_of_the_network(tiles: None) -> None:
    for layer in (
        make_layer((3, 64), (7, 7, 7), (5, 18, 20), stride=(2, 2, 2), relu=True),
        make_layer((2, 64), (7, 7, 7), (4, 17, 19), stride=(2, 2, 2), relu=True),
        make_layer((528, 32), (1, 1, 1), (1, 7, 7), relu=True),
        make_layer((192, 40), (3, 3, 3), (2, 7, 7), relu=True),
        # More than a few rows of a frame, frames of a unit, and panels.
        make_layer((96, 80), (3, 3, 3), (5, 14, 14), batch=2),
        make_layer((16, 200), (3, 3, 3), (2, 29, 30)),
    ):
        check(layer)


def test_layouts_of_the_clip(tiles: None) -> None:
    for channels, kernel in itertools.product((3, 32), [(1, 1, 1), (2, 3, 3)]):
        layer = make_layer((channels, 17), kernel, (4, 6, 7), batch=2)
        expected, wide = layer.packed()(layer.x), layer.x.repeat(1, 2, 2, 2, 2).contiguous(memory_format=LAST)
        for x in (
            wide[:, :channels, :4, :6, :7],
            wide[:, channels:, 4:, 6:, 7:],
            layer.x.repeat_interleave(2, dim=4).contiguous(memory_format=LAST)[..., ::2],
            layer.x[:1].expand(2, -1, -1, -1, -1),
            *([layer.x.contiguous()] if channels < 16 else []),
        ):
            assert torch.equal(layer.packed()(x)[0], expected[0])
        assert torch.equal(layer.packed()(layer.x[:, :, 1:]), layer.packed()(layer.x[:, :, 1:].clone()))


def test_the_result_depends_on_nothing_but_the_arguments(
    tiles: None, set_threads: Callable[[int], None]
) -> None:
    """Neither on threads nor on the batch, whatever the cut of the work."""
    for channels, kernel in (((32, 48), (1, 1, 1)), ((48, 80), (3, 3, 3)), ((3, 64), (3, 7, 7))):
        layer = make_layer(channels, kernel, (3, 14, 15), batch=3)
        results = []
        for threads in (1, 2, 3, 8):
            set_threads(threads)
            results.append(layer.packed()(layer.x))
        each = torch.cat([layer.packed()(clip) for clip in layer.x.split(1)])
        frames = torch.empty_like(each)
        for t in range(each.shape[2]):
            layer.packed()(layer.x, frames[:, :, t : t + 1], t)
        for other in (*results[1:], each, frames):
            assert torch.equal(other, results[0])


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_not_finite_reach_the_outputs_whose_windows_they_are_in(
    tiles: None, value: float
) -> None:
    for channels, kernel, stride in itertools.product(
        (3, 5, 17, 24, 33, 64), [(1, 1, 1), (3, 3, 3), (1, 2, 7)], [(1, 1, 1), (1, 2, 2)]
    ):
        layer = make_layer((channels, 17), kernel, (3, 5, 19), stride=stride)
        touched = layer._replace(x=torch.zeros_like(layer.x), weight=torch.ones_like(layer.weight))
        touched.x[0, channels - 1, 1, 2, 9] = 1
        mask = (touched._replace(bias=torch.zeros_like(layer.bias))).exact() != 0
        finite = layer.packed()(layer.x)
        layer.x[0, channels - 1, 1, 2, 9] = value
        y = layer.packed()(layer.x)
        assert torch.equal(~torch.isfinite(y), mask)
        assert torch.equal(y[~mask], finite[~mask])


def test_relu_keeps_nan(tiles: None) -> None:
    layer = make_layer((16, 17), (1, 1, 1), (1, 2, 9), relu=True)
    layer.bias[3] = float("nan")
    y = layer.packed()(layer.x)
    assert torch.equal(y.isnan().any(0).flatten(1).all(1), torch.arange(17) == 3)


def test_forms() -> None:
    assert tile_form(3, (7, 7, 7)) == TileForm(True, 4, 1, 14)
    assert tile_form(16, (3, 3, 3)) == TileForm(True, 16, 2, 12)
    assert tile_form(192, (1, 1, 1)) == TileForm(False, 192, 6, 16)
    assert tile_form(112, (1, 1, 1)) == TileForm(False, 112, 4, 14)
    for channels, columns in itertools.product(range(1, 200), range(1, 12)):
        form = tile_form(channels, (1, 3, columns))
        run = columns * form.channels if form.merged else form.channels
        # Products take all of a run and nothing after it, and there are no more of them than pixel by pixel.
        assert form.steps * form.pairs * 2 == run
        assert 1 <= form.pairs <= 16
        assert form.channels >= channels
        assert form.steps * (1 if form.merged else columns) <= columns * -(-channels // 32)


def test_bad_arguments(tiles: None) -> None:
    layer = make_layer((32, 16), (3, 3, 3), (2, 4, 5))
    packed, out = layer.packed(), layer.packed()(layer.x)
    run = torch.ops.fasti3d.conv3d_tiles_
    rest = *layer.geometry, out, 0
    with pytest.raises(RuntimeError, match=r"packed does not hold weights of shape \(16, 32, 3, 3, 3\)"):
        run(layer.x, packed.weight[:, :9].contiguous(), packed.bias, *rest)
    with pytest.raises(RuntimeError, match="x and packed must be bfloat16"):
        run(layer.x.float(), packed.weight, packed.bias, *layer.geometry, out.float(), 0)
    with pytest.raises(RuntimeError, match="out refer to a single memory location"):
        run(out, packed.weight[:1].contiguous(), packed.bias, *rest)


def _machine_code(code: bytes) -> Callable[[ctypes.Array[ctypes.c_char]], None]:
    """A function of an address."""
    memory = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    memory.write(code)
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    function = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(address)

    def call(argument: ctypes.Array[ctypes.c_char]) -> None:
        assert memory is not None  # as long as the function
        function(ctypes.addressof(argument))

    return call


@pytest.mark.skipif(extension.instruction_set() != "amx", reason="this CPU, or FASTI3D_ISA, offers no amx")
def test_the_layout_of_the_tiles_is_that_of_before(set_threads: Callable[[int], None]) -> None:
    """Others compute with tiles on the same thread, and need not lay them out again."""
    set_threads(1)
    load = _machine_code(bytes.fromhex("c4e2784907c3"))  # ldtilecfg [rdi]; ret
    store = _machine_code(bytes.fromhex("c4e2794907c3"))  # sttilecfg [rdi]; ret
    theirs = bytearray(64)
    theirs[0], theirs[16], theirs[48] = 1, 48, 5  # tile 0: 5 rows of 48 bytes
    for before in (bytes(theirs), bytes(64)):
        load(ctypes.create_string_buffer(before, 64))
        layer = make_layer((32, 16), (3, 3, 3), (2, 4, 5))
        layer.packed()(layer.x)
        after = ctypes.create_string_buffer(64)
        store(after)
        assert after.raw == before
