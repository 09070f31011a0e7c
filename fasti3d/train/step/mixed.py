"""The node of a Mixed block: b0, b1a and b2a are one product, and every branch goes into its slice."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from fasti3d.ops.channels_last import channels_last
from fasti3d.ops.conv3d_training import conv3d_with_stats, finds_statistics, grad_input, grad_weight
from fasti3d.ops.max_pool3d_taps import max_pool3d_taps, max_pool3d_taps_backward
from fasti3d.train.step.norms import Backward, Product, backward, constants, normalized
from fasti3d.train.step.parts import POOL, Mixed, Unit
from fasti3d.train.step.recompute import input_again, keep_input
from fasti3d.train.step.second_order import first_order
from fasti3d.train.step.units import as_map, convolved, empty_map

_ONE, _THREE = (1, 1, 1), (3, 3, 3)


def _rows(x: Tensor) -> Tensor:
    """A map as (pixels, channels)."""
    return channels_last(x).flatten(0, 3)


def _slices(x: Tensor, units: Sequence[Unit]) -> Iterator[Tensor]:
    """The channels of each unit, which follow each other on axis 1."""
    return iter(x.split([unit.width for unit in units], dim=1))


def _side_by_side(weights: Sequence[Tensor], dtype: torch.dtype) -> Tensor:
    """The filters of 1x1x1 convolutions as one (outputs, inputs)."""
    return torch.cat([weight.detach().flatten(1) for weight in weights]).to(dtype)


def _entered(x: Tensor, weights: Sequence[Tensor], entry: tuple[Unit, ...]) -> Product:
    """The 1x1x1 convolutions of a block's input, side by side, as one product."""
    both = _side_by_side(weights, x.dtype)
    if finds_statistics(x) and any(unit.norm.training for unit in entry):
        y, mean, var = conv3d_with_stats(x, both[:, :, None, None, None])
        return Product(y, entry, (mean, var))
    product = empty_map(x, len(both))
    torch.mm(_rows(x), both.t(), out=_rows(product))
    return Product(product, entry)


class MixedNode(Function):
    """Its arguments are those of ``Mixed``'s units, in their order: filters, weight and bias of each."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, block: Mixed, recompute: bool, *tensors: Tensor) -> Tensor:
        weights = tensors[::3]
        entry = (block.b0, block.b1a, block.b2a)
        entered = _entered(x, weights[:3], entry)
        pooled, taps = max_pool3d_taps(x, *POOL)
        left = convolved(pooled, weights[5], block.b3b)
        product, last = entered.map, left.map
        (of_product, of_last), ctx.pixels = constants(entered, left)
        (_, k1a, k2a), (_, c1a, c2a) = _slices(of_product, entry), _slices(product, entry)
        y1, y2 = normalized(c1a, k1a), normalized(c2a, k2a)
        first, second = convolved(y1, weights[3], block.b1b), convolved(y2, weights[4], block.b2b)
        (of_c1, of_c2), _ = constants(first, second)
        kept = (product, last, first.map, second.map, of_product, of_last, of_c1, of_c2)
        ctx.block, ctx.output = block, _mixed_output
        inputs = (None, None, None) if recompute else (y1, y2, pooled)
        needs = ctx.needs_input_grad
        again = keep_input(ctx, x, any(needs[3:12:3]) or needs[18], recompute)
        ctx.save_for_backward(*kept, taps, again, *inputs, *weights)
        return _concatenated(kept, block)

    @staticmethod
    @first_order
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        kept, (taps, first, y1, y2, pooled), weights = _parted(ctx.saved_tensors)
        product, last, c1, c2, of_product, of_last, of_c1, of_c2 = kept
        block, size, pixels = ctx.block, product.shape[2:], ctx.pixels
        to_x, needs = ctx.needs_input_grad[0], ctx.needs_input_grad[3:]
        to_weight, to_affine = needs[::3], [a or b for a, b in zip(needs[1::3], needs[2::3], strict=True)]
        to_product = to_x or any(to_weight[:3])
        to_y1, to_y2 = (to_product or to_affine[i] for i in (1, 2))
        entry = (block.b0, block.b1a, block.b2a)
        (c0, c1a, c2a), (k0, k1a, k2a) = _slices(product, entry), _slices(of_product, entry)
        # Gradients of what the convolutions gave, in the order of the block's units.
        d = _gradient_of(product, to_product)
        d0, d1a, d2a = (None, None, None) if d is None else _slices(d, entry)
        d1 = _gradient_of(c1, to_weight[3] or to_y1)
        d2 = _gradient_of(c2, to_weight[4] or to_y2)
        d3 = _gradient_of(last, to_weight[5] or to_x)
        filters: list[Tensor | None] = [None] * 6
        affine: list[tuple[Tensor | None, Tensor | None]] = [(None, None)] * 6

        g0, g1, g2, g3 = _slices(as_map(grad), _exits(block))
        affine[0], affine[3], affine[4], affine[5] = backward(
            pixels,
            Backward(g0, c0, k0, block.b0, to_affine[0], d0),
            Backward(g1, c1, of_c1, block.b1b, to_affine[3], d1),
            Backward(g2, c2, of_c2, block.b2b, to_affine[4], d2),
            Backward(g3, last, of_last, block.b3b, to_affine[5], d3),
        )
        entered: dict[int, Backward] = {}
        if d1 is not None:
            if to_weight[3]:
                filters[3] = grad_weight(d1, normalized(c1a, k1a) if y1 is None else y1, _ONE, _THREE)
            if to_y1:
                g1a = grad_input(d1, weights[3], _ONE, size)
                entered[1] = Backward(g1a, c1a, k1a, block.b1a, to_affine[1], d1a)
        if d2 is not None:
            if to_weight[4]:
                filters[4] = grad_weight(d2, normalized(c2a, k2a) if y2 is None else y2, _ONE, _THREE)
            if to_y2:
                g2a = grad_input(d2, weights[4], _ONE, size)
                entered[2] = Backward(g2a, c2a, k2a, block.b2a, to_affine[2], d2a)
        for i, found in zip(entered, backward(pixels, *entered.values()), strict=True):
            affine[i] = found

        x = input_again(ctx, first) if to_weight[5] or any(to_weight[:3]) else None
        if d3 is not None and x is not None and to_weight[5]:
            filters[5] = grad_weight(
                d3, max_pool3d_taps(x, *POOL)[0] if pooled is None else pooled, _ONE, _ONE
            )
        if d is not None and x is not None and any(to_weight[:3]):
            filters[:3] = (_rows(d).t() @ _rows(x)).split([unit.width for unit in entry])
        x_grad = None
        if d is not None and d3 is not None and to_x:
            x_grad = max_pool3d_taps_backward(grad_input(d3, weights[5], _ONE, size), taps, *POOL, size)
            _rows(x_grad).addmm_(_rows(d), _side_by_side(weights[:3], grad.dtype))
        grads: list[Tensor | None] = []
        for weight, wanted, filter_, pair in zip(weights, to_weight, filters, affine, strict=True):
            shaped = filter_.to(weight.dtype).view_as(weight) if wanted and filter_ is not None else None
            grads += [shaped, *pair]
        return x_grad, None, None, *grads


def _exits(block: Mixed) -> tuple[Unit, ...]:
    """The units of the concatenation."""
    return block.b0, block.b1b, block.b2b, block.b3b


def _gradient_of(convolved: Tensor, wanted: bool) -> Tensor | None:
    """Where the gradient of a convolution's output goes."""
    return empty_map(convolved, convolved.shape[1]) if wanted else None


def _parted(saved: tuple[Tensor, ...]) -> tuple[tuple[Tensor, ...], tuple[Any, ...], tuple[Tensor, ...]]:
    """What a node saved: convolutions' outputs with constants, taps with inputs or None, and filters."""
    return saved[:8], saved[8:13], saved[13:]


def _concatenated(kept: Sequence[Tensor], block: Mixed) -> Tensor:
    """The block's output, every branch straight into its slice."""
    product, last, c1, c2, of_product, of_last, of_c1, of_c2 = kept
    out = empty_map(product, sum(unit.width for unit in _exits(block)))
    width = block.b0.width
    branches = ((product[:, :width], of_product[:, :width]), (c1, of_c1), (c2, of_c2), (last, of_last))
    for (x, values), place in zip(branches, _slices(out, _exits(block)), strict=True):
        normalized(x, values, place)
    return out


def _mixed_output(node: Any) -> Tensor:
    kept, _, _ = _parted(node.saved_tensors)
    return _concatenated(kept, node.block)
