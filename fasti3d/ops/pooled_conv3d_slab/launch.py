"""Runs a pool and convolution over slabs where that is proved and faster, and by Triton's kernels elsewhere.

Which is the faster is found by a race at the first use.

Imports triton: to be imported where it is first used.
"""

from __future__ import annotations

from functools import cache, partial
from typing import NamedTuple

import torch
from torch import Tensor

from fasti3d.ops import subjects
from fasti3d.ops.conv3d_bn_relu import launch as convolution
from fasti3d.ops.conv3d_bn_relu.geometry import Geometry
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


def pooled_conv3d(
    x: Tensor, weight: Tensor, slab_weight: Tensor, bias: Tensor, relu: bool, out: Tensor
) -> None:
    """As the ``pooled_conv3d`` of Triton of an x that is nowhere negative, with the weights also as
    ``pack_slab`` made them.
    """
    call = _Call(x, weight, bias, relu, out)
    # What is recorded is what Triton compiles: this kernel would really run, and a race would tell nothing.
    config = None if is_recording() else _choice(call)
    if config is None:
        _otherwise(call)
        return
    key = (
        "pooled_conv3d_slab",
        config,
        *(Layout.of(it) if isinstance(it, Tensor) else it for it in call),
    )

    def run_faster() -> None:
        with torch.cuda.device_of(x):
            # A race is run over and over, and most calls are none.
            spare = cache(partial(torch.empty_like, out))
            try:
                faster = wins(
                    key,
                    lambda: run(config, x, slab_weight, bias, relu, spare()),
                    lambda: _otherwise(call._replace(out=spare())),
                )
            except torch.OutOfMemoryError:
                faster = False  # for this once
            run(config, x, slab_weight, bias, relu, out) if faster else _otherwise(call)

    guarded(
        x.device,
        key,
        lambda: subjects.pooled_conv3d_slab(config, x, relu, out),
        run_faster,
        lambda: _otherwise(call),
    )


def run(config: Config, x: Tensor, weight: Tensor, bias: Tensor, relu: bool, out: Tensor) -> None:
    """Launches a tile; ``weight`` is what ``pack_slab`` made."""
    torch.ops.fasti3d.pooled_conv3d_slab_(x, weight, bias, relu, out, config.numbers)


def _choice(call: _Call) -> Config | None:
    """The tile; None where Triton's kernels are to run."""
    x, out = call.x, call.out
    if out.numel() == 0 or x.stride(1) != 1:
        return None
    its = convolution.describe(x, call.weight, _ONE, _ONE, out)
    if not its.describable:
        return None
    return choose(Problem(len(x), x.shape[1], its.out_channels, its.size, its.multiprocessors))


def _otherwise(call: _Call) -> None:
    """By one kernel of Triton's or, where that is expected to take longer, by two."""
    x, out = call.x, call.out
    n, channels, t, h, w = x.shape
    sms = convolution.gpu_traits(x.device).sms
    if pooled.pays(pooled.Problem(n, channels, out.shape[1], (t, h, w), sms)):
        triton.pooled_conv3d(*call)
        return
    between = torch.empty_like(x, memory_format=torch.channels_last_3d)
    max_pool3d_into(between, x, _WINDOW, _ONE, None)
    convolution.conv3d(between, call.weight, call.bias, Geometry(_ONE, _ONE, None, call.relu), out, 0)
