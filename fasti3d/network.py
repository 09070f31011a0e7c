"""The shape of I3D as data: endpoint names, channel table and pools.

Source: Carreira & Zisserman, "Quo Vadis, Action Recognition?" (CVPR 2017) and its released
network, deepmind/kinetics-i3d. Everything that walks the network (the reference, the fused plan,
the checkpoint converters) reads it from here.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import NamedTuple

BN_EPS = 1e-3
# TensorFlow's moving-average decay of 0.999, in torch's convention.
BN_MOMENTUM = 1e-3

# The head averages over 2 time steps of Mixed_5c and 7x7 pixels, stride 1, no padding.
HEAD_POOL = (2, 7, 7)
# Mixed_5c is 8 times shorter and 32 times smaller than the clip, rounded up.
TIME_STRIDE = 8
SPACE_STRIDE = 32
GRID = (TIME_STRIDE, SPACE_STRIDE, SPACE_STRIDE)
FEATURE_CHANNELS = 1024


def smallest_clip(window: tuple[int, int, int]) -> tuple[int, int, int]:
    """Frames, height and width of the smallest clip whose Mixed_5c fills a window."""
    t, h, w = ((n - 1) * step + 1 for n, step in zip(window, GRID, strict=True))
    return t, h, w


# The shortest and smallest clip that still fills the head's pool.
MIN_FRAMES, MIN_SIZE, _ = smallest_clip(HEAD_POOL)
# N frames give N - 1 flows, and the head wants as many flows as frames.
MIN_FLOW_FRAMES = MIN_FRAMES + 1


class Conv(NamedTuple):
    """A conv3d + batch norm + ReLU unit."""

    out_channels: int
    kernel: tuple[int, int, int]
    stride: tuple[int, int, int] = (1, 1, 1)


class Pool(NamedTuple):
    """A max-pool with TensorFlow SAME padding."""

    kernel: tuple[int, int, int]
    stride: tuple[int, int, int]


class Mixed(NamedTuple):
    """An Inception block: output channels of its six convolutions.

    Branch 0 is ``b0`` (1x1x1); branch 1 ``b1a`` (1x1x1) then ``b1b`` (3x3x3); branch 2 ``b2a``
    then ``b2b`` likewise; branch 3 a 3x3x3 max-pool then ``b3b`` (1x1x1). The output is the
    concatenation of b0, b1b, b2b, b3b.
    """

    b0: int
    b1a: int
    b1b: int
    b2a: int
    b2b: int
    b3b: int

    @property
    def out_channels(self) -> int:
        return self.b0 + self.b1b + self.b2b + self.b3b


# The trunk, in order. Names are those of the paper's released network.
TRUNK: dict[str, Conv | Pool | Mixed] = {
    "Conv3d_1a_7x7": Conv(64, (7, 7, 7), (2, 2, 2)),
    "MaxPool3d_2a_3x3": Pool((1, 3, 3), (1, 2, 2)),
    "Conv3d_2b_1x1": Conv(64, (1, 1, 1)),
    "Conv3d_2c_3x3": Conv(192, (3, 3, 3)),
    "MaxPool3d_3a_3x3": Pool((1, 3, 3), (1, 2, 2)),
    "Mixed_3b": Mixed(64, 96, 128, 16, 32, 32),
    "Mixed_3c": Mixed(128, 128, 192, 32, 96, 64),
    "MaxPool3d_4a_3x3": Pool((3, 3, 3), (2, 2, 2)),
    "Mixed_4b": Mixed(192, 96, 208, 16, 48, 64),
    "Mixed_4c": Mixed(160, 112, 224, 24, 64, 64),
    "Mixed_4d": Mixed(128, 128, 256, 24, 64, 64),
    "Mixed_4e": Mixed(112, 144, 288, 32, 64, 64),
    "Mixed_4f": Mixed(256, 160, 320, 32, 128, 128),
    "MaxPool3d_5a_2x2": Pool((2, 2, 2), (2, 2, 2)),
    "Mixed_5b": Mixed(256, 160, 320, 32, 128, 128),
    "Mixed_5c": Mixed(384, 192, 384, 48, 128, 128),
}

# The paper's names, in order of computation.
ENDPOINTS: tuple[str, ...] = (*TRUNK, "Logits", "Predictions")
# What the head gives, and every name that ``forward_endpoints`` knows.
HEAD: tuple[str, ...] = ("Features", "Logits", "Predictions")
SCORES: tuple[str, ...] = ("Logits", "Predictions")
OUTPUTS: tuple[str, ...] = (*TRUNK, *HEAD)


def check_endpoints(names: Iterable[str], known: Collection[str] = OUTPUTS) -> set[str]:
    """The names of outputs, of those that are known, as a set; ValueError for another, or a bare string."""
    if isinstance(names, str):
        raise ValueError(
            f"names must be a collection of endpoint names, got the string {names!r}: wrap it in a list"
        )
    wanted = set(names)
    unknown = sorted(wanted.difference(known))
    if unknown:
        raise ValueError(f"unknown endpoints {unknown}: choose from {', '.join(known)}")
    return wanted
