"""The network's layers at a given clip shape, and the arithmetic they cost, walked from ``network.TRUNK``."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from fasti3d import network
from fasti3d.same_padding import same_output

Size = tuple[int, int, int]


class Layer(NamedTuple):
    """One convolution or max-pool at the size of its input, (T, H, W)."""

    name: str
    spec: network.Conv | network.Pool
    in_channels: int
    in_size: Size

    @property
    def out_channels(self) -> int:
        return self.spec.out_channels if isinstance(self.spec, network.Conv) else self.in_channels

    @property
    def out_size(self) -> Size:
        t, h, w = map(same_output, self.in_size, self.spec.stride)
        return t, h, w

    @property
    def flop(self) -> int:
        """Two a multiplication of the convolution; taps that fall on padding count, max-pools do not."""
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
        """Values of the input and the output of one clip: what has to move at the least."""
        return self.in_channels * math.prod(self.in_size) + self.out_elements

    def __str__(self) -> str:
        return f"{self.name} {self.in_channels}x{'x'.join(map(str, self.in_size))}"


def _mixed(name: str, spec: network.Mixed, channels: int, size: Size) -> Iterator[Layer]:
    one, three = (1, 1, 1), (3, 3, 3)
    yield Layer(f"{name}.b0", network.Conv(spec.b0, one), channels, size)
    yield Layer(f"{name}.b1a", network.Conv(spec.b1a, one), channels, size)
    yield Layer(f"{name}.b1b", network.Conv(spec.b1b, three), spec.b1a, size)
    yield Layer(f"{name}.b2a", network.Conv(spec.b2a, one), channels, size)
    yield Layer(f"{name}.b2b", network.Conv(spec.b2b, three), spec.b2a, size)
    yield Layer(f"{name}.b3a", network.Pool(three, one), channels, size)
    yield Layer(f"{name}.b3b", network.Conv(spec.b3b, one), channels, size)


def layers(in_channels: int, clip: Sequence[int], num_classes: int = 400) -> Iterator[Layer]:
    """Every convolution and max-pool of I3D on a clip of (T, H, W), in order of computation."""
    channels = in_channels
    size: Size = (clip[0], clip[1], clip[2])
    for name, spec in network.TRUNK.items():
        if isinstance(spec, network.Mixed):
            yield from _mixed(name, spec, channels, size)
            channels = spec.out_channels
        else:
            layer = Layer(name, spec, channels, size)
            yield layer
            channels, size = layer.out_channels, layer.out_size
    t, h, w = (n - k + 1 for n, k in zip(size, network.HEAD_POOL, strict=True))
    yield Layer("logits", network.Conv(num_classes, (1, 1, 1)), channels, (t, h, w))


def network_flop(shape: tuple[int, ...], num_classes: int = 400) -> int:
    """Floating-point operations of one forward pass on clips of ``shape`` (N, C, T, H, W)."""
    n, c, t, h, w = shape
    return n * sum(layer.flop for layer in layers(c, (t, h, w), num_classes))
