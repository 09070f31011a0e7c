"""I3D's layers at a given clip shape and the arithmetic they cost, read off its graph."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

import torch

from fasti3d import network, reference
from fasti3d.engine.describe.inception import graph_of
from fasti3d.engine.graph import Conv, Graph, Head, Pool, shapes
from fasti3d.same_padding import same_shape

Size = tuple[int, int, int]


class Layer(NamedTuple):
    """One convolution or max-pool.

    Attributes:
        name: the part, and the unit in a Mixed block after a dot; ``logits``.
        spec: its row of the network's table.
        in_channels, in_size: of its input, (T, H, W).
    """

    name: str
    spec: network.Conv | network.Pool
    in_channels: int
    in_size: Size

    @property
    def out_channels(self) -> int:
        return self.spec.out_channels if isinstance(self.spec, network.Conv) else self.in_channels

    @property
    def out_size(self) -> Size:
        t, h, w = same_shape(self.in_size, self.spec.stride)
        return t, h, w

    @property
    def flop(self) -> int:
        """Two per multiplication of the convolution; taps that fall on padding count, max-pools do not."""
        return 2 * self.weights * math.prod(self.out_size)

    @property
    def weights(self) -> int:
        """Values of the filters, without the bias."""
        if isinstance(self.spec, network.Pool):
            return 0
        return self.out_channels * self.in_channels * math.prod(self.spec.kernel)

    @property
    def out_elements(self) -> int:
        """Values of the output of one clip."""
        return self.out_channels * math.prod(self.out_size)

    @property
    def elements(self) -> int:
        """Values of the input and the output of one clip: the least that has to move."""
        return self.in_channels * math.prod(self.in_size) + self.out_elements

    def __str__(self) -> str:
        return f"{self.name} {self.in_channels}x{'x'.join(map(str, self.in_size))}"


def layers(in_channels: int, clip: Sequence[int], num_classes: int = 400) -> list[Layer]:
    """Every convolution and max-pool of I3D on a clip of (T, H, W), in order of computation."""
    graph = _graph(in_channels, num_classes, tuple(network.TRUNK.values()))
    of = shapes(graph, (1, in_channels, *clip))
    found = []
    for node in graph.nodes:
        if not isinstance(node, Conv | Pool | Head):
            continue
        _, channels, t, h, w = of[node.x]
        size, name = (t, h, w), node.name
        spec: network.Conv | network.Pool
        if isinstance(node, Conv):
            spec = network.Conv(node.weight.shape[0], node.kernel, node.stride)
        elif isinstance(node, Pool):
            spec = network.Pool(node.kernel, node.stride)
        else:
            t, h, w = network.HEAD_POOL
            size = (size[0] - t + 1, size[1] - h + 1, size[2] - w + 1)
            spec, name = network.Conv(num_classes, (1, 1, 1)), "logits"
        found.append(Layer(name, spec, channels, size))
    return found


@cache
def _graph(in_channels: int, num_classes: int, trunk: tuple[object, ...]) -> Graph:
    """``trunk``: the table that the network is made by."""
    with torch.device("meta"):
        return graph_of(reference.I3D(num_classes, in_channels).eval())


def network_flop(shape: tuple[int, ...], num_classes: int = 400) -> int:
    """Floating-point operations of one forward pass on clips of ``shape`` (N, C, T, H, W)."""
    n, c, t, h, w = shape
    return n * sum(layer.flop for layer in layers(c, (t, h, w), num_classes))
