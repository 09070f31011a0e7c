"""Gradients of the training step's nodes by themselves, against finite differences in float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import gradcheck

from fasti3d import network
from fasti3d.train.step.mixed import MixedNode
from fasti3d.train.step.parts import Mixed, Unit
from fasti3d.train.step.units import PoolNode, UnitNode, as_map


def unit(inputs: int, outputs: int, kernel: int = 1, stride: int = 1, *, frozen: bool = False) -> Unit:
    """Unlike a fresh one, with values of both signs."""
    torch.manual_seed(inputs + 10 * outputs + 100 * kernel)
    conv = nn.Conv3d(inputs, outputs, kernel, stride, bias=False).double()
    norm = nn.BatchNorm3d(outputs, momentum=0.0).double().train(not frozen)
    nn.init.uniform_(norm.weight, 0.5, 1.5)
    nn.init.uniform_(norm.bias, -0.5, 0.5)
    nn.init.uniform_(norm.running_mean, -0.1, 0.1)
    with torch.no_grad():
        norm.weight[0] *= -1
    return Unit(conv, norm, (stride,) * 3)


def clip(*shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(shape, dtype=torch.float64, generator=generator).requires_grad_()


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize(("kernel", "stride"), [(1, 1), (3, 1), (4, 2)])
def test_unit(kernel: int, stride: int, frozen: bool) -> None:
    tested = unit(2, 3, kernel, stride, frozen=frozen)
    x = clip(2, 2, 3, 4, 3)

    def run(x: Tensor, *tensors: Tensor) -> Any:
        return UnitNode.apply(as_map(x), *tensors, tested, False)

    assert gradcheck(run, (x, *tested.tensors), atol=1e-6, fast_mode=True)


@pytest.mark.parametrize(("kernel", "stride"), [((3, 3, 3), (1, 1, 1)), ((1, 3, 3), (1, 2, 2))])
def test_pool(kernel: tuple[int, int, int], stride: tuple[int, int, int]) -> None:
    pool = network.Pool(kernel, stride)
    x = clip(1, 3, 2, 4, 5)
    assert gradcheck(lambda x: PoolNode.apply(as_map(x), pool, False), (x,), fast_mode=True)


@pytest.mark.parametrize("frozen", [None, "b1a", "b3b"])
def test_mixed(frozen: str | None) -> None:
    widths = {"b0": (3, 2), "b1a": (3, 2), "b2a": (3, 3), "b1b": (2, 2), "b2b": (3, 2), "b3b": (3, 2)}
    block = Mixed(
        **{
            name: unit(*width, 3 if name in ("b1b", "b2b") else 1, frozen=name == frozen)
            for name, width in widths.items()
        }
    )
    x = clip(1, 3, 2, 3, 3)

    def run(x: Tensor, *tensors: Tensor) -> Any:
        return MixedNode.apply(as_map(x), block, False, *tensors)

    tensors = [t for each in block for t in each.tensors]
    assert gradcheck(run, (x, *tensors), atol=1e-6, fast_mode=True)
