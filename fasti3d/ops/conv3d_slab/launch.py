"""Runs a convolution over slabs where that is proved and faster, and its Triton form elsewhere.

Imports triton: to be imported where it is first used.
"""

from __future__ import annotations

from collections.abc import Hashable
from functools import cache

import torch
from torch import Tensor

from fasti3d.ops import subjects
from fasti3d.ops.conv3d_bn_relu import launch as triton
from fasti3d.ops.conv3d_bn_relu.geometry import Geometry
from fasti3d.ops.conv3d_bn_relu.space_to_depth import is_folded
from fasti3d.ops.conv3d_slab.config import Config, choose
from fasti3d.ops.conv3d_slab.describe import beneath, describe
from fasti3d.ops.conv3d_slab.race import wins
from fasti3d.proof.guard import guarded
from fasti3d.proof.subject import Layout


def conv3d(
    x: Tensor,
    weight: Tensor,
    slab_weight: Tensor,
    bias: Tensor,
    geometry: Geometry,
    out: Tensor,
    start: int,
    residual: Tensor | None = None,
) -> None:
    """As the ``conv3d`` of Triton, with the weights also as ``describe.pack`` made them."""
    call = (x, weight, bias, geometry, out, start, residual)
    clip, window = beneath(x, geometry)
    config = _choice(clip, weight, window, out, start, residual)
    if config is None:
        triton.conv3d(*call)
        return
    key = ("conv3d_slab", config, *(Layout.of(it) if isinstance(it, Tensor) else it for it in call))
    guarded(
        x.device,
        key,
        lambda: subjects.conv3d_slab(config, clip, slab_weight, window, out, start, residual),
        lambda: _run_faster(key, config, call, slab_weight),
        lambda: triton.conv3d(*call),
    )


def run(
    config: Config,
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    geometry: Geometry,
    out: Tensor,
    start: int,
    residual: Tensor | None = None,
) -> None:
    """Launches a tile; ``weight`` is what ``describe.pack`` made."""
    problem = describe(x, geometry, out, start, 1)
    if is_folded(x.shape[1], geometry.kernel):
        x, _ = beneath(triton.folded(x, geometry, out, start), geometry)
    elif x.stride(1) != 1:
        x = x.contiguous(memory_format=torch.channels_last_3d)
    torch.ops.fasti3d.conv3d_slab_(
        x, weight, bias, problem.kernel, problem.before, geometry.relu, out, config.numbers, residual
    )


def _choice(
    x: Tensor, weight: Tensor, geometry: Geometry, out: Tensor, start: int, residual: Tensor | None
) -> Config | None:
    """The tile; None where Triton's form is to run."""
    if out.numel() == 0:
        return None
    copied = is_folded(x.shape[1], geometry.kernel) or x.stride(1) != 1
    read = out if copied else x
    by_taps = triton.describe(read, weight, geometry.kernel, geometry.stride, out, residual=residual)
    if not by_taps.describable:
        return None
    return choose(describe(x, geometry, out, start, by_taps.multiprocessors))


def _run_faster(
    key: Hashable,
    config: Config,
    call: tuple[Tensor, Tensor, Tensor, Geometry, Tensor, int, Tensor | None],
    slab_weight: Tensor,
) -> None:
    x, weight, bias, geometry, out, start, residual = call

    def over_slabs(into: Tensor) -> None:
        clip, window = beneath(x, geometry)
        run(config, clip, slab_weight, bias, window, into, start, residual)

    def by_taps(into: Tensor) -> None:
        triton.conv3d(x, weight, bias, geometry, into, start, residual)

    with torch.cuda.device_of(x):
        # A race is run over and over, and a residual may be ``out`` itself.
        @cache
        def spare() -> Tensor:
            return torch.empty_like(out)

        try:
            faster = wins(key, lambda: over_slabs(spare()), lambda: by_taps(spare()))
        except torch.OutOfMemoryError:
            faster = False  # for this once
        (over_slabs if faster else by_taps)(out)
