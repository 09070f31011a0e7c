"""How the direct convolution is cut for threads and caches, and that its results do not show it."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import product

import pytest
import torch
import torch.nn.functional as F
from tolerances import assert_close
from torch import Tensor

from fasti3d.ops.conv3d_bn_relu.packed import DirectConv3d, PackedConv3d
from fasti3d.runtime import extension

pytestmark = pytest.mark.skipif(extension.CORE is None, reason="the extension was not built")

KB = 1 << 10
TILES = ((6, 1), (14, 2))  # rows and panels of AVX2's and AVX-512's
SUMMED = 128
Triple = tuple[int, int, int]


def blocking(**given: int) -> dict[str, int]:
    one = {"rows": 6, "max_panels": 1, "tiles": 100, "panels": 4, "taps": 1, "run": 64, "threads": 2}
    one |= {"l1": 32 * KB, "l2": 512 * KB}
    return extension.CORE.direct_blocking(**(one | given))


def largest_share(tiles: int, panels: int, threads: int) -> int:
    cut = blocking(tiles=tiles, panels=panels, threads=threads)
    assert cut["tile_shares"] * cut["panel_shares"] <= threads
    return math.ceil(tiles / cut["tile_shares"]) * math.ceil(panels / cut["panel_shares"])


def test_every_thread_has_work() -> None:
    assert largest_share(1, 16, 8) == 2
    assert largest_share(66, 24, 2) == 33 * 24
    assert largest_share(28, 12, 16) == 7 * 3
    for tiles, panels, threads in product((1, 2, 7, 28, 66), (1, 4, 24), (1, 2, 3, 8, 16, 64)):
        least = tiles * panels / threads
        # No thread has more than one row or column of its share too many.
        assert largest_share(tiles, panels, threads) <= max(2 * least, 1)


def test_panels_are_split_only_for_want_of_tiles() -> None:
    assert blocking(tiles=1000, panels=24, threads=4)["panel_shares"] == 1
    assert blocking(tiles=2, panels=24, threads=4)["panel_shares"] == 2


@pytest.mark.parametrize(("rows", "max_panels"), TILES)
def test_a_call_s_weights_fit_the_l1_cache_in_whole_runs(rows: int, max_panels: int) -> None:
    for run, taps, l1 in product((16, 48, 64, 128, 129, 300, 832), (1, 9, 27), (32 * KB, 48 * KB)):
        cut = blocking(rows=rows, max_panels=max_panels, run=run, taps=taps, l1=l1)
        length = math.ceil(run / math.ceil(run / SUMMED))  # of what is summed by itself
        together = SUMMED // run if run <= SUMMED and taps > 1 else 1  # taps of that
        bytes_per_product = max_panels * 16 * 4
        runs = cut["taps"] * cut["run"] * bytes_per_product
        assert runs <= max(l1 // 3, min(together * length, taps * run) * bytes_per_product)
        assert cut["run"] == run or (cut["taps"] == 1 and cut["run"] % length == 0)
        assert cut["taps"] == taps or cut["taps"] % together == 0


def test_a_pass_has_fewer_tiles_where_results_are_wide_or_caches_small() -> None:
    assert blocking(run=64, panels=4)["tiles"] > blocking(run=64, panels=32)["tiles"]
    assert blocking(run=2048)["tiles"] > blocking(run=2048, l2=128 * KB)["tiles"]


def test_caches_of_this_machine() -> None:
    l1, l2 = extension.CORE.caches()
    assert 8 * KB <= l1 < l2 <= 64 * KB * KB


def convolution(
    x: Tensor, out_channels: int, kernel: Triple, stride: Triple, residual: bool
) -> tuple[PackedConv3d, Tensor, Tensor | None]:
    generator = torch.Generator().manual_seed(1)
    padding = (kernel[0] // 2, kernel[1] // 2, kernel[2] // 2)
    weight = torch.randn(out_channels, x.shape[1], *kernel, generator=generator)
    weight /= weight[0].numel() ** 0.5
    bias = torch.randn(out_channels, generator=generator)
    conv = PackedConv3d.pack(weight, bias, stride, relu=True, dtype=x.dtype, padding=padding, winograd=False)
    assert isinstance(conv, DirectConv3d)
    exact = F.conv3d(x.double(), weight.double(), bias.double(), stride, padding)
    added = torch.randn(exact.shape, generator=generator) if residual else None
    if added is not None:
        exact = exact + added
        added = added.contiguous(memory_format=torch.channels_last_3d)
    return conv, exact, added


@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize(
    ("kernel", "stride"), [((1, 1, 1), (1, 1, 1)), ((1, 1, 1), (1, 2, 2)), ((1, 3, 3), (1, 2, 2))]
)
def test_any_cut_gives_the_same_result(
    isa: str, set_threads: Callable[[int], None], kernel: Triple, stride: Triple, residual: bool
) -> None:
    """With several calls a tile from 80 channels on, into a slice of a wider clip."""
    for channels, out_channels in ((48, 33), (80, 48), (129, 24), (300, 17), (832, 40)):
        generator = torch.Generator().manual_seed(channels)
        x = torch.randn(2, channels, 2, 5, 7, generator=generator)
        x = x.contiguous(memory_format=torch.channels_last_3d)
        conv, exact, added = convolution(x, out_channels, kernel, stride, residual)
        results = []
        for threads in (1, 2, 3, 7):
            set_threads(threads)
            wide = torch.full((2, out_channels + 3, *exact.shape[2:]), 7.0)
            wide = wide.contiguous(memory_format=torch.channels_last_3d)
            results.append(conv(x, wide[:, 2:-1], 0, added))
            assert (wide[:, [0, 1, -1]] == 7).all()
        assert all(torch.equal(results[0], other) for other in results[1:])
        assert_close("conv3d", results[0], F.relu(exact), scale=exact.abs().max().item())
        alone = conv(x[1:], residual=None if added is None else added[1:])
        assert torch.equal(alone, results[0][1:])


def test_long_sums_stay_as_exact_as_short_ones(isa: str) -> None:
    """Runs of products are summed by themselves whatever is multiplied at once."""
    x = torch.rand(1, 2048, 1, 4, 6, generator=torch.Generator().manual_seed(0)) + 1
    x = x.contiguous(memory_format=torch.channels_last_3d)
    weight = torch.rand(16, 2048, 1, 1, 1, generator=torch.Generator().manual_seed(1)) + 1
    conv = PackedConv3d.pack(weight, torch.zeros(16), (1, 1, 1), relu=False, dtype=x.dtype, winograd=False)
    exact = F.conv3d(x.double(), weight.double())
    # All are positive: 8e-8 in runs of 128 and 7e-7 in one of 2048, by emulation.
    assert ((conv(x) - exact).norm() / exact.norm()).item() < 2e-7
