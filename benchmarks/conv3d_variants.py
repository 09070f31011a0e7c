"""Other ways to compute the network's convolutions on a GPU than those chosen, to be told by time.

Each takes a prepared convolution and gives a call that writes its output. Imports triton.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.conv3d_slab_variants import SLABS
from benchmarks.triton_kernels import _conv3d_activations_left_kernel, _stem_pairs_kernel
from fasti3d.ops.channels_last import channels_last
from fasti3d.ops.conv3d_bn_relu import launch
from fasti3d.ops.conv3d_bn_relu.config import DESCRIPTOR_TILES, Config, Tile, choose, configure
from fasti3d.ops.conv3d_bn_relu.launch import Prepared
from fasti3d.ops.conv3d_bn_relu.packed import tap_after_tap
from fasti3d.ops.tiling import best_box, count

Variant = Callable[[Prepared], Callable[[], None]]


class Question(NamedTuple):
    """Which of some variants is the fastest, and right, for layers at the full sizes of the network."""

    layers: tuple[str, ...]
    batches: tuple[int, ...]
    variants: dict[str, Variant]


def tiled(work: Prepared, form: str, tile: Tile, *, within_a_clip: bool = False) -> Config:
    """A tile in its best box, as ``choose`` would take it."""
    problem = replace(work.problem, in_channels=work.x.shape[1], kernel=work.kernel)
    if form == "pointer":
        return configure(problem, form, tile, (1, 1, 1, tile.pixels))
    clips = 1 if within_a_clip else problem.batch
    return configure(problem, form, tile, best_box((clips, *problem.size), work.kernel, tile.pixels)[0])


def _shipped(work: Prepared) -> Callable[[], None]:
    return partial(launch.run, choose(work.problem), work)


def _as_tile(work: Prepared, form: str, tile: Tile) -> Callable[[], None]:
    return partial(launch.run, tiled(work, form, tile), work)


# With pointers and 8 warps, a loop over all taps gave wrong results on an H100 (pytorch #173068).
_WARPS: dict[str, Variant] = {
    f"{form}, {warps} warps": partial(_as_tile, form=form, tile=Tile(128, 128, 0, warps))
    for form in ("descriptor", "pointer")
    for warps in (4, 8)
}


def _activations_left(work: Prepared, tile: Tile) -> Callable[[], None]:
    config = tiled(work, "descriptor", tile)
    x, out, *_ = work.clips
    tiles_n = count(out.shape[4], config.block_n)
    tiles_b, tiles_t, tiles_h, tiles_w = map(count, out.shape[:4], config.box)
    weight = work.weight.flatten(1)

    def run() -> None:
        _conv3d_activations_left_kernel[(tiles_n * tiles_w * tiles_h * tiles_t * tiles_b,)](
            launch._descriptor(x, (*config.box, config.block_k)),
            launch._descriptor(weight, (config.block_n, config.block_k)),
            work.bias,
            launch._descriptor(out, (*config.box, config.block_n)),
            x.shape[4],
            out.shape[4],
            count(x.shape[4], config.block_k),
            tiles_n,
            tiles_w,
            tiles_h,
            tiles_t,
            *work.pad,
            *work.kernel,
            *config.box,
            config.block_n,
            config.block_k,
            num_warps=config.warps,
            num_stages=config.stages,
            **launch._OPTIONS,
        )

    return run


_ORDER_TILES = (Tile(128, 128, 0, 8), Tile(256, 128, 0, 8))
_ORDERS: dict[str, Variant] = {}
for _tile in _ORDER_TILES:
    _size = f"{_tile.pixels} pixels by {_tile.channels} channels"
    _ORDERS[f"weights left, {_size}"] = partial(_as_tile, form="descriptor", tile=_tile)
    _ORDERS[f"activations left, {_size}"] = partial(_activations_left, tile=_tile)


def _boxed(work: Prepared, within_a_clip: bool) -> Callable[[], None]:
    """The chosen tile."""
    chosen = choose(work.problem)
    tile = Tile(chosen.block_m, chosen.block_n + chosen.block_n_rest, chosen.block_n_rest, chosen.warps)
    return partial(launch.run, tiled(work, "descriptor", tile, within_a_clip=within_a_clip), work)


_BOXES: dict[str, Variant] = {
    "boxes over several clips": partial(_boxed, within_a_clip=False),
    "boxes within a clip": partial(_boxed, within_a_clip=True),
}


def _cells(work: Prepared) -> Tensor:
    """The cells [N, T, H, W, C] that the rows of a folded clip are made of, by their own strides."""
    rows = channels_last(work.x)
    strides = rows.stride()
    n, t, h, w, values = rows.shape
    cell = strides[3]
    return rows.as_strided((n, t, h, w + values // cell - 1, cell), (*strides[:4], 1))


def cells_apart(work: Prepared) -> Prepared:
    """The folded convolution over cells that do not overlap, a tap each."""
    cells = _cells(work)
    columns = work.x.shape[1] // cells.shape[4]
    weight = tap_after_tap(work.weight.reshape(len(work.weight), -1, cells.shape[4]))
    kernel = (*work.kernel[:2], columns)
    return work._replace(x=cells.permute(0, 4, 1, 2, 3), weight=weight, kernel=kernel)


def cells_padded(work: Prepared, channels: int = 32) -> Prepared:
    """The folded convolution over rows of wider cells, which are whole chunks of input channels."""
    cells = _cells(work)
    n, t, h, columns, cell = cells.shape
    more = (0, channels - cell)
    wide = F.pad(cells, more)
    row = work.x.shape[1] // cell
    strides = (*wide.stride()[:4], 1)
    rows = wide.as_strided((n, t, h, columns - row + 1, row * channels), strides)
    weight = tap_after_tap(F.pad(work.weight.unflatten(2, (row, cell)), more).flatten(2))
    return work._replace(x=rows.permute(0, 4, 1, 2, 3), weight=weight)


def _stem(
    work: Prepared, tile: Tile, view: Callable[[Prepared], Prepared] | None = None
) -> Callable[[], None]:
    seen = view(work) if view else work
    return partial(launch.run, tiled(seen, "descriptor", tile), seen)


def pair_weight(weight: Tensor, rows: int) -> Tensor:
    """(Cout, taps, CI) of windows of ``rows`` taps a frame, to (2 * Cout, taps + rows, CI): the window of a
    pair of frames, for its first frame and then for its second.
    """
    return torch.cat((F.pad(weight, (0, 0, 0, rows)), F.pad(weight, (0, 0, rows, 0))))


def _stem_pairs(work: Prepared, box: tuple[int, int] = (8, 16), warps: int = 8) -> Callable[[], None]:
    kt, kh, _ = work.kernel
    weight = pair_weight(work.weight, kh).flatten(1)
    x, out, *_ = work.clips
    config = tiled(work, "descriptor", Tile(math.prod(box), 2 * len(work.weight), 0, warps))
    tiles_h, tiles_w = map(count, out.shape[2:4], box)
    pairs = count(out.shape[1], 2)

    def run() -> None:
        _stem_pairs_kernel[(tiles_w * tiles_h * pairs * out.shape[0],)](
            launch._descriptor(x, (1, 1, *box, config.block_k)),
            launch._descriptor(weight, (out.shape[4], config.block_k)),
            work.bias,
            launch._descriptor(out, (1, 1, *box, out.shape[4])),
            out.shape[4],
            x.shape[4] // config.block_k,
            tiles_w,
            tiles_h,
            pairs,
            kt,
            kh,
            *box,
            out.shape[4],
            config.block_k,
            num_warps=config.warps,
            num_stages=config.stages,
            **launch._OPTIONS,
        )

    return run


# Whether the driver takes rows that overlap for a tensor map's is the question of all but the first two.
_STEMS: dict[str, Variant] = {
    "pointers (shipped)": _shipped,
    "cells apart": partial(_stem, tile=Tile(256, 64, 0, 8), view=cells_apart),
    "rows that overlap, 256 pixels": partial(_stem, tile=Tile(256, 64, 0, 8)),
    "rows that overlap, 128 pixels": partial(_stem, tile=Tile(128, 64, 0, 4)),
    "rows that overlap, cells of 32": partial(_stem, tile=Tile(256, 64, 0, 8), view=cells_padded),
    "rows that overlap, pairs of frames": _stem_pairs,
    "rows that overlap, pairs of frames, 256 pixels": partial(_stem_pairs, box=(16, 16)),
}

_TILES: dict[str, Variant] = {
    f"{tile.pixels} pixels by {tile.channels} channels": partial(_as_tile, form="descriptor", tile=tile)
    for tile in DESCRIPTOR_TILES
}


def _staged(work: Prepared, stages: int) -> Callable[[], None]:
    return partial(launch.run, replace(choose(work.problem), stages=stages), work)


_STAGES: dict[str, Variant] = {f"{stages} stages": partial(_staged, stages=stages) for stages in (2, 3, 4)}

# Not of the first call on a GPU: what is asked later is tested where there is time.
LATER = ("warps", "operand order", "boxes")
QUESTIONS: dict[str, Question] = {
    "tiles": Question(("Mixed_4e.b1b", "Mixed_4f.b1b", "Mixed_5b.b1b"), (8,), _TILES),
    "stages": Question(("Conv3d_2b_1x1", "Mixed_3b.b0", "Mixed_4c.b0"), (8,), _STAGES),
    "warps": Question(
        (
            "Conv3d_2c_3x3",
            "Mixed_3b.b1b",
            "Mixed_3c.b1b",
            "Mixed_4b.b1b",
            "Mixed_4f.b1b",
            "Mixed_5c.b1b",
        ),
        (8,),
        _WARPS,
    ),
    "operand order": Question(
        ("Conv3d_2c_3x3", "Mixed_3b.b1b", "Mixed_3c.b0", "Mixed_3c.b1b", "Mixed_4f.b1b"), (8,), _ORDERS
    ),
    "boxes": Question(
        ("Mixed_4b.b1b", "Mixed_4f.b1b", "Mixed_4f.b2b", "Mixed_5c.b1b", "Mixed_5c.b2b"), (8,), _BOXES
    ),
    "stem": Question(("Conv3d_1a_7x7",), (1, 8), _STEMS),
    "slabs": Question(
        (
            "Conv3d_1a_7x7",
            "Conv3d_2c_3x3",
            "Mixed_3b.b1b",
            "Mixed_3c.b1b",
            "Mixed_4c.b1b",
            "Mixed_4f.b1b",
            "Mixed_5c.b1b",
        ),
        (1, 8),
        {"by taps (shipped)": _shipped, **SLABS},
    ),
}
