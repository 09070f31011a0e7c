"""Runs the Triton convolution with statistics. Imports triton: to be imported where it is first used."""

from __future__ import annotations

import torch
from torch import Tensor

from fasti3d.ops import subjects
from fasti3d.ops.batch_norm_relu.launch import join_stats
from fasti3d.ops.batch_norm_relu.reference import batch_norm_stats_reference
from fasti3d.ops.conv3d_bn_relu import launch, plain
from fasti3d.ops.conv3d_bn_relu.config import Config, choose
from fasti3d.ops.conv3d_bn_relu.geometry import Geometry
from fasti3d.ops.conv3d_bn_relu.tables import tuned
from fasti3d.proof.guard import guarded
from fasti3d.proof.subject import Layout


def conv3d_stats(
    x: Tensor, weight: Tensor, geometry: Geometry, out: Tensor, mean: Tensor, var: Tensor
) -> None:
    """Writes a convolution, and mean and biased variance of each channel of its float32 sums.

    Args:
        x: (N, Cin, T, H, W), float32, float16 or bfloat16.
        weight: what ``pack_triton`` made, in x's dtype.
        geometry: a window with neither padding nor ReLU.
        out: (N, Cout, T', H', W') in x's dtype, channels adjacent.
        mean, var: (Cout,), float32.
    """
    with torch.cuda.device_of(x):
        # The vector stands for a bias, which there is none of.
        work = launch.outline(x, weight, mean, geometry, out, 0)
        config = tuned(x.device).get(work.problem) or choose(work.problem)
        guarded(
            x.device,
            ("conv3d_stats", config, geometry, *map(Layout.of, (x, weight, out))),
            lambda: subjects.conv3d_stats(config, x, weight, geometry, out),
            lambda: run(config, x, weight, geometry, out, mean, var),
            lambda: _plain(x, weight, geometry, out, mean, var),
        )


def run(
    config: Config,
    x: Tensor,
    weight: Tensor,
    geometry: Geometry,
    out: Tensor,
    mean: Tensor,
    var: Tensor,
) -> None:
    """Launches a configuration; the current device must be x's."""
    work = launch.prepare(x, weight, mean, geometry, out, 0)
    shape = (work.pixel_tiles(config), 3, len(mean))
    part = torch.empty(shape, dtype=torch.float32, device=x.device)
    launch.run(config, work._replace(part=part))
    join_stats(part, mean, var)


def _plain(x: Tensor, weight: Tensor, geometry: Geometry, out: Tensor, mean: Tensor, var: Tensor) -> None:
    plain.conv3d_into(x, weight, torch.zeros_like(mean), geometry, out, 0)
    batch_norm_stats_reference(out, mean, var)
