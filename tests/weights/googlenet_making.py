"""Inception-v1 of few channels on images, with the names of torchvision's GoogLeNet, and of TF-slim.

Written from the two networks' description, independently of the package's tables. Sizes must be divisible
by 32: there, padding as below is TensorFlow's SAME.
"""

from __future__ import annotations

import re
from functools import cache
from typing import Any, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from weights_making import Tensors

from fasti3d import reference

# What inflation leaves new.
CLASSIFIER = ("logits.conv3d.weight", "logits.conv3d.bias")

Network = TypeVar("Network", bound=reference.I3D)

# The endpoint in I3D of each block, by torchvision's name.
BLOCKS = {
    "inception3a": "Mixed_3b",
    "inception3b": "Mixed_3c",
    "inception4a": "Mixed_4b",
    "inception4b": "Mixed_4c",
    "inception4c": "Mixed_4d",
    "inception4d": "Mixed_4e",
    "inception4e": "Mixed_4f",
    "inception5a": "Mixed_5b",
    "inception5b": "Mixed_5c",
}
# Channels of the stem, of the six convolutions of a block, and of what a block gives: those of ``NARROW``.
_STEM = 24
_WIDTHS = (16, 24, 40, 8, 16, 24)
_MIXED = 96


class _Unit(nn.Module):
    def __init__(self, inputs: int, outputs: int, size: int, eps: float, **options: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, size, bias=False, **options)
        self.bn = nn.BatchNorm2d(outputs, eps=eps)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)))


class _Inception(nn.Module):
    def __init__(
        self, inputs: int, one: int, low3: int, three: int, low5: int, five: int, pool: int, eps: float
    ) -> None:
        super().__init__()
        self.branch1 = _Unit(inputs, one, 1, eps)
        self.branch2 = nn.Sequential(_Unit(inputs, low3, 1, eps), _Unit(low3, three, 3, eps, padding=1))
        self.branch3 = nn.Sequential(_Unit(inputs, low5, 1, eps), _Unit(low5, five, 3, eps, padding=1))
        self.branch4 = nn.Sequential(nn.MaxPool2d(3, 1, padding=1), _Unit(inputs, pool, 1, eps))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.branch1(x), self.branch2(x), self.branch3(x), self.branch4(x)], 1)


class GoogLeNet(nn.Module):
    """(N, 3, H, W) in [-1, 1] to the sixteen maps of the trunk, by I3D's names.

    Args:
        eps: of batch norm.
        stem_padding: before and after the image; torchvision's own is (3, 3), TensorFlow's (2, 3).
    """

    def __init__(self, eps: float = 1e-3, stem_padding: tuple[int, int] = (2, 3)) -> None:
        super().__init__()
        self.stem_padding = stem_padding
        self.conv1 = _Unit(3, _STEM, 7, eps, stride=2)
        self.conv2 = _Unit(_STEM, _STEM, 1, eps)
        self.conv3 = _Unit(_STEM, _STEM, 3, eps, padding=1)
        for name in BLOCKS:
            inputs = _STEM if name == "inception3a" else _MIXED
            self.add_module(name, _Inception(inputs, *_WIDTHS, eps))
        self.fc = nn.Linear(_MIXED, 10)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        maps = {}
        maps["Conv3d_1a_7x7"] = x = self.conv1(F.pad(x, self.stem_padding * 2))
        maps["MaxPool3d_2a_3x3"] = x = F.max_pool2d(x, 3, 2, ceil_mode=True)
        maps["Conv3d_2b_1x1"] = x = self.conv2(x)
        maps["Conv3d_2c_3x3"] = x = self.conv3(x)
        maps["MaxPool3d_3a_3x3"] = x = F.max_pool2d(x, 3, 2, ceil_mode=True)
        for name, endpoint in BLOCKS.items():
            if name == "inception4a":
                maps["MaxPool3d_4a_3x3"] = x = F.max_pool2d(x, 3, 2, ceil_mode=True)
            if name == "inception5a":
                maps["MaxPool3d_5a_2x2"] = x = F.max_pool2d(x, 2, 2)
            maps[endpoint] = x = self.get_submodule(name)(x)
        return maps


@cache
def googlenet_weights(seed: int = 0) -> Tensors:
    """A GoogLeNet of torchvision's, with its auxiliary classifiers, and batch norms far from the identity."""
    generator = torch.Generator().manual_seed(seed)
    with torch.device("meta"):
        shapes = GoogLeNet().state_dict()
        for aux, inputs in (("aux1", _MIXED), ("aux2", _MIXED)):
            shapes |= {
                f"{aux}.{k}": t for k, t in _Unit(inputs, 8, 1, 1e-3).state_dict(prefix="conv.").items()
            }
            shapes |= {f"{aux}.{k}": t for k, t in nn.Linear(128, 16).state_dict(prefix="fc1.").items()}

    def values(key: str, shape: torch.Size) -> Tensor:
        if key.endswith("num_batches_tracked"):
            return torch.tensor(7)
        low, high = {"running_var": (0.1, 1.1), "running_mean": (-0.2, 0.2)}.get(
            key.split(".")[-1], (-0.5, 0.5)
        )
        if key.endswith("bn.weight"):
            low, high = 0.5, 1.5
        if len(shape) == 4:
            high = (6 / shape[1:].numel()) ** 0.5
            low = -high
        return torch.empty(shape).uniform_(low, high, generator=generator)

    return {key: values(key, tensor.shape) for key, tensor in shapes.items()}


_SLIM_LEAVES = {
    "conv.weight": "weights",
    "bn.bias": "BatchNorm/beta",
    "bn.running_mean": "BatchNorm/moving_mean",
    "bn.running_var": "BatchNorm/moving_variance",
}
_SLIM_STEM = {"conv1": "Conv2d_1a_7x7", "conv2": "Conv2d_2b_1x1", "conv3": "Conv2d_2c_3x3"}
_SLIM_BRANCHES = {
    "branch1": "Branch_0/Conv2d_0a_1x1",
    "branch2.0": "Branch_1/Conv2d_0a_1x1",
    "branch2.1": "Branch_1/Conv2d_0b_3x3",
    "branch3.0": "Branch_2/Conv2d_0a_1x1",
    "branch3.1": "Branch_2/Conv2d_0b_3x3",
    "branch4.1": "Branch_3/Conv2d_0b_1x1",
}


def to_slim(tensors: Tensors, *, gamma: bool = False) -> dict[str, NDArray[np.generic]]:
    """TF-slim's variables, the one with the wrong name included; batch norm has its scale if ``gamma``."""
    leaves = _SLIM_LEAVES | ({"bn.weight": "BatchNorm/gamma"} if gamma else {})
    variables: dict[str, NDArray[np.generic]] = {
        "InceptionV1/Logits/Conv2d_0c_1x1/weights": np.zeros((1, 1, _MIXED, 1001), np.float32),
        "InceptionV1/Logits/Conv2d_0c_1x1/biases": np.zeros(1001, np.float32),
        "global_step": np.array(5, np.int64),
    }
    for key, tensor in tensors.items():
        match = re.fullmatch(r"(conv\d|inception\w\w)\.(?:(branch.*)\.)?(conv\.weight|bn\.\w+)", key)
        if match is None or match[3] not in leaves:
            continue
        name = _SLIM_STEM.get(match[1]) or f"{BLOCKS[match[1]]}/{_SLIM_BRANCHES[match[2]]}"
        name = name.replace("Mixed_5b/Branch_2/Conv2d_0b", "Mixed_5b/Branch_2/Conv2d_0a")
        array = (tensor.permute(2, 3, 1, 0) if tensor.ndim == 4 else tensor).contiguous().numpy()
        variables[f"InceptionV1/{name}/{leaves[match[3]]}"] = array
    return variables


def blank(num_classes: int = 7, in_channels: int = 3, kind: type[Network] = reference.I3D) -> Network:
    """A network of zeros, which takes less time than one at random."""
    with torch.device("meta"):
        model = kind(num_classes, in_channels)
    model.to_empty(device="cpu")
    for tensor in model.state_dict().values():
        tensor.zero_()
    return model


def swapped(tensors: Tensors, one: str, other: str) -> Tensors:
    """The same with two prefixes of names exchanged."""

    def rename(key: str) -> str:
        for start, end in ((one, other), (other, one)):
            if key.startswith(start):
                return end + key.removeprefix(start)
        return key

    return {rename(key): tensor for key, tensor in tensors.items()}


def without(tensors: dict[str, Any], *starts: str) -> dict[str, Any]:
    return {key: tensor for key, tensor in tensors.items() if not key.startswith(starts)}


def copy_of(model: nn.Module) -> Tensors:
    return {key: tensor.clone() for key, tensor in model.state_dict().items()}


def same(one: Tensors, other: Tensors) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)
