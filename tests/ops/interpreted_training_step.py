"""The beginning of the training step on Triton's kernels, in Triton's interpreter, against float64: run by
test_training_step_triton.py.

A process must say TRITON_INTERPRET=1 before it imports triton, so these tests have one of their own.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from i3d_making import narrowed, random_clip
from interpreting import CHIPS
from torch import Tensor, nn

from fasti3d import I3D, network
from fasti3d.ops.batch_norm_relu import launch as norm_launch
from fasti3d.ops.batch_norm_relu import op as norm_op
from fasti3d.ops.conv3d_bn_relu import launch as conv_launch
from fasti3d.ops.conv3d_training import launch as stats_launch
from fasti3d.ops.conv3d_training import with_stats
from fasti3d.ops.max_pool3d_taps import launch as pool_launch
from fasti3d.ops.max_pool3d_taps import op as pool_op
from fasti3d.train.step import describe, mixed, walk

LAST = "Mixed_3b"
# By the module and the function of it that computes float16 on a CPU.
INSTEAD = {
    (norm_op, "_stats"): norm_launch.batch_norm_stats,
    (norm_op, "_scale_shift_relu"): norm_launch.scale_shift_relu,
    (norm_op, "_sums"): norm_launch.batch_norm_relu_sums,
    (norm_op, "_backward"): norm_launch.batch_norm_relu_backward,
    (pool_op, "_pool"): pool_launch.max_pool3d_taps,
    (pool_op, "_backward"): pool_launch.max_pool3d_taps_backward,
}


def as_on_a_gpu(patch: pytest.MonkeyPatch) -> set[str]:
    """The launches from now on, which the training step makes on the CPU."""
    found: set[str] = set()

    def noted(function: Callable[..., None]) -> Callable[..., None]:
        def run(*arguments: Any) -> None:
            found.add(function.__name__)
            function(*arguments)

        return run

    for (module, name), function in INSTEAD.items():
        patch.setattr(module, name, noted(function))
    patch.setattr(stats_launch, "run", noted(stats_launch.run))
    for module in (norm_launch, conv_launch, pool_launch):
        patch.setattr(module, "gpu_traits", lambda device: CHIPS["descriptor"])
    for module in (with_stats, mixed):
        patch.setattr(module, "finds_statistics", lambda x: True)
    return found


def gradients(model: nn.Module, x: Tensor) -> dict[str, Tensor]:
    names = list(network.TRUNK)[: list(network.TRUNK).index(LAST) + 1]
    y = walk(describe(model, tuple(names)), x, [LAST], recompute=True)[LAST]
    weights = torch.rand(y.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64) - 0.5
    (y.double() * weights).sum().backward()
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def distance(found: dict[str, Tensor], exact: dict[str, Tensor]) -> float:
    """Of all gradients together, relative to their norm."""
    assert found.keys() == exact.keys()
    apart = sum((found[n].double() - exact[n]).square().sum() for n in exact)
    return float((apart / sum(g.square().sum() for g in exact.values())).sqrt())


def test_the_step_on_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Errors are those of the references' step in float16, and so are the statistics."""
    with narrowed():
        torch.manual_seed(0)
        model = I3D(5, dropout=0.0)
        for module in model.modules():
            # Hardly a ReLU is near 0, where roundings decide over whole gradients.
            if isinstance(module, nn.BatchNorm3d):
                nn.init.constant_(module.bias, 3)
        models = [copy.deepcopy(model) for _ in range(3)]
        x = random_clip(2, 3, 4, 24, 20).contiguous(memory_format=torch.channels_last_3d)
        exact = gradients(models[0].double(), x.double())
        plain = gradients(models[1], x.half())
        launched = as_on_a_gpu(monkeypatch)
        found = gradients(models[2], x.half())
    # Every convolution found its statistics.
    assert launched == {function.__name__ for function in INSTEAD.values()} - {"batch_norm_stats"} | {"run"}
    assert distance(found, exact) <= 1.5 * distance(plain, exact)
    for name, its in models[0].named_buffers():
        if "running" in name:
            mine = models[2].get_buffer(name)
            torch.testing.assert_close(mine.double(), its, rtol=2e-3, atol=2e-3, msg=name)
