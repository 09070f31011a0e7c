"""The Triton convolutions on a GPU: every configuration at full size on random data, against float32."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest
import torch
import torch.nn.functional as F
from i3d_making import make_i3d, ordinary
from requiring import require
from tolerances import TOLERANCES, assert_close
from torch import Tensor

from fasti3d import network
from fasti3d.inputs import as_floats
from fasti3d.inspect import tune
from fasti3d.ops import conv3d_bn_relu
from fasti3d.ops.conv3d_bn_relu import PackedConv3d, config
from fasti3d.ops.conv3d_bn_relu.candidates import candidates
from fasti3d.ops.conv3d_bn_relu.geometry import Geometry
from fasti3d.ops.conv3d_bn_relu.packed import TritonConv3d
from fasti3d.runtime import gpu
from fasti3d.same_padding import pad_same

if TYPE_CHECKING:
    from fasti3d.ops.conv3d_bn_relu.launch import Prepared

pytestmark = pytest.mark.gpu

Triple = tuple[int, int, int]

ONE, THREE, TWO = (1, 1, 1), (3, 3, 3), (2, 2, 2)
HALVES = (torch.float16, torch.bfloat16)
DTYPES = (*HALVES, torch.float32)
BATCHES = (1, 3, 8)
SENTINEL = 1234.0
# (input channels, output channels, input size, kernel, stride) of I3D's on 64 frames of 224x224.
CONVOLUTIONS: dict[str, tuple[int, int, Triple, Triple, Triple]] = {
    "1a": (3, 64, (64, 224, 224), (7, 7, 7), TWO),
    "2b": (64, 64, (32, 56, 56), ONE, ONE),
    "2c": (64, 192, (32, 56, 56), THREE, ONE),
}
_MAPS = {"3": (32, 28, 28), "4": (16, 14, 14), "5": (8, 7, 7)}
_CHANNELS = 192
for _name, _part in network.TRUNK.items():
    if isinstance(_part, network.Mixed):
        _place, _size = _name.removeprefix("Mixed_"), _MAPS[_name[6]]
        for _branch in ("b0", "b1a", "b2a", "b3b"):
            CONVOLUTIONS[_place + _branch] = (_CHANNELS, getattr(_part, _branch), _size, ONE, ONE)
        CONVOLUTIONS[_place + "b1b"] = (_part.b1a, _part.b1b, _size, THREE, ONE)
        CONVOLUTIONS[_place + "b2b"] = (_part.b2a, _part.b2b, _size, THREE, ONE)
        _CHANNELS = _part.out_channels
BLOCKS = [name.removesuffix("b0") for name in CONVOLUTIONS if name.endswith("b0")]


@pytest.fixture(autouse=True)
def _fresh_choices() -> Iterator[None]:
    """Forgets what was chosen among the candidates that a test changed."""
    yield
    config.choose.cache_clear()


@pytest.fixture(autouse=True)
def _kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    require(gpu.why_not(torch.device("cuda"), torch.float16))
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


def clip(batch: int, channels: int, size: Triple, dtype: torch.dtype, seed: int = 0) -> Tensor:
    generator = torch.Generator("cuda").manual_seed(seed)
    x = torch.randn(batch, *size, channels, generator=generator, device="cuda", dtype=dtype)
    return x.permute(0, 4, 1, 2, 3)


def weights(out_channels: int, channels: int, kernel: Triple) -> tuple[Tensor, Tensor]:
    generator = torch.Generator("cuda").manual_seed(1)
    weight = torch.randn(out_channels, channels, *kernel, generator=generator, device="cuda")
    return weight / weight[0].numel() ** 0.5, torch.randn(out_channels, generator=generator, device="cuda")


def check(
    x: Tensor,
    out_channels: int,
    kernel: Triple,
    stride: Triple = ONE,
    around: int = 16,
    pieces: int = 1 << 30,
    padding: Triple | None = None,
) -> None:
    """Into a poisoned channel slice with sentinels around it, in pieces of so many frames, and twice."""
    weight, bias = weights(out_channels, x.shape[1], kernel)
    packed = PackedConv3d.pack(weight, bias, stride, relu=True, dtype=x.dtype, padding=padding)
    assert isinstance(packed, TritonConv3d)
    padded = pad_same(x.float(), kernel, stride) if padding is None else x.float()
    exact = F.conv3d(padded, weight, bias, stride, padding or 0)
    n, _, t, h, w = exact.shape
    inside = slice(around, around + out_channels)
    results = []
    for _ in range(2):
        wide = torch.full((n, t, h, w, out_channels + 2 * around), SENTINEL, dtype=x.dtype, device="cuda")
        wide[..., inside] = torch.nan
        wide = wide.permute(0, 4, 1, 2, 3)
        for begin in range(0, t, pieces):
            packed(x, wide[:, inside, begin : begin + pieces], begin)
        results.append(wide)
    assert torch.equal(*results)
    assert_close("conv3d", wide[:, inside], exact.relu(), scale=exact.abs().max().item())
    assert (wide[:, : inside.start] == SENTINEL).all()
    assert (wide[:, inside.stop :] == SENTINEL).all()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_every_convolution_of_the_network(name: str, batch: int, dtype: torch.dtype) -> None:
    channels, out_channels, size, kernel, stride = CONVOLUTIONS[name]
    check(clip(batch, channels, size, dtype), out_channels, kernel, stride)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("place", BLOCKS)
def test_convolutions_of_one_clip_as_one(place: str, batch: int, dtype: torch.dtype) -> None:
    """Each of the two outputs a poisoned channel slice with sentinels around it."""
    channels, b0, size, _, _ = CONVOLUTIONS[place + "b0"]
    parts = (b0, CONVOLUTIONS[place + "b1a"][1] + CONVOLUTIONS[place + "b2a"][1])
    x = clip(batch, channels, size, dtype)
    weight, bias = weights(sum(parts), channels, ONE)
    packed = PackedConv3d.pack(weight, bias, ONE, relu=True, dtype=dtype)
    wides = []
    for part in parts:
        wide = torch.full((batch, *size, part + 32), SENTINEL, dtype=dtype, device="cuda")
        wide[..., 16:-16] = torch.nan
        wides.append(wide.permute(0, 4, 1, 2, 3))
    packed.into_two(x, wides[0][:, 16:-16], wides[1][:, 16:-16])
    exact = F.conv3d(x.float(), weight, bias)
    actual = torch.cat([wide[:, 16:-16] for wide in wides], 1)
    assert_close("conv3d", actual, exact.relu(), scale=exact.abs().max().item())
    for wide in wides:
        assert (wide[:, :16] == SENTINEL).all()
        assert (wide[:, -16:] == SENTINEL).all()


def check_candidates(work: Prepared) -> None:
    """Everything that may be chosen, each into poisoned memory."""
    from fasti3d.ops.conv3d_bn_relu import launch

    expected = tune.reference(work)
    for chosen in candidates(work.problem):
        for out in (work.out, work.second):
            if out is not None:
                out.fill_(torch.nan)
        launch.run(chosen, work)
        assert (wrong := tune.fault(work, expected)) is None, f"{chosen.short}: {wrong}"


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_every_candidate(name: str, batch: int, dtype: torch.dtype) -> None:
    from fasti3d.ops.conv3d_bn_relu import launch

    channels, out_channels, size, kernel, stride = CONVOLUTIONS[name]
    x = clip(batch, channels, size, dtype)
    packed = PackedConv3d.pack(*weights(out_channels, channels, kernel), stride, relu=True, dtype=dtype)
    out = torch.empty_like(packed(x))
    geometry = Geometry(kernel, stride, None, True)
    check_candidates(launch.prepare(x, packed.weight, packed.bias, geometry, out, 0))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("place", BLOCKS)
def test_every_candidate_of_convolutions_as_one(place: str, batch: int, dtype: torch.dtype) -> None:
    from fasti3d.ops.conv3d_bn_relu import launch

    channels, b0, size, _, _ = CONVOLUTIONS[place + "b0"]
    between = CONVOLUTIONS[place + "b1a"][1] + CONVOLUTIONS[place + "b2a"][1]
    x, out, second = (clip(batch, c, size, dtype) for c in (channels, b0, between))
    packed = PackedConv3d.pack(*weights(b0 + between, channels, ONE), ONE, relu=True, dtype=dtype)
    check_candidates(launch.prepare_split(x, packed.weight, packed.bias, True, out, second))


@pytest.mark.parametrize(
    ("channels", "kernel", "stride", "padding"),
    [
        (64, THREE, ONE, (1, 1, 1)),
        (64, THREE, TWO, (1, 1, 1)),
        (64, (1, 3, 3), (1, 2, 2), (0, 1, 1)),
        (144, (3, 1, 1), ONE, (1, 0, 0)),
        (64, ONE, TWO, (0, 0, 0)),
        (64, ONE, ONE, (1, 0, 1)),
        (3, (3, 7, 7), (1, 2, 2), (1, 3, 3)),
    ],
)
def test_padding_of_other_networks(channels: int, kernel: Triple, stride: Triple, padding: Triple) -> None:
    for dtype in DTYPES:
        check(clip(2, channels, (16, 56, 56), dtype), 64, kernel, stride, padding=padding, pieces=5)


@pytest.mark.parametrize("tile", dict.fromkeys(config.DESCRIPTOR_TILES + config.POINTER_TILES))
@pytest.mark.parametrize("channels", [16, 24, 64, 96])
def test_every_tile(tile: config.Tile, channels: int, monkeypatch: pytest.MonkeyPatch) -> None:
    candidates = config._candidates

    def only(problem: config.Problem) -> tuple[str, tuple[config.Tile, ...]]:
        form, tiles = candidates(problem)
        if tile not in tiles:
            pytest.skip(f"no tile of the {form} form on this chip")
        return form, (tile,)

    monkeypatch.setattr(config, "_candidates", only)
    config.choose.cache_clear()
    for dtype in DTYPES:
        check(clip(2, channels, (16, 56, 56), dtype), 208, THREE)
        check(clip(2, channels, (15, 27, 29), dtype), 200, ONE)


@pytest.mark.parametrize("stride", [ONE, TWO, (1, 2, 2), (2, 1, 1)])
@pytest.mark.parametrize("kernel", [ONE, THREE, (1, 3, 3), (3, 1, 1), (2, 5, 4), (7, 7, 7)])
@pytest.mark.parametrize("channels", [1, 3, 8, 17, 48])
def test_windows_strides_and_channels(channels: int, kernel: Triple, stride: Triple) -> None:
    for size in ((7, 15, 18), (1, 2, 33)):
        check(clip(3, channels, size, torch.float16), 40, kernel, stride)
        check(clip(3, channels, size, torch.float16), 19, kernel, stride, around=3)


@pytest.mark.parametrize("name", ["1a", "2c", "3bb0", "3bb1b"])
def test_pieces_of_frames(name: str) -> None:
    channels, out_channels, size, kernel, stride = CONVOLUTIONS[name]
    check(clip(2, channels, size, torch.float16), out_channels, kernel, stride, pieces=12)


def test_slices_of_x() -> None:
    wide = clip(2, 80, (9, 20, 22), torch.float16)
    for x in (
        wide[:, 16:64],
        wide[:, 3:51],
        wide[:, 8:72, 1:7, 2:, :11],
        wide[:1, :32, ::2],
        wide.contiguous(),
    ):
        for kernel in (ONE, THREE):
            check(x, 64, kernel)


def test_runs_in_a_cuda_graph_on_another_stream() -> None:
    for channels, kernel, stride in ((3, (7, 7, 7), TWO), (64, THREE, ONE)):
        x = clip(1, channels, (8, 32, 32), torch.float16)
        weight, bias = weights(64, channels, kernel)
        packed = PackedConv3d.pack(weight, bias, stride, relu=True, dtype=x.dtype)
        packed(x)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            y = packed(x)
        x.copy_(clip(1, channels, (8, 32, 32), torch.float16, seed=5))
        y.fill_(torch.nan)
        graph.replay()
        assert torch.equal(y, packed(x))


@pytest.mark.parametrize("around", [16, 3])
def test_runs_first_in_a_new_thread(around: int) -> None:
    """Where nothing else has made the GPU's context current yet; with descriptors and with pointers."""
    x = clip(1, 64, (8, 20, 20), torch.float16)
    packed = PackedConv3d.pack(*weights(64, 64, THREE), ONE, relu=True, dtype=x.dtype)
    wide = torch.empty((1, 8, 20, 20, 64 + 2 * around), dtype=x.dtype, device="cuda").permute(0, 4, 1, 2, 3)
    out = wide[:, around:-around]
    expected = packed(x, out).clone()
    out.fill_(torch.nan)
    torch.cuda.synchronize()
    with ThreadPoolExecutor(1) as thread:
        thread.submit(packed, x, out).result()
    assert torch.equal(out, expected)


def test_runs_on_the_device_of_its_clip() -> None:
    if torch.cuda.device_count() < 2:
        pytest.skip("needs two GPUs")
    x = clip(1, 64, (8, 20, 20), torch.float16)
    weight, bias = weights(64, 64, THREE)
    expected = conv3d_bn_relu(x, weight, bias)
    with torch.cuda.device(0):
        y = conv3d_bn_relu(x.to("cuda:1"), weight.to("cuda:1"), bias.to("cuda:1"))
    assert y.device == torch.device("cuda:1")
    assert torch.equal(y.to("cuda:0"), expected)


@pytest.mark.parametrize("around", [8, 3])
def test_more_than_two_to_the_31_elements(around: int) -> None:
    if torch.cuda.mem_get_info()[0] < 40e9:
        pytest.skip("needs 40 GB of GPU memory")
    x = clip(1, 512, (1100, 64, 64), torch.float16)
    weight, bias = weights(16, 512, (1, 3, 3))
    packed = PackedConv3d.pack(weight, bias, ONE, relu=True, dtype=x.dtype)
    wide = torch.empty((1, 1100, 64, 64, 500), dtype=x.dtype, device="cuda").permute(0, 4, 1, 2, 3)
    out = packed(x, wide[:, around : around + 16])
    for frame in (0, 600, 1099):
        exact = F.conv3d(pad_same(x[:, :, frame : frame + 1].float(), (1, 3, 3), ONE), weight, bias)
        assert_close("conv3d", out[:, :, frame : frame + 1], exact.relu(), scale=exact.abs().max().item())


@pytest.mark.parametrize(
    ("batch", "channels", "size", "kernel", "stride"),
    [
        (1400, 64, (8, 56, 56), THREE, ONE),
        (1400, 64, (8, 56, 56), ONE, ONE),
        (1400, 64, (8, 56, 56), THREE, TWO),
        (900, 3, (16, 224, 224), (7, 7, 7), TWO),
    ],
)
def test_batches_of_more_than_two_to_the_31_elements(
    batch: int, channels: int, size: Triple, kernel: Triple, stride: Triple
) -> None:
    if torch.cuda.mem_get_info()[0] < 50e9:
        pytest.skip("needs 50 GB of GPU memory")
    x = clip(batch, channels, size, torch.float16)
    assert x.numel() > 2**31
    weight, bias = weights(64, channels, kernel)
    out = PackedConv3d.pack(weight, bias, stride, relu=True, dtype=x.dtype)(x)
    for i in (0, batch // 2, batch - 1):
        exact = F.conv3d(pad_same(x[i : i + 1].float(), kernel, stride), weight, bias, stride)
        assert_close("conv3d", out[i : i + 1], exact.relu(), scale=exact.abs().max().item())


@pytest.mark.parametrize("name", ["1a", "2b", "2c", "3bb2b", "3cb1b", "4eb1b", "5cb1b"])
def test_every_candidate_is_right_and_can_be_timed(name: str) -> None:
    """As ``fasti3d tune`` does it, at full size; a tile of slabs is one of them where slabs may run."""
    channels, out_channels, size, kernel, stride = CONVOLUTIONS[name]
    x = clip(2, channels, size, torch.float16)
    weight, bias = weights(out_channels, channels, kernel)
    packed = PackedConv3d.pack(weight, bias, stride, relu=True, dtype=x.dtype)
    out = packed(x)
    places, slab_weight = (tune.Geometry.of(out),), getattr(packed, "slab_weight", None)
    rest = {"bias": bias, "geometry": packed.geometry, "start": 0}
    its = tune.Convolution(name, tune.Geometry.of(x), places, None, packed.weight, slab_weight, rest, 0)
    work = its.prepare()
    for found in tune.Meter(x.device)(work, its.candidates(work)):
        assert isinstance(found, float), found
        # No faster than the products at 5 PFLOP/s.
        assert 2 * out.numel() * weight[0].numel() / 5e15 < found < 1


def test_non_finite_values_are_kept() -> None:
    x = clip(2, 64, (4, 9, 9), torch.float16)
    weight, bias = weights(64, 64, THREE)
    clean = conv3d_bn_relu(x, weight, bias)
    for value in (torch.nan, torch.inf, -torch.inf):
        x[1, 1, 1, 2, 3] = value
        exact = F.conv3d(pad_same(x.float(), THREE, ONE), weight, bias).relu()
        y = conv3d_bn_relu(x, weight, bias)
        assert torch.equal(y[0], clean[0])
        assert torch.equal(y[1].isfinite(), exact[1].isfinite())


@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_bytes_are_taken_as_the_clip_scaled_before(dtype: torch.dtype) -> None:
    """To the bit, in any memory layout."""
    model = make_i3d().cuda().to(dtype)
    generator = torch.Generator("cuda").manual_seed(0)
    shape, options = (2, 17, 200, 211, 3), {"generator": generator, "device": "cuda", "dtype": torch.uint8}
    x = torch.randint(0, 256, shape, **options).permute(0, 4, 1, 2, 3)
    with torch.no_grad():
        expected = model.forward_endpoints(as_floats(x, dtype), network.OUTPUTS)
        for layout in (
            x,
            x.contiguous(),
            torch.stack([x, x])[1],
            x.repeat_interleave(2, dim=3)[:, :, :, ::2],
        ):
            actual = model.forward_endpoints(layout, network.OUTPUTS)
            assert all(torch.equal(actual[name], expected[name]) for name in network.OUTPUTS)


def test_the_reference_on_the_gpu_is_that_on_the_cpu() -> None:
    """What all else is held against."""
    x = torch.rand(1, 3, 17, 193, 200, generator=torch.Generator().manual_seed(0)) * 2 - 1
    names = list(network.OUTPUTS)
    expected = ordinary(make_i3d(), x, *names)
    actual = ordinary(make_i3d().cuda(), x.cuda(), *names)
    for name in names:
        assert_close("i3d", actual[name], expected[name])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_whole_network_runs_on_the_kernels(
    dtype: torch.dtype, runs: list[torch.dtype], monkeypatch: pytest.MonkeyPatch
) -> None:
    operation = "i3d_half" if dtype == torch.float16 else "i3d"
    assert (operation, dtype) in TOLERANCES
    model = make_i3d().cuda()
    x = torch.randn(2, 3, 33, 224, 224, generator=torch.Generator("cuda").manual_seed(0), device="cuda")
    x = x.clamp_(-1, 1).to(dtype)
    names = list(network.OUTPUTS)
    half = make_i3d().cuda().to(dtype)
    with torch.no_grad():
        actual = half.forward_endpoints(x, names)
        logits = half(x)
    # The weights as they were rounded, in float32.
    model.load_state_dict({name: value.float() for name, value in half.state_dict().items()})
    expected = ordinary(model, x.float(), *names)
    assert runs == [dtype, dtype]
    for name in names:
        assert_close(operation, actual[name], expected[name])
    assert_close(operation, logits, expected["Logits"])
