"""Winograd's minimal filtering: fewer products for the same convolution.

F(m, r) computes m outputs of an r-tap filter from m + r - 1 products instead of m * r: the inputs of a
tile and the filter are evaluated at m + r - 1 points (one at infinity), multiplied point by point, and
the outputs read back from the products. A convolution of stride s is the sum of s convolutions of
stride 1 over every s-th frame (its phases); phases that share a point share its sum of products.
Filters along time, height and width nest: the products per output multiply.

Source: Lavin & Gray, "Fast Algorithms for Convolutional Neural Networks" (CVPR 2016); Toom-Cook
construction of the matrices after Winograd, "Arithmetic Complexity of Computations" (1980).
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from functools import cache
from math import prod
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

# Taken in this order; all products of them are exact in float32. Of many points those near 1 keep the
# rounding error lowest, measured: 0.7 times that of 0, 1, -1, 2, -2.
_FEW_POINTS = (Fraction(0), Fraction(1), Fraction(-1))
_MANY_POINTS = (
    Fraction(0),
    Fraction(3, 4),
    Fraction(-3, 4),
    Fraction(3, 2),
    Fraction(-3, 2),
    Fraction(-3, 8),
)


class Transform(NamedTuple):
    """The matrices of one minimal filter along an axis.

    ``inputs`` (components, phases, frames) takes a tile's frames to components, ``filters`` (components,
    phases, taps) a filter's taps (float64, for weights are transformed once), and ``outputs`` (outputs,
    components) the products back. A component that a phase has no use for is a row of zeros, and such phases
    come last.
    """

    inputs: Tensor
    filters: Tensor
    outputs: Tensor

    @property
    def products(self) -> int:
        """Of a tile."""
        return int((self.filters != 0).any(dim=2).sum())


def _expand(roots: Sequence[Fraction]) -> list[Fraction]:
    """Coefficients, lowest first, of the polynomial with these roots."""
    coefficients = [Fraction(1)]
    for root in roots:
        shifted = [Fraction(0), *coefficients]
        scaled = [*(root * c for c in coefficients), Fraction(0)]
        coefficients = [a - b for a, b in zip(shifted, scaled, strict=True)]
    return coefficients


@cache
def minimal_filter(outputs: int, taps: int, stride: int = 1) -> Transform:
    """The transform for ``outputs`` outputs of ``taps`` taps at a stride.

    Of one output it is the direct form: one component, with every tap a phase of its own.
    """
    if outputs == 1:
        # In numpy, which torch's default dtype and device do not reach.
        inputs, filters, back = np.ones((1, taps, 1)), np.ones((1, taps, 1)), np.ones((1, 1))
        return _transform(inputs, filters, back)
    phase_taps = [len(range(phase, taps, stride)) for phase in range(stride)]
    components = outputs + phase_taps[0] - 1
    frames = components
    shared = _FEW_POINTS if components <= len(_FEW_POINTS) + 1 else _MANY_POINTS
    inputs = np.zeros((components, stride, frames))
    filters = np.zeros((components, stride, phase_taps[0]))
    for phase, count in enumerate(phase_taps):
        points = shared[: outputs + count - 2]
        for i, point in enumerate(points):
            others = [p for p in points if p != point]
            scale = prod((point - p for p in others), start=Fraction(1))
            row = _expand(others)
            inputs[i, phase, : len(row)] = [float(c) for c in row]
            filters[i, phase, :count] = [float(point**k / scale) for k in range(count)]
        row = _expand(points)
        inputs[-1, phase, : len(row)] = [float(c) for c in row]
        filters[-1, phase, count - 1] = 1
    back = np.zeros((outputs, components))
    for i, point in enumerate(shared[: components - 1]):
        back[:, i] = [float(point**k) for k in range(outputs)]
    back[-1, -1] = 1
    return _transform(inputs, filters, back)


def _transform(inputs: Any, filters: Any, outputs: Any) -> Transform:
    return Transform(
        torch.from_numpy(inputs.astype(np.float32)),
        torch.from_numpy(filters),
        torch.from_numpy(outputs.astype(np.float32)),
    )


@cache
def amplification(outputs: int, taps: int, stride: int = 1) -> float:
    """Rounding error of the filter's products, as a multiple of the direct form's, root mean square.

    Of inputs and taps that are independent noise: outputs are sums of products that cancel in part. Those of
    nested filters multiply.

    >>> round(amplification(4, 3), 1)
    2.3
    """
    transform = minimal_filter(outputs, taps, stride)
    inputs, back = transform.inputs.double(), transform.outputs.double()
    variances = (inputs.square().sum(dim=2) * transform.filters.square().sum(dim=2)).sum(dim=1)
    return float((back.square() @ variances / taps).mean().sqrt())
