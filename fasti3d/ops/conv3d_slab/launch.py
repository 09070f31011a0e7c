"""Runs a convolution over slabs where that is proved and faster, and its Triton form elsewhere.

Which is the faster is what a table has of ``fasti3d tune``, or else a race at the first use.

Imports triton: to be imported where it is first used.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from functools import cache, partial
from typing import NamedTuple

import torch
from torch import Tensor

from fasti3d.ops import subjects
from fasti3d.ops.conv3d_bn_relu import launch as triton
from fasti3d.ops.conv3d_bn_relu.geometry import Geometry
from fasti3d.ops.conv3d_bn_relu.space_to_depth import is_folded
from fasti3d.ops.conv3d_bn_relu.tables import tuned
from fasti3d.ops.conv3d_slab.config import Config, choose
from fasti3d.ops.conv3d_slab.describe import beneath, describe
from fasti3d.ops.conv3d_slab.race import wins
from fasti3d.proof.guard import guarded
from fasti3d.proof.subject import Layout, Subject
from fasti3d.runtime.builds import is_recording


class _Call(NamedTuple):
    """What ``conv3d`` of Triton takes."""

    x: Tensor
    weight: Tensor
    bias: Tensor
    geometry: Geometry
    out: Tensor
    start: int
    residual: Tensor | None


class Launch(NamedTuple):
    """A convolution over slabs that may run: its tile, and what launches it."""

    tile: Config
    run: Callable[[], None]


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
    call = _Call(x, weight, bias, geometry, out, start, residual)
    # What is recorded is what Triton compiles: this kernel would really run, and a race would tell nothing.
    config = None if is_recording() else _choice(call)
    faster = None if config is None else _measured(config, call)
    if config is None or faster is False:
        triton.conv3d(*call)
        return
    key = _key(config, call)
    guarded(
        x.device,
        key,
        lambda: _subject(config, call, slab_weight),
        lambda: _run_faster(key, config, call, slab_weight, faster),
        lambda: triton.conv3d(*call),
    )


def prepare(
    x: Tensor,
    weight: Tensor,
    slab_weight: Tensor,
    bias: Tensor,
    geometry: Geometry,
    out: Tensor,
    start: int,
    residual: Tensor | None = None,
) -> Launch | None:
    """The launch over slabs that a race would be about; None where there is none, or it is not proved."""
    call = _Call(x, weight, bias, geometry, out, start, residual)
    config = _choice(call)
    if config is None:
        return None
    launch: Launch | None = guarded(
        x.device,
        _key(config, call),
        lambda: _subject(config, call, slab_weight),
        lambda: Launch(config, partial(_run_slabs, config, call, slab_weight, out)),
        lambda: None,
    )
    return launch


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


def _choice(call: _Call) -> Config | None:
    """The tile; None where Triton's form is to run."""
    out = call.out
    if out.numel() == 0:
        return None
    x, geometry = beneath(call.x, call.geometry)
    copied = is_folded(x.shape[1], geometry.kernel) or x.stride(1) != 1
    read = out if copied else x
    window = geometry.kernel, geometry.stride
    by_taps = triton.describe(read, call.weight, *window, out, residual=call.residual)
    if not by_taps.describable:
        return None
    return choose(describe(x, geometry, out, call.start, by_taps.multiprocessors))


def _measured(config: Config, call: _Call) -> bool | None:
    """Whether a tile is faster by the tables; None where they do not tell."""
    its = tuned(call.x.device)
    # Most have none, and to outline a call takes a while.
    return its.over_slabs(triton.outline(*call).problem, config) if its.tables else None


def _subject(config: Config, call: _Call, slab_weight: Tensor) -> Subject:
    x, geometry = beneath(call.x, call.geometry)
    return subjects.conv3d_slab(config, x, slab_weight, geometry, call.out, call.start, call.residual)


def _key(config: Config, call: _Call) -> Hashable:
    """What of a call decides how the two forms are launched."""
    return ("conv3d_slab", config, *(Layout.of(it) if isinstance(it, Tensor) else it for it in call))


def _run_faster(key: Hashable, config: Config, call: _Call, slab_weight: Tensor, faster: bool | None) -> None:
    """Runs the faster form: slabs or not, if that is known, or else the winner of a race."""

    def over_slabs(into: Tensor) -> None:
        _run_slabs(config, call, slab_weight, into)

    def by_taps(into: Tensor) -> None:
        triton.conv3d(*call._replace(out=into))

    with torch.cuda.device_of(call.x):
        # A race is run over and over, and a residual may be ``out`` itself.
        @cache
        def spare() -> Tensor:
            return torch.empty_like(call.out)

        if faster is None:
            try:
                faster = wins(key, lambda: over_slabs(spare()), lambda: by_taps(spare()))
            except torch.OutOfMemoryError:
                faster = False  # for this once
        (over_slabs if faster else by_taps)(call.out)


def _run_slabs(config: Config, call: _Call, slab_weight: Tensor, out: Tensor) -> None:
    x, geometry = beneath(call.x, call.geometry)
    run(config, x, slab_weight, call.bias, geometry, out, call.start, call.residual)
