"""What nodes cost: arithmetic, and values that have to move."""

from __future__ import annotations

import math

from fasti3d.engine.graph import (
    Attention,
    Concat,
    Conv,
    ConvPool,
    Head,
    Node,
    Opaque,
    PoolConv,
    Shapes,
    Siblings,
    Softmax,
)
from fasti3d.ops.conv3d_bn_relu.geometry import output_size


def flop(node: Node, of: Shapes) -> int:
    """Two per multiplication of a convolution or classifier; taps that fall on padding count."""
    if isinstance(node, Conv):
        return 2 * node.weight[0].numel() * math.prod(of[node.out])
    if isinstance(node, Siblings):
        n, _, *size = of[node.x]
        return 2 * node.weight.numel() * n * math.prod(size)
    if isinstance(node, ConvPool):
        (between,) = node.conv.shapes(of)
        return flop(node.conv, of | {node.conv.out: between})
    if isinstance(node, PoolConv):
        return flop(node.conv, of)
    if isinstance(node, Attention):
        n, width, *size = of[node.q]
        _, channels, *pooled = of[node.v]
        queries, keys = math.prod(size), math.prod(pooled)
        if node.scale is None:  # keys times values first
            return 2 * n * width * channels * (queries + keys)
        return 2 * n * (width + channels) * queries * keys
    if isinstance(node, Head) and node.weight is not None:
        n, _, *size = of[node.x]
        places = math.prod(output_size(size, node.window, (1, 1, 1), (0, 0, 0))) if node.window else 1
        return 2 * node.weight.numel() * n * places
    return 0


def values(node: Node, of: Shapes) -> int:
    """Read and written, weights included: its inputs and its results once. What torch's own operators move is
    not known, and a concatenation moves nothing.
    """
    if isinstance(node, Opaque | Concat | Softmax):
        return 0
    if isinstance(node, Head):
        # The average is read off the map by the classifier.
        held = 0 if node.weight is None else node.weight.numel() + math.prod(of[node.scores or node.out])
        return math.prod(of[node.x]) + held
    holder = node.conv if isinstance(node, ConvPool | PoolConv) else node
    weight = getattr(holder, "weight", None)
    # Of siblings all but the first lie in the second.
    results = (node.out, node.second) if isinstance(node, Siblings) else (node.out,)
    moved = sum(math.prod(of[value]) for value in (*node.reads, *results))
    return moved + (0 if weight is None else weight.numel())
