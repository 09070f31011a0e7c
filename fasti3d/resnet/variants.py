"""The shape of each I3D-ResNet as data, and how its implementation prepares clips.

A ResNet whose 1x1 convolutions are inflated along time (Wang et al., "Non-local Neural Networks", CVPR
2018). Implementations agree on blocks and widths, and differ in the stem's stride, in pooling and in
non-local blocks: at one clip size their work differs by a factor of 3.4. Everything that walks the
network reads it from here.

Sources: facebookresearch/video-nonlocal-net and Tushar-N/pytorch-resnet3d (caffe2-*),
facebookresearch/pytorchvideo and PySlowFast (pytorchvideo-8x8, slow-8x8, c2d-8x8), open-mmlab/mmaction2.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import cycle, islice
from typing import NamedTuple, TypeAlias

from fasti3d.network import SCORES
from fasti3d.preprocessing import PREPROCESSINGS, Preprocessing

Triple: TypeAlias = tuple[int, int, int]

BN_EPS = 1e-5
STEM_CHANNELS = 64
# Inner channels of the bottlenecks per stage; what leaves a stage has EXPANSION times as many.
WIDTHS = (64, 128, 256, 512)
EXPANSION = 4
FEATURE_CHANNELS = WIDTHS[-1] * EXPANSION
# Bottlenecks per stage, by depth.
BLOCKS: Mapping[int, tuple[int, int, int, int]] = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}
# Clips of fewer frames and pixels fill every head.
_LARGEST_HEAD = 256
# What a non-local block computes; None where there are none.
MODES = ("embedded_gaussian", "dot_product", "gaussian")


class Pool(NamedTuple):
    """A max-pool with ``padding`` on both sides of each axis, which never wins."""

    kernel: Triple
    stride: Triple
    padding: Triple = (0, 0, 0)


class NonLocal(NamedTuple):
    """How an implementation computes non-local blocks.

    Attributes:
        modes: those that it has.
        pools_first: whether keys and values are pooled before their convolutions, or after them.
        scaled: whether scores are divided by the square root of their channels before the softmax.
        out_bias: whether the convolution before the batch norm has a bias.
        places: blocks of res3 and res4 that one follows, counted from 0, by depth.
    """

    modes: tuple[str, ...]
    pools_first: bool
    scaled: bool
    out_bias: bool
    places: Mapping[int, tuple[tuple[int, ...], tuple[int, ...]]]


class Variant(NamedTuple):
    """One implementation's network.

    Attributes:
        stem: window of the first convolution, which pads half of it on both sides.
        stem_stride: of the stem along time; along height and width it is 2.
        pool: after the stem.
        pool2: after res2.
        taps: frames of each bottleneck's first convolution per stage, in turn over its blocks.
        head: window of the average pool at stride 1; None averages over the whole map.
        non_local: None where the implementation has no such blocks.
        preprocessing: of its published weights; of others of this network, ``preprocessing_of``.
    """

    stem: Triple
    stem_stride: int
    pool: Pool
    pool2: Pool | None
    taps: tuple[tuple[int, ...], ...]
    head: Triple | None
    non_local: NonLocal | None
    preprocessing: Preprocessing

    def taps_of(self, stage: int, blocks: int) -> tuple[int, ...]:
        """Frames of the first convolution of each of a stage's blocks."""
        return tuple(islice(cycle(self.taps[stage]), blocks))

    def map_size(self, frames: int, side: int) -> tuple[int, int]:
        """Frames and side of res5 for a square clip; 0 or less where it is too small."""
        t, h, _ = self.stem
        frames = _output(frames, t, self.stem_stride, t // 2)
        side = _output(side, h, 2, h // 2)
        for pool in (self.pool, self.pool2):
            if pool is not None:
                frames = _output(frames, pool.kernel[0], pool.stride[0], pool.padding[0])
                side = _output(side, pool.kernel[1], pool.stride[1], pool.padding[1])
        for _ in range(3):
            side = _output(side, 3, 2, 1)
        return frames, side


def _output(size: int, kernel: int, stride: int, padding: int) -> int:
    return (size + 2 * padding - kernel) // stride + 1


_I3D_TAPS = ((3,), (3, 1), (3, 1), (1, 3))
_HALVE = Pool((2, 1, 1), (2, 1, 1))
_PADDED = Pool((1, 3, 3), (1, 2, 2), (0, 1, 1))
_UNPADDED = Pool((1, 3, 3), (1, 2, 2))

_EVERY_OTHER = (1, 3)
_CAFFE2 = NonLocal(
    ("embedded_gaussian",),
    True,
    True,
    True,
    {50: (_EVERY_OTHER, (1, 3, 5)), 101: (_EVERY_OTHER, (6, 13, 20))},
)
_PYSLOWFAST = NonLocal(
    ("embedded_gaussian", "dot_product"),
    True,
    True,
    True,
    {50: (_EVERY_OTHER, (1, 3, 5)), 101: (_EVERY_OTHER, (1, 3, 5))},
)
_MMACTION2 = NonLocal(MODES, False, False, False, {50: (_EVERY_OTHER, (1, 3, 5))})

# PySlowFast's, from which the others differ.
_I3D = Variant(
    stem=(5, 7, 7),
    stem_stride=1,
    pool=_PADDED,
    pool2=_HALVE,
    taps=_I3D_TAPS,
    head=(4, 7, 7),
    non_local=_PYSLOWFAST,
    preprocessing=PREPROCESSINGS["pytorchvideo-8x8"],
)
_C2D = _I3D._replace(stem=(1, 7, 7), taps=((1,),) * 4, non_local=None)
_OF_CAFFE2 = _I3D._replace(
    pool=_UNPADDED, head=None, non_local=_CAFFE2, preprocessing=PREPROCESSINGS["caffe2-8x8"]
)
_OF_MMACTION2 = _I3D._replace(head=None, non_local=_MMACTION2, preprocessing=PREPROCESSINGS["mmaction2-32x2"])

VARIANTS: Mapping[str, Variant] = {
    "caffe2-32x2": _OF_CAFFE2._replace(
        stem_stride=2,
        pool=Pool((2, 3, 3), (2, 2, 2)),
        preprocessing=PREPROCESSINGS["caffe2-32x2"],
    ),
    "caffe2-8x8": _OF_CAFFE2,
    "pytorchvideo-8x8": _I3D,
    "mmaction2-32x2": _OF_MMACTION2._replace(stem_stride=2, pool=Pool((1, 3, 3), (2, 2, 2), (0, 1, 1))),
    "mmaction2-heavy": _OF_MMACTION2._replace(taps=((3,),) * 4),
    "slow-8x8": _C2D._replace(pool2=None, taps=((1,), (1,), (3,), (3,)), head=(8, 7, 7)),
    "c2d-8x8": _C2D,
}


def check_network(variant: str, depth: int, non_local: str | None) -> Variant:
    """The variant of a name, where it has networks of a depth and with such non-local blocks.

    Raises:
        ValueError: it has not, or there is no such variant.
    """
    if variant not in VARIANTS:
        raise ValueError(
            f"variant must be one of {', '.join(map(repr, VARIANTS))}, got {variant!r}: strides and "
            "pools differ, so choose the implementation that the weights come from"
        )
    if depth not in BLOCKS:
        raise ValueError(f"depth must be one of {', '.join(map(str, BLOCKS))}, got {depth!r}")
    found = VARIANTS[variant]
    if non_local is None:
        return found
    if non_local not in MODES:
        raise ValueError(f"non_local must be None or one of {', '.join(map(repr, MODES))}, got {non_local!r}")
    its = found.non_local
    if its is None or non_local not in its.modes:
        able = [
            name for name, v in VARIANTS.items() if v.non_local is not None and non_local in v.non_local.modes
        ]
        raise ValueError(
            f"{variant} has no {non_local} non-local blocks: those that have are {', '.join(able)}"
        )
    if depth not in its.places:
        raise ValueError(
            f"{variant} has no non-local network of depth {depth}: choose one of {sorted(its.places)}"
        )
    return found


def smallest_clip(variant: str) -> tuple[int, int]:
    """Frames and side of the smallest clip that fills a variant's head.

    Example:
        >>> smallest_clip("pytorchvideo-8x8")
        (8, 193)
    """
    its = VARIANTS[variant]
    frames, side = (its.head or (1, 1, 1))[:2]
    enough = _LARGEST_HEAD
    found = [its.map_size(n, n) for n in range(1, enough)]
    return (
        next(n for n, size in enumerate(found, 1) if size[0] >= frames),
        next(n for n, size in enumerate(found, 1) if size[1] >= side),
    )


def endpoints_of(variant: str) -> tuple[str, ...]:
    """The maps of a variant by name, and its scores, in order of computation."""
    halves = VARIANTS[variant].pool2 is not None
    return ("conv1", "pool1", "res2", *(["pool2"] if halves else []), "res3", "res4", "res5", *SCORES)


def preprocessing_of(variant: str, naming: str) -> Preprocessing:
    """How clips for a variant's weights are prepared, which the implementation that named them decides."""
    if variant == "slow-8x8" and naming == "mmaction2":
        return PREPROCESSINGS["mmaction2-8x8"]
    return VARIANTS[variant].preprocessing
