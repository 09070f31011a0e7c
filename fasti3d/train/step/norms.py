"""Batch norms with ReLU of the training step: their constants per channel, running statistics and gradients.

Constants are (4, C): mean, 1 / deviation, scale and shift. Over several processes statistics are summed in
float64, those of several convolutions at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from fasti3d.ops.batch_norm_relu import (
    batch_norm_relu_backward_,
    batch_norm_relu_sums,
    batch_norm_stats,
    scale_shift_relu_,
)
from fasti3d.ops.border import sum_dtype
from fasti3d.train.step.parts import Unit, sync_group


class Product(NamedTuple):
    """The outputs of convolutions, side by side in one map; mean and variance of its channels, if they are
    known already.
    """

    map: Tensor
    units: tuple[Unit, ...]
    stats: tuple[Tensor, Tensor] | None = None


class Constants(NamedTuple):
    """Constants of each product, and the pixels that each statistic is over."""

    values: list[Tensor]
    pixels: int | Tensor


def constants(*products: Product) -> Constants:
    """What normalizes products of as many pixels; running statistics move."""
    shape = products[0].map.shape
    own = shape[:1].numel() * shape[2:].numel()
    trained = [unit for product in products for unit in product.units if unit.norm.training]
    group = sync_group(trained[0]) if trained else None
    if trained and group is None and own == 1:
        size = torch.Size((shape[0], trained[0].width, *shape[2:]))
        raise ValueError(f"Expected more than 1 value per channel when training, got input size {size}")
    stats = [
        product.stats or batch_norm_stats(product.map)
        if any(unit.norm.training for unit in product.units)
        else None
        for product in products
    ]
    pixels = own if group is None else _over_processes(stats, own, group)
    return Constants(
        [_constants_of(product, found, pixels) for product, found in zip(products, stats, strict=True)],
        pixels,
    )


def _over_processes(stats: list[tuple[Tensor, Tensor] | None], pixels: int, group: Any) -> Tensor:
    """Replaces statistics of this process by those of all, and gives the number of their pixels."""
    own = [found for found in stats if found is not None]
    means = torch.cat([mean for mean, _ in own]).double()
    variances = torch.cat([var for _, var in own]).double()
    sums = torch.cat([means.new_ones(1), means, variances + means * means]) * pixels
    dist.all_reduce(sums, group=group)
    total = sums[0]
    averages, squares = (sums[1:] / total).chunk(2)
    variances = (squares - averages * averages).clamp_(min=0)
    first = 0
    for i, found in enumerate(stats):
        if found is not None:
            last = first + len(found[0])
            stats[i] = (
                averages[first:last].to(found[0].dtype),
                variances[first:last].to(found[0].dtype),
            )
            first = last
    return total


def _constants_of(product: Product, stats: tuple[Tensor, Tensor] | None, pixels: int | Tensor) -> Tensor:
    x = product.map
    result = torch.empty(4, x.shape[1], dtype=sum_dtype(x.dtype), device=x.device)
    first = 0
    for unit in product.units:
        norm, last = unit.norm, first + unit.width
        if norm.training:
            assert stats is not None
            mean, var = (values[first:last] for values in stats)
            _move(norm, mean, var, pixels)
        else:
            mean, var = norm.running_mean, norm.running_var
        average, inverse, scale, shift = result[:, first:last]
        average.copy_(mean)
        torch.rsqrt(var + norm.eps, out=inverse)
        torch.mul(norm.weight.detach(), inverse, out=scale)
        torch.addcmul(norm.bias.detach(), average, scale, value=-1, out=shift)
        first = last
    return result


def _move(norm: Any, mean: Tensor, var: Tensor, pixels: int | Tensor) -> None:
    """Moves running statistics by one batch, with the unbiased variance, as torch does."""
    norm.running_mean.lerp_(mean, norm.momentum)
    norm.running_var.lerp_((var * (pixels / (pixels - 1))).to(var.dtype), norm.momentum)
    if norm.num_batches_tracked is not None:
        norm.num_batches_tracked.add_(1)


def normalized(x: Tensor, values: Tensor, out: Tensor | None = None) -> Tensor:
    """The output of the ReLU, into ``out`` or a new map."""
    if out is None:
        out = torch.empty(x.shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last_3d)
    return scale_shift_relu_(x, values[2], values[3], out)


class Backward(NamedTuple):
    """What a batch norm's gradient is computed from.

    Attributes:
        grad: gradient of the ReLU's output.
        map: the convolution's output.
        values: its constants.
        unit: the batch norm.
        affine: whether gradients of weight and bias are wanted.
        out: where the gradient of ``map`` goes; None if it is not wanted.
    """

    grad: Tensor
    map: Tensor
    values: Tensor
    unit: Unit
    affine: bool
    out: Tensor | None


def backward(pixels: int | Tensor, *items: Backward) -> list[tuple[Tensor | None, Tensor | None]]:
    """Write the gradients of maps, and give those of weight and bias of each batch norm."""
    sums = [
        batch_norm_relu_sums(item.grad, item.map, item.values[0], item.values[2], item.values[3])
        if item.affine or (item.unit.norm.training and item.out is not None)
        else None
        for item in items
    ]
    everywhere = _summed_over_processes(items, sums)
    found: list[tuple[Tensor | None, Tensor | None]] = []
    for item, own, all_sums in zip(items, sums, everywhere, strict=True):
        mean, inverse, scale, shift = item.values
        if item.out is not None:
            if item.unit.norm.training:
                assert all_sums is not None
                total, dot = all_sums
                offset = (total * scale / -pixels).to(scale.dtype)
                slope = (dot * scale * inverse * inverse / -pixels).to(scale.dtype)
            else:
                offset = slope = torch.zeros_like(scale)
            batch_norm_relu_backward_(item.grad, item.map, mean, scale, shift, slope, offset, item.out)
        found.append((None, None) if own is None or not item.affine else (own[1] * inverse, own[0]))
    return found


def _summed_over_processes(
    items: Sequence[Backward], sums: list[tuple[Tensor, Tensor] | None]
) -> list[tuple[Tensor, Tensor] | None]:
    """The sums that input gradients need, those of all processes in one go."""
    groups = [sync_group(item.unit) if item.out is not None else None for item in items]
    group = next((each for each in groups if each is not None), None)
    if group is None:
        return sums
    own = [pair for pair, each in zip(sums, groups, strict=True) if each is not None and pair is not None]
    summed = torch.cat([values for pair in own for values in pair])
    dist.all_reduce(summed, group=group)
    parts = iter(summed.split([len(values) for pair in own for values in pair]))
    return [
        pair if each is None else (next(parts), next(parts)) for pair, each in zip(sums, groups, strict=True)
    ]
