"""The shapes of I3D-ResNets against what the implementations' own networks count."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

import fasti3d
from fasti3d.engine.cost import flop
from fasti3d.engine.graph import Attention, shapes
from fasti3d.resnet import reference
from fasti3d.resnet.variants import VARIANTS, check_network

CLIPS = ((8, 224), (16, 224), (32, 224), (32, 256))


# Parameters in millions, and multiply-adds in 10^9 of CLIPS, counted on the implementations' own networks: of
# a dot product too with all scores.
@pytest.mark.parametrize(
    ("variant", "depth", "non_local", "parameters", "gmacs"),
    [
        ("mmaction2-32x2", 50, None, 28.043, (8.28, 16.56, 33.13, 43.27)),
        ("mmaction2-32x2", 50, "dot_product", 35.398, (10.52, 21.42, 44.34, 59.11)),
        ("mmaction2-32x2", 50, "embedded_gaussian", 35.398, (10.52, 21.42, 44.34, 59.11)),
        ("mmaction2-32x2", 50, "gaussian", 31.724, (9.59, 19.74, 41.72, 56.29)),
        ("mmaction2-heavy", 50, None, 33.024, (31.70, 63.39, 126.78, 165.59)),
        ("caffe2-32x2", 50, None, 28.043, (8.21, 16.42, 32.83, 42.93)),
        ("caffe2-32x2", 50, "embedded_gaussian", 35.402, (9.68, 19.73, 40.96, 54.74)),
        ("pytorchvideo-8x8", 50, None, 28.043, (28.41, 56.82, 113.64, 148.45)),
        ("pytorchvideo-8x8", 50, "embedded_gaussian", 35.402, (36.54, 79.05, 182.03, 256.90)),
        ("pytorchvideo-8x8", 101, None, 51.754, (46.96, 93.91, 187.83, 245.36)),
        ("pytorchvideo-8x8", 101, "embedded_gaussian", 59.113, (55.08, 116.15, 256.22, 353.81)),
        ("c2d-8x8", 50, None, 24.328, (19.49, 38.99, 77.98, 101.88)),
        ("slow-8x8", 50, None, 32.454, (41.74, 83.49, 166.98, 218.15)),
        ("slow-8x8", 101, None, 60.359, (85.41, 170.83, 341.65, 446.24)),
    ],
)
def test_parameters_and_products(variant, depth, non_local, parameters, gmacs):
    with torch.device("meta"):
        model = fasti3d.I3DResNet(variant, depth, non_local).eval()
    if (variant, depth) == ("slow-8x8", 101):  # which only mmaction2 has, with its own head
        model.avgpool = nn.AdaptiveAvgPool3d(1)
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(parameters, abs=5e-4)
    graph = model.graph()
    for (frames, size), gmac in zip(CLIPS, gmacs, strict=True):
        of = shapes(graph, (1, 3, frames, size, size))
        assert sum(products(node, of) for node in graph.nodes) / 1e9 == pytest.approx(gmac, abs=6e-3)


def products(node, of):
    if isinstance(node, Attention) and node.scale is None:
        node = replace(node, scale=1.0)  # all scores, as the implementation has it
    return flop(node, of) / 2


def test_features_are_2048_wide():
    with torch.device("meta"):
        model = reference.I3DResNet("caffe2-32x2").eval()
        assert model.extract_features(torch.empty(1, 3, 32, 224, 224)).shape == (1, 2048, 1)


@pytest.mark.parametrize(
    ("variant", "frames", "sizes"),
    [
        ("caffe2-32x2", 32, {"conv1": (16, 112), "pool1": (8, 55), "res2": (8, 55), "res5": (4, 7)}),
        ("caffe2-8x8", 8, {"conv1": (8, 112), "pool1": (8, 55), "pool2": (4, 55), "res5": (4, 7)}),
        ("pytorchvideo-8x8", 8, {"pool1": (8, 56), "pool2": (4, 56), "res3": (4, 28), "res5": (4, 7)}),
        ("mmaction2-32x2", 32, {"conv1": (16, 112), "pool1": (8, 56), "res2": (8, 56), "res5": (4, 7)}),
        ("mmaction2-heavy", 8, {"conv1": (8, 112), "pool1": (8, 56), "pool2": (4, 56), "res5": (4, 7)}),
        ("slow-8x8", 8, {"pool1": (8, 56), "res2": (8, 56), "res4": (8, 14), "res5": (8, 7)}),
        ("c2d-8x8", 8, {"pool1": (8, 56), "pool2": (4, 56), "res5": (4, 7)}),
    ],
)
def test_sizes_of_maps(variant, frames, sizes):
    with torch.device("meta"):
        model = reference.I3DResNet(variant).eval()
        maps = model.forward_endpoints(torch.empty(1, 3, frames, 224, 224), sizes)
    assert {name: (y.shape[2], y.shape[3]) for name, y in maps.items()} == sizes


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("r50", 50, None), "variant must be one of 'caffe2-32x2'"),
        (("caffe2-32x2", 34, None), "depth must be one of 50, 101, got 34"),
        (("caffe2-32x2", 50, "softmax"), "non_local must be None or one of"),
        (
            ("slow-8x8", 50, "gaussian"),
            "slow-8x8 has no gaussian non-local blocks: those that have are mm",
        ),
        (("caffe2-32x2", 50, "dot_product"), "caffe2-32x2 has no dot_product non-local blocks"),
        (("mmaction2-32x2", 101, "gaussian"), "mmaction2-32x2 has no non-local network of depth 101"),
    ],
)
def test_wrong_arguments_name_the_remedy(arguments, words):
    with pytest.raises(ValueError, match=words):
        check_network(*arguments)


def test_a_variant_has_to_be_chosen():
    with pytest.raises(TypeError, match="variant"):
        fasti3d.I3DResNet()


def test_places_of_non_local_blocks():
    def places(variant, depth):
        with torch.device("meta"):
            model = reference.I3DResNet(variant, depth, "embedded_gaussian")
        return [name for name, part in model.named_modules() if name.endswith(".nl")]

    of_50 = ["layer2.1.nl", "layer2.3.nl", "layer3.1.nl", "layer3.3.nl", "layer3.5.nl"]
    for variant in ("caffe2-32x2", "pytorchvideo-8x8", "mmaction2-32x2"):
        assert places(variant, 50) == of_50
    assert places("caffe2-32x2", 101)[2:] == ["layer3.6.nl", "layer3.13.nl", "layer3.20.nl"]
    assert places("pytorchvideo-8x8", 101)[2:] == ["layer3.1.nl", "layer3.3.nl", "layer3.5.nl"]


def test_preprocessing_is_of_the_same_clip_in_units_of_255():
    grey, imagenet = (VARIANTS[v].preprocessing for v in ("pytorchvideo-8x8", "mmaction2-32x2"))
    assert grey.mean == pytest.approx((0.45 * 255,) * 3)
    assert grey.std == pytest.approx((0.225 * 255,) * 3)
    assert imagenet.mean == pytest.approx(tuple(255 * v for v in (0.485, 0.456, 0.406)))
    assert imagenet.std == pytest.approx(tuple(255 * v for v in (0.229, 0.224, 0.225)))
