"""Runs the Triton passes of a batch norm with ReLU. Imports triton: to be imported where it is first used.

Maps whose pixels do not lie one pitch apart are PyTorch's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from fasti3d.ops import subjects
from fasti3d.ops.batch_norm_relu import reference
from fasti3d.ops.batch_norm_relu.config import (
    JOINED_CHANNELS,
    JOINED_TILES,
    MAX_TILES,
    WARPS,
    Config,
    Problem,
    choose,
)
from fasti3d.ops.batch_norm_relu.triton_kernels import (
    _batch_norm_relu_backward_kernel,
    _batch_norm_relu_sums_kernel,
    _batch_norm_stats_join_kernel,
    _batch_norm_stats_kernel,
    _scale_shift_relu_kernel,
    _sums_join_kernel,
)
from fasti3d.ops.channels_last import rows, vector
from fasti3d.ops.tiling import count
from fasti3d.proof.guard import guarded
from fasti3d.proof.subject import Layout
from fasti3d.runtime.gpu import gpu_traits

# Products and sums are rounded one by one, as in PyTorch: the ReLU stops the same values in every pass.
# Unless told how many registers it may take, the assembler spills some to make room for one tile more.
_OPTIONS = {"enable_fp_fusion": False, "num_warps": WARPS, "maxnreg": 168}


def batch_norm_stats(x: Tensor, mean: Tensor, var: Tensor) -> None:
    """Takes what the operator of this name with a "_" takes, as do the others, in at most 32 bits."""
    _guarded("batch_norm_stats", x, mean, var)


def scale_shift_relu(x: Tensor, scale: Tensor, shift: Tensor, out: Tensor) -> None:
    """Into ``out``, which may be a channel slice."""
    _guarded("scale_shift_relu", x, scale, shift, out)


def batch_norm_relu_sums(
    grad: Tensor, x: Tensor, mean: Tensor, scale: Tensor, shift: Tensor, total: Tensor, dot: Tensor
) -> None:
    """The first pass of the gradient."""
    _guarded("batch_norm_relu_sums", grad, x, mean, scale, shift, total, dot)


def batch_norm_relu_backward(
    grad: Tensor,
    x: Tensor,
    mean: Tensor,
    scale: Tensor,
    shift: Tensor,
    slope: Tensor,
    offset: Tensor,
    out: Tensor,
) -> None:
    """The second pass of the gradient."""
    _guarded("batch_norm_relu_backward", grad, x, mean, scale, shift, slope, offset, out)


def _guarded(name: str, *arguments: Tensor) -> None:
    its = PASSES[name]
    flat = [rows(it) if it.dim() == 5 else it for it in arguments]
    found = [it for it in flat if it is not None]
    if len(found) < len(flat):
        its.plain(*arguments)
        return
    maps = [it for it in found if it.dim() == 2]
    with torch.cuda.device_of(arguments[0]):
        sms = gpu_traits(arguments[0].device).sms
        config = choose(Problem(*maps[0].shape, maps[0].element_size(), its.maps, sms))
        guarded(
            arguments[0].device,
            (name, config, *map(Layout.of, maps)),
            lambda: subjects.batch_norm_relu(name, config, maps),
            lambda: its.run(config, *found),
            lambda: its.plain(*arguments),
        )


def _run_stats(config: Config, x: Tensor, mean: Tensor, var: Tensor) -> None:
    values, tiles = vector(x), count(len(x), config.tile_rows)
    part = torch.empty((tiles, 3, x.shape[1]), dtype=torch.float32, device=x.device)
    _batch_norm_stats_kernel[(tiles * count(x.shape[1], config.block_c),)](
        x,
        part,
        len(x),
        x.shape[1] // values,
        x.stride(0) // values,
        count(x.shape[1], config.block_c),
        config.steps,
        values,
        config.block_m,
        config.block_c,
        **_OPTIONS,
    )
    join_stats(part, mean, var)


def join_stats(part: Tensor, mean: Tensor, var: Tensor) -> None:
    """Joins what tiles found: (tiles, 3, C) means, sums of squared distances to them, numbers of pixels."""
    while len(part) > MAX_TILES:
        groups = torch.empty(
            (count(len(part), JOINED_TILES), *part.shape[1:]), dtype=part.dtype, device=part.device
        )
        _join(part, groups.unbind(1), JOINED_TILES, len(groups))
        part = groups
    _join(part, (mean, var), len(part), 1)


def _join(part: Tensor, into: tuple[Tensor, ...], per_group: int, groups: int) -> None:
    tiles, _, channels = part.shape
    _batch_norm_stats_join_kernel[(groups * count(channels, JOINED_CHANNELS),)](
        part,
        into[0],
        into[1],
        into[-1],
        tiles,
        per_group,
        groups,
        channels,
        into[0].stride(0),
        len(into) == 2,
        JOINED_TILES,
        JOINED_CHANNELS,
        **_OPTIONS,
    )


def _run_scale_shift_relu(config: Config, x: Tensor, scale: Tensor, shift: Tensor, out: Tensor) -> None:
    values = min(vector(x), vector(out))
    tiles_c = count(x.shape[1], config.block_c)
    _scale_shift_relu_kernel[(count(len(x), config.block_m) * tiles_c,)](
        x,
        scale,
        shift,
        out,
        len(x),
        x.shape[1] // values,
        x.stride(0) // values,
        out.stride(0) // values,
        tiles_c,
        values,
        config.block_m,
        config.block_c,
        **_OPTIONS,
    )


def _run_sums(
    config: Config,
    grad: Tensor,
    x: Tensor,
    mean: Tensor,
    scale: Tensor,
    shift: Tensor,
    total: Tensor,
    dot: Tensor,
) -> None:
    values, tiles = min(vector(grad), vector(x)), count(len(x), config.tile_rows)
    part = torch.empty((tiles, 2, x.shape[1]), dtype=torch.float32, device=x.device)
    _batch_norm_relu_sums_kernel[(tiles * count(x.shape[1], config.block_c),)](
        grad,
        x,
        mean,
        scale,
        shift,
        part,
        len(x),
        x.shape[1] // values,
        grad.stride(0) // values,
        x.stride(0) // values,
        count(x.shape[1], config.block_c),
        config.steps,
        values,
        config.block_m,
        config.block_c,
        **_OPTIONS,
    )
    _sums_join_kernel[(count(x.shape[1], JOINED_CHANNELS),)](
        part, total, dot, tiles, x.shape[1], JOINED_TILES, JOINED_CHANNELS, **_OPTIONS
    )


def _run_backward(
    config: Config,
    grad: Tensor,
    x: Tensor,
    mean: Tensor,
    scale: Tensor,
    shift: Tensor,
    slope: Tensor,
    offset: Tensor,
    out: Tensor,
) -> None:
    values = min(map(vector, (grad, x, out)))
    tiles_c = count(x.shape[1], config.block_c)
    _batch_norm_relu_backward_kernel[(count(len(x), config.block_m) * tiles_c,)](
        grad,
        x,
        mean,
        scale,
        shift,
        slope,
        offset,
        out,
        len(x),
        x.shape[1] // values,
        grad.stride(0) // values,
        x.stride(0) // values,
        out.stride(0) // values,
        tiles_c,
        values,
        config.block_m,
        config.block_c,
        **_OPTIONS,
    )


class Pass(NamedTuple):
    """What takes the maps and the vectors that it reads, so many of each, and then what it writes: ``run``,
    after a configuration and with rows, (N * T * H * W, C), for maps, on the current device; and PyTorch's
    own computation.
    """

    run: Callable[..., None]
    plain: Callable[..., None]
    maps: int
    vectors: int


PASSES = {
    "batch_norm_stats": Pass(_run_stats, reference.batch_norm_stats_reference, 1, 0),
    "scale_shift_relu": Pass(_run_scale_shift_relu, reference.scale_shift_relu_reference, 1, 2),
    "batch_norm_relu_sums": Pass(_run_sums, reference.batch_norm_relu_sums_reference, 2, 3),
    "batch_norm_relu_backward": Pass(_run_backward, reference.batch_norm_relu_backward_reference, 2, 5),
}
