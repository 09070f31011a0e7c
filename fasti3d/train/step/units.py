"""Nodes of the training step in autograd's graph: a unit of convolution, batch norm and ReLU, and a max-pool.

Each keeps what its own backward pass needs: a unit the convolution's output, a pool which taps won.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from fasti3d import network
from fasti3d.ops.conv3d_training import conv3d_with_stats, grad_input, grad_weight
from fasti3d.ops.conv3d_training import forward as conv3d
from fasti3d.ops.max_pool3d_taps import max_pool3d_taps, max_pool3d_taps_backward
from fasti3d.train.step.norms import Backward, Product, backward, constants, normalized
from fasti3d.train.step.parts import Unit
from fasti3d.train.step.recompute import input_again, keep_input
from fasti3d.train.step.second_order import first_order


def as_map(x: Tensor) -> Tensor:
    """The same values with adjacent channels."""
    if x.shape[1] == 1 or x.stride(1) == 1:
        return x
    return x.contiguous(memory_format=torch.channels_last_3d)


def empty_map(like: Tensor, channels: int) -> Tensor:
    """A map to write, of as many pixels."""
    shape = (like.shape[0], channels, *like.shape[2:])
    return torch.empty(shape, dtype=like.dtype, device=like.device, memory_format=torch.channels_last_3d)


def convolved(x: Tensor, weight: Tensor, unit: Unit) -> Product:
    """The output of a unit's convolution, with the statistics that its batch norm takes."""
    if not unit.norm.training:
        return Product(conv3d(x, weight, unit.stride), (unit,))
    y, mean, var = conv3d_with_stats(x, weight, unit.stride)
    return Product(y, (unit,), (mean, var))


class UnitNode(Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, scale: Tensor, shift: Tensor, unit: Unit, recompute: bool
    ) -> Tensor:
        product = convolved(x, weight, unit)
        (values,), ctx.pixels = constants(product)
        ctx.unit, ctx.size, ctx.output = unit, x.shape[2:], _unit_output
        kept = keep_input(ctx, x, ctx.needs_input_grad[1], recompute)
        ctx.save_for_backward(product.map, values, weight, kept)
        return normalized(product.map, values)

    @staticmethod
    @first_order
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        convolved, values, weight, kept = ctx.saved_tensors
        to_x, to_weight, *to_affine = ctx.needs_input_grad[:4]
        out = empty_map(convolved, convolved.shape[1]) if to_x or to_weight else None
        item = Backward(as_map(grad), convolved, values, ctx.unit, any(to_affine), out)
        ((scale_grad, shift_grad),) = backward(ctx.pixels, item)
        x_grad = weight_grad = None
        if out is not None and to_x:
            x_grad = grad_input(out, weight, ctx.unit.stride, ctx.size)
        if out is not None and to_weight:
            again = input_again(ctx, kept)
            weight_grad = grad_weight(out, again, ctx.unit.stride, weight.shape[2:]).to(weight.dtype)
        return x_grad, weight_grad, scale_grad, shift_grad, None, None


def _unit_output(node: Any) -> Tensor:
    convolved, values, *_ = node.saved_tensors
    return normalized(convolved, values)


class PoolNode(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, pool: network.Pool, recompute: bool) -> Tensor:
        y, taps = max_pool3d_taps(x, pool.kernel, pool.stride)
        ctx.pool, ctx.size = pool, x.shape[2:]
        if keep_input(ctx, x, False, recompute) is None and ctx.maker is not None:
            ctx.output = _pool_output
        ctx.save_for_backward(taps)
        return y

    @staticmethod
    @first_order
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        (taps,) = ctx.saved_tensors
        return (
            max_pool3d_taps_backward(as_map(grad), taps, ctx.pool.kernel, ctx.pool.stride, ctx.size),
            None,
            None,
        )


def _pool_output(node: Any) -> Tensor:
    return max_pool3d_taps(input_again(node, None), node.pool.kernel, node.pool.stride)[0]
