"""Convolutions over slabs, as variants of those that Triton computes (see conv3d_variants)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch

from fasti3d.ops.conv3d_bn_relu.launch import Prepared
from fasti3d.ops.conv3d_slab.config import Problem, candidates, nanoseconds
from fasti3d.ops.conv3d_slab.op import COMPILED
from fasti3d.ops.conv3d_slab.pack import pack_slab


def over_slabs(work: Prepared, rank: int) -> Callable[[], None]:
    """The tile that is expected to be the fastest but ``rank`` others."""
    if work.x.is_cuda and not COMPILED:
        raise RuntimeError("fasti3d._C_sm90a is not built")
    (n, channels, *size), out = work.x.shape, work.out.shape
    t, h, w = work.kernel
    if (cell := work.x.stride(4)) < channels:
        # Rows of cells, which overlap: the window has as many columns as a row has cells.
        channels, w = cell, channels // cell
        size[2] += w - 1
    x = work.x.as_strided((n, channels, *size), work.x.stride())
    weight = work.weight.reshape(len(work.weight), t, h, w, channels).permute(0, 4, 1, 2, 3)
    problem = Problem(
        n,
        channels,
        out[1],
        (size[0], size[1], size[2]),
        (out[2], out[3], out[4]),
        (t, h, w),
        work.pad,
        work.problem.multiprocessors,
    )
    ranked = sorted(candidates(problem), key=lambda one: nanoseconds(problem, one))
    return partial(
        torch.ops.fasti3d.conv3d_slab_,
        x,
        pack_slab(weight),
        work.bias,
        problem.kernel,
        problem.before,
        work.relu,
        work.out,
        ranked[min(rank, len(ranked) - 1)].numbers,
        work.residual,
    )


SLABS = {f"slab, tile {rank + 1}": partial(over_slabs, rank=rank) for rank in range(4)}
