"""The names and layouts of other I3D implementations, and a web server with the habits of bad ones.

Written from the formats' description, independently of the package's own tables.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

Tensors = dict[str, Tensor]

_HASSONY2_BRANCHES = {
    "b0": "branch_0",
    "b1a": "branch_1.0",
    "b1b": "branch_1.1",
    "b2a": "branch_2.0",
    "b2b": "branch_2.1",
    "b3b": "branch_3.1",
}
_TENSORFLOW_BRANCHES = {
    "b0": "Branch_0/Conv3d_0a_1x1",
    "b1a": "Branch_1/Conv3d_0a_1x1",
    "b1b": "Branch_1/Conv3d_0b_3x3",
    "b2a": "Branch_2/Conv3d_0a_1x1",
    "b2b": "Branch_2/Conv3d_0b_3x3",
    "b3b": "Branch_3/Conv3d_0b_1x1",
}


def to_hassony2(tensors: Tensors) -> Tensors:
    def rename(key: str) -> str:
        key = key.replace("logits.", "conv3d_0c_1x1.").replace(".bn.", ".batch3d.")
        key = re.sub(r"\.(b\d[ab]?)\.", lambda match: f".{_HASSONY2_BRANCHES[match[1]]}.", key)
        return key[0].lower() + key[1:]

    return {rename(key): tensor for key, tensor in tensors.items()}


def _to_tensorflow(tensors: Tensors, leaves: dict[str, str]) -> Tensors:
    renamed = {}
    for key, tensor in tensors.items():
        match = re.fullmatch(r"(.*)\.((?:conv3d|bn)\..*)", key)
        assert match
        unit, leaf = match.groups()
        if leaf not in leaves:
            continue
        block, _, branch = unit.partition(".")
        name = f"{block}/{_TENSORFLOW_BRANCHES[branch]}" if branch else block
        name = name.replace("logits", "Logits/Conv3d_0c_1x1")
        if leaf == "conv3d.weight":
            tensor = tensor.permute(2, 3, 4, 1, 0).contiguous()
        elif leaf.startswith("bn.running"):
            tensor = tensor.reshape(1, 1, 1, 1, -1)
        renamed[leaves[leaf].format(name)] = tensor
    return renamed


def to_deepmind(tensors: Tensors, stream: str = "RGB") -> Tensors:
    """The released TensorFlow variables, the one with the wrong name included."""
    leaves = {
        "conv3d.weight": "{}/conv_3d/w",
        "conv3d.bias": "{}/conv_3d/b",
        "bn.bias": "{}/batch_norm/beta",
        "bn.running_mean": "{}/batch_norm/moving_mean",
        "bn.running_var": "{}/batch_norm/moving_variance",
    }
    renamed = _to_tensorflow(tensors, leaves).items()
    right, wrong = (f"Mixed_5b/Branch_2/Conv3d_0{letter}_3x3" for letter in "ba")
    return {f"{stream}/inception_i3d/{key.replace(right, wrong)}": tensor for key, tensor in renamed}


def to_jax(tensors: Tensors) -> dict[str, Any]:
    """Nested dicts of numpy arrays, a branch and its convolution under one key."""
    leaves = {
        "conv3d.weight": "params|{}|Conv_0|kernel",
        "conv3d.bias": "params|{}|Conv_0|bias",
        "bn.bias": "params|{}|BatchNorm_0|bias",
        "bn.running_mean": "batch_stats|{}|BatchNorm_0|mean",
        "bn.running_var": "batch_stats|{}|BatchNorm_0|var",
    }
    tree: dict[str, Any] = {}
    for key, tensor in _to_tensorflow(tensors, leaves).items():
        *path, last = re.sub(r"(Mixed_..)/", r"\1|", key).split("|")
        node = tree
        for step in path:
            node = node.setdefault(step, {})
        node[last] = tensor.numpy()
    return tree


@dataclass
class FileServer:
    """A web server of one file, with the habits of bad ones.

    Attributes:
        content: what it serves.
        honours_range: answers a Range request with the rest only.
        sends: bytes of the body after which it hangs up, though it announced all of them.
        status: an error to answer with instead.
        length: a Content-Length to announce instead of the right one; "" for none.
        ranges: the Range header of every request so far (None for a whole file).
    """

    content: bytes = b""
    honours_range: bool = True
    sends: int | None = None
    status: int | None = None
    length: str | None = None
    ranges: list[str | None] = field(default_factory=list)
    address: str = ""
