"""What cannot be inflated, or not into that network, is named and changes nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from googlenet_making import GoogLeNet, blank, copy_of, same, swapped, to_slim, without
from torch import Tensor, nn
from weights_making import Tensors, to_deepmind

from fasti3d import I3D, reference
from fasti3d.inflate import inflate
from fasti3d.weights import WeightsError


def caffe(tensors: Tensors) -> Tensors:
    """Caffe's own names: 5x5, biases, no batch norm."""
    return {
        f"{name}.{leaf}": torch.zeros(1)
        for name in ("conv1/7x7_s2", "conv2/3x3_reduce", "inception_3a/5x5", "inception_3a/pool_proj")
        for leaf in ("weight", "bias")
    }


def caffe_renamed(tensors: Tensors) -> Tensors:
    """The same under torchvision's names."""
    renamed = {}
    for key, tensor in tensors.items():
        if key.endswith("conv.weight"):
            grown = key.startswith("inception") and "branch3.1" in key
            renamed[key] = nn.functional.pad(tensor, (1, 1, 1, 1)) if grown else tensor
            renamed[key.replace("weight", "bias")] = torch.zeros(tensor.shape[0])
    return renamed


def changed(name: str, change: Callable[[Tensor], Tensor]) -> Callable[[Tensors], Tensors]:
    return lambda tensors: tensors | {name: change(tensors[name])}


REFUSED: dict[str, tuple[Callable[[Tensors], Any], list[str]]] = {
    "Caffe": (
        caffe,
        [
            "no 2-D Inception-v1 weights",
            "8 tensors (conv1/7x7_s2.weight, conv1/7x7_s2.bias, conv2/3x3_reduce.weight and 5 more)",
            "Caffe",
        ],
    ),
    "Caffe, renamed": (
        caffe_renamed,
        [
            "missing: conv1.bn.weight, conv2.bn.weight, conv3.bn.weight and 54 more",
            "unexpected: conv1.conv.bias, conv2.conv.bias, conv3.conv.bias and 54 more",
            "inception3a.branch3.1.conv.weight (16, 8, 5, 5) where (16, 8, 3, 3) is expected",
            " and 6 more",
            "5x5 convolutions and no batch norm",
        ],
    ),
    "Inception v3": (
        lambda _: {f"Mixed_5b.branch5x5_{i}.conv.weight": torch.zeros(4, 4, 5, 5) for i in range(1, 5)},
        ["no 2-D Inception-v1", "Mixed_5b.branch5x5_3.conv.weight and 1 more", "a later Inception than v1"],
    ),
    "TF-slim's Inception v3": (
        lambda t: {
            k.replace("InceptionV1", "InceptionV3"): v for k, v in to_slim(t).items() if "Mixed_" in k
        },
        [
            "missing: InceptionV3/Conv2d_1a_7x7/weights, InceptionV3/Conv2d_2b_1x1/weights,"
            " InceptionV3/Conv2d_2c_3x3/weights",
            "later Inception",
        ],
    ),
    "ResNet": (
        lambda _: {
            "conv1.weight": torch.zeros(64, 3, 7, 7),
            "layer1.0.conv1.weight": torch.zeros(64, 64, 3, 3),
        },
        ["2 tensors (conv1.weight, layer1.0.conv1.weight)", "a ResNet"],
    ),
    "I3D": (lambda _: blank().state_dict(), ["Conv3d_1a_7x7.conv3d.weight", "an I3D already"]),
    "DeepMind's I3D": (lambda _: to_deepmind(dict(blank().state_dict())), ["an I3D already"]),
    "nothing": (lambda _: {}, ["0 tensors"]),
    "two networks": (
        lambda t: {"model": t, "ema": dict(t)},
        ["more than one 2-D Inception-v1, at 'model.' and 'ema.'"],
    ),
    "one unit missing": (
        lambda t: without(t, "inception4b.branch3.1."),
        ["missing: inception4b.branch3.1.conv.weight"],
    ),
    "four units missing": (
        lambda t: without(t, "conv2.", "inception3a.branch1.", "inception4e.", "inception5b.branch4"),
        [
            "missing: conv2.conv.weight, inception3a.branch1.conv.weight,"
            " inception4e.branch1.conv.weight and 6 more"
        ],
    ),
    "one tensor missing": (
        lambda t: without(t, "inception5b.branch2.0.bn.running_var"),
        ["missing: inception5b.branch2.0.bn.running_var"],
    ),
    "no batch norm": (
        lambda t: {k: v for k, v in t.items() if ".bn." not in k},
        ["missing: conv1.bn.weight, conv2.bn.weight, conv3.bn.weight and 54 more"],
    ),
    "an extra branch": (
        lambda t: (
            t | {f"inception3a.branch5.{leaf}": torch.zeros(4) for leaf in ("conv.weight", "bn.weight")}
        ),
        ["unexpected: inception3a.branch5.conv.weight"],
    ),
    "an extra block": (
        lambda t: t | {f"inception6a.branch{i}.conv.weight": torch.zeros(4, 4, 1, 1) for i in range(1, 6)},
        [
            "unexpected: inception6a.branch1.conv.weight, inception6a.branch2.conv.weight,"
            " inception6a.branch3.conv.weight and 2 more"
        ],
    ),
    "an extra unit of another name": (
        lambda t: t | {"stem.conv.weight": torch.zeros(3, 3, 1, 1), "stem.bn.bias": torch.zeros(3)},
        ["unexpected: stem.conv.weight"],
    ),
    "attention inside": (
        lambda t: t | {"inception4a.branch1.fc.weight": torch.zeros(4, 4)},
        ["unexpected: inception4a.branch1.fc.weight"],
    ),
    "a bias": (lambda t: t | {"conv3.conv.bias": torch.zeros(24)}, ["unexpected: conv3.conv.bias"]),
    "TF-slim's with a bias": (
        lambda t: (
            to_slim(t) | {"InceptionV1/Mixed_3b/Branch_0/Conv2d_0a_1x1/biases": np.zeros(16, np.float32)}
        ),
        ["unexpected: InceptionV1/Mixed_3b/Branch_0/Conv2d_0a_1x1/biases"],
    ),
    "one convolution under two names": (
        lambda t: (
            to_slim(t) | {"InceptionV1/Mixed_5b/Branch_2/Conv2d_0b_3x3/weights": np.zeros((3, 3, 8, 16))}
        ),
        ["unexpected: InceptionV1/Mixed_5b/Branch_2/Conv2d_0b_3x3/weights"],
    ),
    "branches of other shapes swapped": (
        lambda t: swapped(t, "inception3a.branch2.", "inception3a.branch3."),
        ["of another shape: inception3a.branch2.0.conv.weight (8, 24, 1, 1) where (24, 24, 1, 1)"],
    ),
    "grey images": (
        changed("conv1.conv.weight", lambda w: w.mean(1, keepdim=True)),
        ["conv1.conv.weight (24, 1, 7, 7) where (24, 3, 7, 7) is expected"],
    ),
    "a 3-D filter": (
        changed("conv3.conv.weight", lambda w: w[:, :, None]),
        ["conv3.conv.weight (24, 24, 1, 3, 3) where (24, 24, 3, 3) is expected"],
    ),
    "whole numbers": (
        changed("inception5b.branch4.1.conv.weight", lambda w: w.to(torch.int8)),
        ["inception5b.branch4.1.conv.weight is torch.int8"],
    ),
    "one scale of all missing": (
        lambda t: without(
            to_slim(t, gamma=True), "InceptionV1/Mixed_4c/Branch_0/Conv2d_0a_1x1/BatchNorm/gamma"
        ),
        ["missing: InceptionV1/Mixed_4c/Branch_0/Conv2d_0a_1x1/BatchNorm/gamma"],
    ),
    "no plain tensor": (
        lambda t: to_slim(t) | {"InceptionV1/Conv2d_1a_7x7/BatchNorm/beta": torch.ones(24).to_sparse()},
        ["InceptionV1/Conv2d_1a_7x7/BatchNorm/beta is torch.float32 (torch.sparse_coo); plain"],
    ),
    "no memory": (
        changed("conv3.conv.weight", lambda w: w.to("meta")),
        ["the state dict: conv3.conv.weight is on the meta device"],
    ),
    "names for a terminal": (
        lambda t: t | {"conv9.conv.\n\x1b[31m": torch.zeros(1), f"conv8.conv.{'x' * 5000}": torch.zeros(1)},
        ["unexpected: 'conv9.conv.\\n\\x1b[31m', conv8.conv.xxx", "xxx... (5,011 characters)"],
    ),
    "no number": (
        changed("inception5b.branch4.1.bn.running_mean", lambda w: w * float("nan")),
        ["inception5b.branch4.1.bn.running_mean has infinite or NaN values"],
    ),
}


@pytest.fixture(scope="module")
def untouched() -> tuple[reference.I3D, Tensors]:
    model = blank()
    return model, copy_of(model)


@pytest.mark.parametrize("kind", REFUSED)
def test_what_does_not_fit_is_named_and_changes_nothing(
    kind: str, weights_2d: Tensors, untouched: tuple[reference.I3D, Tensors]
) -> None:
    make, said = REFUSED[kind]
    model, before = untouched
    with pytest.raises(WeightsError) as error:
        inflate(make(weights_2d), model)
    assert [text for text in said if text not in str(error.value)] == [], str(error.value)
    assert same(dict(model.state_dict()), before)


def _other_eps() -> nn.Module:
    model = blank()
    model.Mixed_5c.b3b.bn.eps = 1e-5
    return model


def _other_part(path: str, part: nn.Module) -> nn.Module:
    model = blank()
    model.set_submodule(path, part)
    return model


@pytest.mark.parametrize(
    ("make", "error", "said"),
    [
        (_other_eps, WeightsError, "has 1e-05 at Mixed_5c.b3b.bn: set it to 0.001 first"),
        (lambda: nn.Linear(2, 2), WeightsError, "the network, Linear, is not an I3D: no I3D weights in it"),
        (
            lambda: nn.ModuleDict({"rgb": I3D(7), "flow": I3D(7, 2)}),
            WeightsError,
            "is not an I3D: it holds more than one I3D, at 'rgb.' and 'flow.'",
        ),
        (
            lambda: _other_part("Mixed_5c.b0", nn.Identity()),
            WeightsError,
            "not in the network: Mixed_5c.b0.conv3d.weight",
        ),
        (
            lambda: _other_part("Mixed_4d.b1b.conv3d", nn.Conv3d(24, 40, (3, 5, 5), bias=False)),
            WeightsError,
            r"inception4c.branch2.1.conv.weight \(40, 24, 3, 3\) where \(40, 24, 5, 5\) is expected",
        ),
        (
            lambda: _other_part("Mixed_4d.b1b.bn", nn.BatchNorm3d(40, 1e-3, affine=False)),
            WeightsError,
            "not in the network: Mixed_4d.b1b.bn.weight",
        ),
        (lambda: I3D(7).to("meta"), ValueError, "model is on the meta device"),
    ],
    ids=["eps", "linear", "two", "identity", "5x5", "no scale", "meta"],
)
def test_networks_that_do_not_fit_are_left_alone(
    make: Callable[[], nn.Module], error: type[Exception], said: str, weights_2d: Tensors
) -> None:
    model = make()
    before = {} if any(p.is_meta for p in model.parameters()) else copy_of(model)
    with pytest.raises(error, match=said):
        inflate(weights_2d, model)
    assert before == {} or same(dict(model.state_dict()), before)


def test_a_copy_that_breaks_off_is_undone(
    weights_2d: Tensors, untouched: tuple[reference.I3D, Tensors]
) -> None:
    model, before = untouched

    def interrupt(*_: object) -> None:
        assert not same(dict(model.state_dict()), before)
        raise KeyboardInterrupt

    hook = model.Mixed_5c.b3b.register_load_state_dict_post_hook(interrupt)
    with pytest.raises(KeyboardInterrupt):
        inflate(weights_2d, model)
    hook.remove()
    assert same(dict(model.state_dict()), before)


def test_a_module_is_not_its_weights() -> None:
    said = "state_dict_2d must be a path, a file open for binary .*, got GoogLeNet: give its state_dict"
    with pytest.raises(TypeError, match=said):
        inflate(GoogLeNet(), blank())  # type: ignore[arg-type]


def test_an_unknown_mode_is_named(weights_2d: Tensors) -> None:
    with pytest.raises(ValueError, match="mode must be one of average, centre, got 'mean'"):
        inflate(weights_2d, blank(), "mean")
