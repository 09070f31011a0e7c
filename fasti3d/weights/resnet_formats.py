"""The names that I3D-ResNets have in each implementation's files, and what a file tells of its network.

Our names are those of Tushar-N/pytorch-resnet3d.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from torch import Tensor

from fasti3d.resnet.variants import BLOCKS, VARIANTS
from fasti3d.utils.parsing import brief
from fasti3d.weights.errors import WeightsError

STEM = "conv1.weight"
CLASSIFIER = "fc.weight"

_NORM = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
_TORCH_CONV = {"weight": ".weight", "bias": ".bias"}
_TORCH_NORM = {leaf: f".{leaf}" for leaf in _NORM}
# riv is the variance itself, whatever its name says.
_CAFFE2_NORM = {"weight": "_s", "bias": "_b", "running_mean": "_rm", "running_var": "_riv"}
_NON_LOCAL = ("theta", "phi", "g", "out", "bn")
_LETTERS = "abc"
# Fewer known keys than this are a coincidence.
_MIN_KEYS = 10


@dataclass(frozen=True)
class Naming:
    """How an implementation names the parts of its networks.

    In the names {stage} counts from 1, {block} from 0, {i} is 1 to 3 and {letter} a to c.

    Attributes:
        name: of the format, for people and for metadata.
        variants: those whose weights are stored so.
        stem, unit, shortcut: a convolution and its batch norm each.
        non_local: theta, phi, g, out and their batch norm.
        classifier: the last layer.
        conv, norm: what follows the name of a layer, by our name of the tensor.
        number: the implementation's number of a stage.
        dropped: endings of what else the files hold.
    """

    name: str
    variants: tuple[str, ...]
    stem: tuple[str, ...]
    unit: tuple[str, ...]
    shortcut: tuple[str, ...]
    non_local: tuple[str, ...]
    classifier: str
    conv: Mapping[str, str] = field(default_factory=lambda: _TORCH_CONV)
    norm: Mapping[str, str] = field(default_factory=lambda: _TORCH_NORM)
    number: Callable[[int], int] = lambda stage: stage
    dropped: tuple[str, ...] = ()

    def keys(self) -> dict[str, str]:
        """Its name of each tensor -> ours, for all depths and places of non-local blocks."""
        return dict(self._pairs())

    def _pairs(self) -> Iterator[tuple[str, str]]:
        yield from self._layer(self.stem, ("conv1", "bn1"))
        yield from self._of(self.conv, self.classifier, "fc")
        for stage, blocks in enumerate(map(max, zip(*BLOCKS.values(), strict=True)), start=1):
            number = self.number(stage)
            for block in range(blocks):
                place, ours = {"stage": number, "block": block}, f"layer{stage}.{block}"
                for i, letter in enumerate(_LETTERS, start=1):
                    its = tuple(name.format(**place, i=i, letter=letter) for name in self.unit)
                    yield from self._layer(its, (f"{ours}.conv{i}", f"{ours}.bn{i}"))
                its = tuple(name.format(**place) for name in self.shortcut)
                yield from self._layer(its, (f"{ours}.downsample.0", f"{ours}.downsample.1"))
                for name, part in zip(self.non_local, _NON_LOCAL, strict=False):
                    leaves = self.norm if part == "bn" else self.conv
                    yield from self._of(leaves, name.format(**place), f"{ours}.nl.{part}")

    def _layer(self, theirs: tuple[str, ...], ours: tuple[str, str]) -> Iterator[tuple[str, str]]:
        yield from self._of(self.conv, theirs[0], ours[0])
        yield from self._of(self.norm, theirs[1], ours[1])

    def _of(self, leaves: Mapping[str, str], theirs: str, ours: str) -> Iterator[tuple[str, str]]:
        for leaf, ending in leaves.items():
            yield f"{theirs}{ending}", f"{ours}.{leaf}"


_CAFFE2_VARIANTS = ("caffe2-32x2", "caffe2-8x8")
_FACEBOOK = ("pytorchvideo-8x8", "slow-8x8", "c2d-8x8")
_PYTORCHVIDEO_UNIT = tuple(
    f"blocks.{{stage}}.res_blocks.{{block}}.branch2.{n}_{{letter}}" for n in ("conv", "norm")
)
_PYTORCHVIDEO_SHORTCUT = tuple(f"blocks.{{stage}}.res_blocks.{{block}}.branch1_{n}" for n in ("conv", "norm"))

NAMINGS = (
    Naming(
        "pytorch-resnet3d",
        tuple(VARIANTS),  # also ours, whatever the implementation
        ("conv1", "bn1"),
        ("layer{stage}.{block}.conv{i}", "layer{stage}.{block}.bn{i}"),
        ("layer{stage}.{block}.downsample.0", "layer{stage}.{block}.downsample.1"),
        tuple(f"layer{{stage}}.{{block}}.nl.{part}" for part in _NON_LOCAL),
        "fc",
    ),
    Naming(
        "mmaction2",
        ("mmaction2-32x2", "mmaction2-heavy", "slow-8x8"),
        ("backbone.conv1.conv", "backbone.conv1.bn"),
        tuple(f"backbone.layer{{stage}}.{{block}}.conv{{i}}.{n}" for n in ("conv", "bn")),
        tuple(f"backbone.layer{{stage}}.{{block}}.downsample.{n}" for n in ("conv", "bn")),
        tuple(
            f"backbone.layer{{stage}}.{{block}}.non_local_block.{part}"
            for part in ("theta.conv", "phi.0.conv", "g.0.conv", "conv_out.conv", "conv_out.bn")
        ),
        "cls_head.fc_cls",
    ),
    Naming(
        "pytorchvideo",
        ("pytorchvideo-8x8", "c2d-8x8"),
        ("blocks.0.conv", "blocks.0.norm"),
        _PYTORCHVIDEO_UNIT,
        _PYTORCHVIDEO_SHORTCUT,
        (),
        "blocks.6.proj",
        number=lambda stage: stage if stage == 1 else stage + 1,  # the second is a pool
    ),
    Naming(
        "pytorchvideo-slow",
        ("slow-8x8",),
        ("blocks.0.conv", "blocks.0.norm"),
        _PYTORCHVIDEO_UNIT,
        _PYTORCHVIDEO_SHORTCUT,
        (),
        "blocks.5.proj",
    ),
    Naming(
        "pyslowfast",
        _FACEBOOK,
        ("s1.pathway0_stem.conv", "s1.pathway0_stem.bn"),
        ("s{stage}.pathway0_res{block}.branch2.{letter}", "s{stage}.pathway0_res{block}.branch2.{letter}_bn"),
        ("s{stage}.pathway0_res{block}.branch1", "s{stage}.pathway0_res{block}.branch1_bn"),
        tuple(
            f"s{{stage}}.pathway0_nonlocal{{block}}.{part}"
            for part in ("conv_theta", "conv_phi", "conv_g", "conv_out", "bn")
        ),
        "head.projection",
        number=lambda stage: stage + 1,
    ),
    Naming(
        "caffe2",
        (*_CAFFE2_VARIANTS, *_FACEBOOK),
        ("conv1", "res_conv1_bn"),
        ("res{stage}_{block}_branch2{letter}", "res{stage}_{block}_branch2{letter}_bn"),
        ("res{stage}_{block}_branch1", "res{stage}_{block}_branch1_bn"),
        tuple(f"nonlocal_conv{{stage}}_{{block}}_{part}" for part in _NON_LOCAL),
        "pred",
        conv={"weight": "_w", "bias": "_b"},
        norm=_CAFFE2_NORM,
        number=lambda stage: stage + 1,
        dropped=("_momentum", "lr", "model_iter"),
    ),
)


@dataclass(frozen=True)
class Found:
    """The weights of an I3D-ResNet in a file.

    Attributes:
        naming: whose names they have.
        tensors: by our names.
        unexpected: the names after the prefix that have none of ours.
    """

    naming: Naming
    tensors: dict[str, Tensor]
    unexpected: tuple[str, ...]

    @property
    def depth(self) -> int:
        """By the blocks of res4."""
        few, many = BLOCKS
        return many if f"layer3.{BLOCKS[few][2]}.conv1.weight" in self.tensors else few

    @property
    def non_local(self) -> tuple[str, ...]:
        """The modes that its non-local blocks may have; empty if there are none."""
        names = [name for name in self.tensors if ".nl." in name]
        if not names:
            return ()
        embeds = any(".nl.theta." in name for name in names)
        return ("embedded_gaussian", "dot_product") if embeds else ("gaussian",)


def recognize(groups: Mapping[str, Mapping[str, Tensor]]) -> Found:
    """Find the weights of an I3D-ResNet in a file's dicts of tensors, and give them our names.

    Raises:
        WeightsError: there are none.
    """
    best: tuple[int, str, str, Naming] | None = None
    for group, tensors in groups.items():
        for naming in NAMINGS:
            keys = naming.keys()
            for prefix in _prefixes(set(tensors), naming):
                known = sum(key.startswith(prefix) and key[len(prefix) :] in keys for key in tensors)
                if known >= _MIN_KEYS and (best is None or known > best[0]):
                    best = known, group, prefix, naming
    if best is None:
        raise WeightsError(_not_ours([key for tensors in groups.values() for key in tensors]))
    _, group, prefix, naming = best
    keys = naming.keys()
    found: dict[str, Tensor] = {}
    unexpected: list[str] = []
    for key in groups[group]:
        if not key.startswith(prefix) or key.endswith(naming.dropped):
            continue
        ours = keys.get(key[len(prefix) :])
        if ours is None:
            unexpected.append(key)
        else:
            found[ours] = groups[group][key]
    if found[STEM].ndim == 4:
        raise WeightsError("these are the weights of a 2-D ResNet: inflate them first, or give a 3-D one's")
    if "bn1.running_var" not in found:
        raise WeightsError(
            "its batch norms have no running statistics: networks fine-tuned with affine layers (such as "
            "128x1 and 32x4 of video-nonlocal-net) are not supported"
        )
    return Found(naming, found, tuple(unexpected))


def _prefixes(keys: set[str], naming: Naming) -> Iterator[str]:
    """What may stand in front of a naming's keys: wherever its stem and its classifier do."""
    stem = f"{naming.stem[0]}{naming.conv['weight']}"
    classifier = f"{naming.classifier}{naming.conv['weight']}"
    for key in keys:
        if key.endswith(stem):
            prefix = key[: -len(stem)]
            if (not prefix or prefix[-1] in "./") and f"{prefix}{classifier}" in keys:
                yield prefix


def _not_ours(keys: list[str]) -> str:
    shown = ", ".join(map(brief, keys[:3])) or "none"
    return (
        f"no I3D-ResNet weights with a classifier in it: {len(keys)} tensors "
        f"({shown}{', ...' if len(keys) > 3 else ''}); known are those of "
        + ", ".join(naming.name for naming in NAMINGS)
    )
