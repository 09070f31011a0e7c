"""Runs a pool and convolution over slabs where that is proved and faster, and by Triton's kernels elsewhere.

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
from fasti3d.ops.conv3d_bn_relu import launch as convolution
from fasti3d.ops.conv3d_bn_relu.geometry import Geometry
from fasti3d.ops.conv3d_bn_relu.tables import tuned
from fasti3d.ops.conv3d_slab.race import wins
from fasti3d.ops.max_pool3d_same.op import max_pool3d_into
from fasti3d.ops.pooled_conv3d import config as pooled
from fasti3d.ops.pooled_conv3d import launch as triton
from fasti3d.ops.pooled_conv3d_slab.config import Config, Problem, choose
from fasti3d.proof.guard import guarded
from fasti3d.proof.subject import Layout
from fasti3d.runtime.builds import is_recording

_ONE, _WINDOW = (1, 1, 1), (3, 3, 3)


class _Call(NamedTuple):
    """What ``pooled_conv3d`` of Triton takes."""

    x: Tensor
    weight: Tensor
    bias: Tensor
    relu: bool
    out: Tensor


class Launch(NamedTuple):
    """A pool and convolution over slabs that may run: its tile, and what launches it."""

    tile: Config
    run: Callable[[], None]


class Described(NamedTuple):
    """A call as ``choose`` wants it, and whether copies can read and write its clips."""

    problem: Problem
    copied: bool


def pooled_conv3d(
    x: Tensor, weight: Tensor, slab_weight: Tensor, bias: Tensor, relu: bool, out: Tensor
) -> None:
    """As the ``pooled_conv3d`` of Triton of an x that is nowhere negative, with the weights also as
    ``pack_slab`` made them.
    """
    call = _Call(x, weight, bias, relu, out)
    # What is recorded is what Triton compiles: this kernel would really run, and a race would tell nothing.
    config, faster = (None, None) if is_recording() else _choice(call)
    if config is None or faster is False:
        otherwise(*call)
        return
    key = _key(config, call)

    def run_faster() -> None:
        with torch.cuda.device_of(x):
            # A race is run over and over, and most calls are none.
            spare = cache(partial(torch.empty_like, out))
            try:
                over_slabs = faster or wins(
                    key,
                    lambda: run(config, x, slab_weight, bias, relu, spare()),
                    lambda: otherwise(*call._replace(out=spare())),
                )
            except torch.OutOfMemoryError:
                over_slabs = False  # for this once
            run(config, x, slab_weight, bias, relu, out) if over_slabs else otherwise(*call)

    guarded(
        x.device,
        key,
        lambda: subjects.pooled_conv3d_slab(config, x, relu, out),
        run_faster,
        lambda: otherwise(*call),
    )


def prepare(
    x: Tensor, weight: Tensor, slab_weight: Tensor, bias: Tensor, relu: bool, out: Tensor
) -> Launch | None:
    """The launch over slabs that a race would be about; None where there is none, or it is not proved."""
    call = _Call(x, weight, bias, relu, out)
    config, _ = _choice(call)
    if config is None:
        return None
    launch: Launch | None = guarded(
        x.device,
        _key(config, call),
        lambda: subjects.pooled_conv3d_slab(config, x, relu, out),
        lambda: Launch(config, partial(run, config, x, slab_weight, bias, relu, out)),
        lambda: None,
    )
    return launch


def run(config: Config, x: Tensor, weight: Tensor, bias: Tensor, relu: bool, out: Tensor) -> None:
    """Launches a tile; ``weight`` is what ``pack_slab`` made."""
    torch.ops.fasti3d.pooled_conv3d_slab_(x, weight, bias, relu, out, config.numbers)


def otherwise(x: Tensor, weight: Tensor, bias: Tensor, relu: bool, out: Tensor) -> None:
    """By one kernel of Triton's or, where that is expected to take longer, by two."""
    n, channels, t, h, w = x.shape
    sms = convolution.gpu_traits(x.device).sms
    if pooled.pays(pooled.Problem(n, channels, out.shape[1], (t, h, w), sms)):
        triton.pooled_conv3d(x, weight, bias, relu, out)
        return
    between = torch.empty_like(x, memory_format=torch.channels_last_3d)
    max_pool3d_into(between, x, _WINDOW, _ONE, None)
    convolution.conv3d(between, weight, bias, Geometry(_ONE, _ONE, None, relu), out, 0)


def describe(x: Tensor, weight: Tensor, out: Tensor) -> Described:
    """A call on its GPU."""
    its = convolution.describe(x, weight, _ONE, _ONE, out)
    problem = Problem(len(x), x.shape[1], its.out_channels, its.size, its.multiprocessors)
    return Described(problem, its.describable)


def _choice(call: _Call) -> tuple[Config | None, bool | None]:
    """The tile, None where Triton's kernels are to run; whether it is faster, None where no table tells."""
    if call.out.numel() == 0 or call.x.stride(1) != 1:
        return None, None
    its = describe(call.x, call.weight, call.out)
    config = choose(its.problem) if its.copied else None
    if config is None:
        return None, None
    return config, tuned(call.x.device).pools_over_slabs(its.problem, config)


def _key(config: Config, call: _Call) -> Hashable:
    """What of a call decides how the two forms are launched."""
    return ("pooled_conv3d_slab", config, *(Layout.of(it) if isinstance(it, Tensor) else it for it in call))
