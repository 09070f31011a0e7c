"""Inflated weights give on a still clip what the 2-D ones give on its image; what does not fit is refused."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest
import safetensors.torch
import torch
from googlenet_making import GoogLeNet, googlenet_weights, to_slim
from i3d_making import SMALL, assert_maps_close, make_warm_i3d, ordinary, random_clip
from torch import Tensor, nn
from typer.testing import CliRunner
from weights_making import Tensors, to_deepmind, to_hassony2

from fasti3d import I3D, compat, network, reference
from fasti3d.cli import app
from fasti3d.inflate import inflate, inflate_conv2d, inflate_file
from fasti3d.weights import WeightsError, load
from fasti3d.weights.files import sha256

Network = TypeVar("Network", bound=reference.I3D)

CLASSIFIER = ("logits.conv3d.weight", "logits.conv3d.bias")
IMAGE = random_clip(1, 3, 64, 64)
# A convolution of the same shape as another's, on the same input.
TWINS = ("inception3b.branch1.", "inception3b.branch2.0.")


@pytest.fixture(scope="module")
def weights_2d() -> Tensors:
    return googlenet_weights()


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


# ---------------------------------------------------------------- one convolution


@pytest.mark.parametrize("time", [1, 2, 3, 7])
def test_the_window_s_filters_add_up_to_the_2d_one(time: int) -> None:
    weight = random_clip(4, 3, 5, 5).to(memory_format=torch.channels_last)
    average, centre = inflate_conv2d(weight, time), inflate_conv2d(weight, time, mode="centre")
    assert average.shape == centre.shape == (4, 3, time, 5, 5)
    assert average.is_contiguous()
    assert centre.is_contiguous()
    assert all(torch.equal(average[:, :, t], weight / time) for t in range(time))
    middle = (time - 1) // 2
    assert torch.equal(centre[:, :, middle], weight)
    assert centre.count_nonzero() == weight.count_nonzero()
    assert inflate_conv2d(weight.half(), time).dtype == torch.float16


@pytest.mark.parametrize(
    ("shape", "dtype", "time", "mode", "said"),
    [
        ((4, 3, 5, 5), torch.float32, 3, "center", "mode must be one of average, centre, got 'center'"),
        ((4, 3, 5, 5), torch.float32, 0, "average", "time must be at least 1, got 0"),
        ((4, 3, 5), torch.float32, 3, "average", r"got torch.float32 of shape \(4, 3, 5\)"),
        ((4, 3, 5, 5), torch.int64, 3, "centre", "in floating point, got torch.int64"),
    ],
)
def test_bad_arguments_are_named(
    shape: tuple[int, ...], dtype: torch.dtype, time: int, mode: str, said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        inflate_conv2d(torch.zeros(shape, dtype=dtype), time, mode)


# ---------------------------------------------------------------- the whole network on a still clip


def exact_steps(frames: int) -> dict[str, range]:
    """The steps of each endpoint that are computed, layer by layer, from windows inside the clip alone."""
    first, last, length = 0, frames - 1, frames
    steps = {}
    for name, part in network.TRUNK.items():
        kernel, stride = (3, 1) if isinstance(part, network.Mixed) else (part.kernel[0], part.stride[0])
        before, _ = network.same_padding(length, kernel, stride)
        length = network.same_output(length, stride)
        starts = {t: t * stride - before for t in range(length)}
        inside = [t for t, start in starts.items() if first <= start and start + kernel - 1 <= last]
        first, last = (inside[0], inside[-1]) if inside else (0, -1)
        steps[name] = range(first, last + 1)
    return steps


@cache
def still_maps(mode: str, frames: int) -> dict[str, Tensor]:
    """Every endpoint of the inflated network on a clip of one image."""
    model = blank(kind=I3D).eval()
    inflate(googlenet_weights(), model, mode)
    with torch.no_grad():
        return model.forward_endpoints(IMAGE[:, :, None].expand(-1, -1, frames, -1, -1), network.TRUNK)


def maps_2d(weights: Tensors, **options: Any) -> dict[str, Tensor]:
    network_2d = GoogLeNet(**options)
    network_2d.load_state_dict(without(weights, "aux"))
    with torch.no_grad():
        return network_2d.eval()(IMAGE)


def assert_still(maps: dict[str, Tensor], expected: dict[str, Tensor], steps: dict[str, range]) -> None:
    """Every endpoint equals the 2-D network's at these steps, of which there must be some."""
    assert list(maps) == list(expected) == list(network.TRUNK)
    for name, found in maps.items():
        assert len(steps[name]) > 0, f"no step of {name} is exact"
        wanted = expected[name]
        error = (found[:, :, steps[name]] - wanted[:, :, None]).abs().max() / wanted.abs().max()
        assert error <= 1e-5, f"{name}: {error:.1e}"


def steps_of(mode: str, frames: int) -> dict[str, range]:
    """The average is exact away from the clip's ends, the centre everywhere."""
    if mode == "average":
        return exact_steps(frames)
    return {name: range(found.shape[2]) for name, found in still_maps(mode, frames).items()}


def test_the_window_walk() -> None:
    """Numbers of a walk by hand; the shortest clip with an exact step of Mixed_5c has 101 frames."""
    steps = exact_steps(128)
    assert steps["Conv3d_1a_7x7"] == range(1, 62)
    assert steps["Mixed_3c"] == range(4, 59)
    assert steps["Mixed_4f"] == range(7, 24)
    assert steps["Mixed_5c"] == range(6, 10)
    assert exact_steps(101)["Mixed_5c"] == range(6, 7)
    assert not any(exact_steps(frames)["Mixed_5c"] for frames in range(9, 101))


STILL = pytest.mark.parametrize(("mode", "frames"), [("average", 104), ("centre", 16), ("centre", 17)])


@STILL
def test_a_still_clip_gives_the_2d_maps(mode: str, frames: int, weights_2d: Tensors) -> None:
    assert_still(still_maps(mode, frames), maps_2d(weights_2d), steps_of(mode, frames))


@STILL
@pytest.mark.parametrize(
    ("mistake", "first"),
    [("branches", "Mixed_3c"), ("eps", "Conv3d_1a_7x7"), ("padding", "Conv3d_1a_7x7")],
)
def test_the_comparison_sees_mistakes(
    mistake: str, first: str, mode: str, frames: int, weights_2d: Tensors
) -> None:
    expected = {
        "branches": lambda: maps_2d(swapped(weights_2d, *TWINS)),
        "eps": lambda: maps_2d(weights_2d, eps=1e-5),
        "padding": lambda: maps_2d(weights_2d, stem_padding=(3, 3)),
    }[mistake]()
    with pytest.raises(AssertionError, match=f"^{first}: "):
        assert_still(still_maps(mode, frames), expected, steps_of(mode, frames))


def test_a_clip_without_an_exact_step_proves_nothing(weights_2d: Tensors) -> None:
    with pytest.raises(AssertionError, match="no step of MaxPool3d_5a_2x2 is exact"):
        assert_still(still_maps("average", 104), maps_2d(weights_2d), exact_steps(64))


# ---------------------------------------------------------------- names, reports, networks


def test_the_report_names_every_tensor_once(weights_2d: Tensors) -> None:
    model = blank()
    before = copy_of(model)
    report = inflate(weights_2d, model)
    after = model.state_dict()
    assert report.format == "torchvision-googlenet"
    assert report.new == CLASSIFIER
    assert sorted(report.filled + report.new) == sorted(after)
    assert all(torch.equal(before[name], after[name]) for name in report.new)
    # Of a network at random every filled tensor differs.
    assert not any(torch.equal(before[name], after[name]) for name in report.filled)
    assert report.unused == tuple(key for key in weights_2d if key.startswith(("fc.", "aux1.", "aux2.")))


def test_both_public_forms_give_the_same_network(weights_2d: Tensors) -> None:
    from_torch, from_slim, without_scale = blank(), blank(), blank()
    inflate(weights_2d, from_torch)
    expected = copy_of(from_torch)
    for key, tensor in from_slim.state_dict().items():
        if key.endswith("num_batches_tracked"):
            expected[key] = torch.tensor(0)
        elif key in CLASSIFIER:
            expected[key] = tensor
    report = inflate(to_slim(weights_2d, gamma=True), from_slim)
    assert same(copy_of(from_slim), expected)
    assert report.format == "tf-slim-inception-v1"
    assert report.new == CLASSIFIER
    assert report.unused == (
        "InceptionV1/Logits/Conv2d_0c_1x1/weights",
        "InceptionV1/Logits/Conv2d_0c_1x1/biases",
        "global_step",
    )
    report = inflate(to_slim(weights_2d), without_scale)
    expected |= {k: torch.ones_like(t) for k, t in expected.items() if k.endswith("bn.weight")}
    assert same(without(copy_of(without_scale), "logits"), without(expected, "logits"))
    assert "Mixed_5c.b3b.bn.weight" in report.filled


@pytest.mark.parametrize("in_channels", [1, 2, 4])
def test_other_channels_get_the_mean_over_the_colours(in_channels: int, weights_2d: Tensors) -> None:
    model = blank(7, in_channels)
    inflate(weights_2d, model, "centre")
    stem = model.Conv3d_1a_7x7.conv3d.weight
    assert stem.shape == (64, in_channels, 7, 7, 7)
    for channel in range(in_channels):
        torch.testing.assert_close(stem[:, channel, 3], weights_2d["conv1.conv.weight"].mean(1))


def _npz(tensors: Tensors, folder: Path) -> Any:
    np.savez(folder / "slim.npz", **to_slim(tensors))
    return np.load(folder / "slim.npz")


# The same weights as users have them at hand, and one name of what is not used.
HANDS: dict[str, tuple[Callable[[Tensors, Path], Any], str]] = {
    "wrapped": (
        lambda t, _: {
            "epoch": 3,
            "state_dict": {f"module.{k}": v for k, v in t.items()},
            "optimizer": {"state": {0: {"exp_avg": torch.zeros(3)}}, "lr": [0.1]},
        },
        "optimizer.state.0.exp_avg",
    ),
    "part of a model": (
        lambda t, _: (
            {f"backbone.{k}": v for k, v in t.items()} | {"extra.conv.weight": torch.zeros(2, 2, 3, 3)}
        ),
        "extra.conv.weight",
    ),
    "another classifier": (
        lambda t, _: without(t, "fc", "aux") | {"classifier.1.weight": torch.zeros(5, 1024)},
        "classifier.1.weight",
    ),
    "double, without counters": (
        lambda t, _: {k: v.double() for k, v in t.items() if "num_batches" not in k},
        "fc.weight",
    ),
    "npz": (_npz, "global_step"),
    "numbered, with an optimizer's slots and averages": (
        lambda t, _: (
            {f"{k}:0": v for k, v in to_slim(t).items()}
            | {f"{k}/RMSProp_1:0": v for k, v in to_slim(t).items() if "Conv2d" in k}
            | {f"{k}/ExponentialMovingAverage:0": v for k, v in to_slim(t).items() if "Conv2d" in k}
        ),
        "InceptionV1/Conv2d_1a_7x7/BatchNorm/beta/ExponentialMovingAverage:0",
    ),
    "right name for Mixed_5b's misnamed convolution": (
        lambda t, _: {
            k.replace("Branch_2/Conv2d_0a_3x3", "Branch_2/Conv2d_0b_3x3"): v for k, v in to_slim(t).items()
        },
        "global_step",
    ),
    "big-endian": (
        lambda t, _: {k: v.astype(v.dtype.newbyteorder(">")) for k, v in to_slim(t).items()},
        "global_step",
    ),
}


@pytest.mark.parametrize("hand", HANDS)
def test_weights_as_they_come(hand: str, weights_2d: Tensors, tmp_path: Path) -> None:
    make, unused = HANDS[hand]
    model = blank()
    report = inflate(make(weights_2d, tmp_path), model)
    assert unused in report.unused
    assert report.new == CLASSIFIER
    found = model.Mixed_5b.b2b.conv3d.weight
    assert torch.equal(found, inflate_conv2d(weights_2d["inception5a.branch3.1.conv.weight"], 3))


@pytest.mark.parametrize(
    ("make", "prefix"),
    [
        (lambda: compat.hassony2.I3D(7), ""),
        (lambda: compat.pytorch_i3d.InceptionI3d(7, in_channels=3), ""),
        (lambda: nn.ModuleDict({"module": I3D(7)}), "module."),
    ],
    ids=["hassony2", "pytorch-i3d", "wrapped"],
)
def test_other_interfaces_are_filled_under_their_names(
    make: Callable[[], nn.Module], prefix: str, weights_2d: Tensors
) -> None:
    model, expected = make(), blank()
    report = inflate(weights_2d, model)
    inflate(weights_2d, expected)
    state_dict = model.state_dict()
    assert sorted(report.filled + report.new) == sorted(state_dict)
    wanted = copy_of(expected)
    if isinstance(model, compat.hassony2.I3D):
        wanted = to_hassony2(wanted)
    wanted = {prefix + key: tensor for key, tensor in wanted.items()}
    assert len(report.new) == 2
    assert all(torch.equal(state_dict[name], wanted[name]) for name in report.filled)


def test_a_network_that_ends_early_takes_what_it_has(weights_2d: Tensors) -> None:
    model = compat.pytorch_i3d.InceptionI3d(final_endpoint="Mixed_3b")
    report = inflate(weights_2d, model)
    assert report.new == ()
    assert set(report.filled) == set(model.state_dict())
    assert "inception3b.branch1.conv.weight" in report.unused


def test_a_network_that_has_run_runs_with_the_new_weights(weights_2d: Tensors) -> None:
    model, clip = make_warm_i3d(), random_clip(*SMALL)
    with torch.no_grad():
        before = model.forward_endpoints(clip, ["Mixed_3b"])["Mixed_3b"]
        inflate(weights_2d, model)
        after = model.forward_endpoints(clip, ["Mixed_3b"])
    assert not torch.allclose(before, after["Mixed_3b"])
    assert_maps_close(after, ordinary(model, clip, "Mixed_3b"))


def test_half_precision_keeps_its_batch_norm_in_float32(weights_2d: Tensors) -> None:
    model = blank(kind=I3D).half()
    inflate(weights_2d, model)
    assert model.Conv3d_2b_1x1.conv3d.weight.dtype == torch.float16
    assert torch.equal(model.Conv3d_2b_1x1.bn.running_var, weights_2d["conv2.bn.running_var"])


# ---------------------------------------------------------------- what does not fit


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
            "inception3a.branch3.1.conv.weight (32, 16, 5, 5) where (32, 16, 3, 3) is expected",
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
        ["missing: Conv2d_1a_7x7/weights, Conv2d_2b_1x1/weights, Conv2d_2c_3x3/weights", "later Inception"],
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
        lambda t: {"model": t, "ema": t},
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
    "a bias": (lambda t: t | {"conv3.conv.bias": torch.zeros(192)}, ["unexpected: conv3.conv.bias"]),
    "TF-slim's with a bias": (
        lambda t: (
            to_slim(t) | {"InceptionV1/Mixed_3b/Branch_0/Conv2d_0a_1x1/biases": np.zeros(64, np.float32)}
        ),
        ["unexpected: InceptionV1/Mixed_3b/Branch_0/Conv2d_0a_1x1/biases"],
    ),
    "one convolution under two names": (
        lambda t: (
            to_slim(t) | {"InceptionV1/Mixed_5b/Branch_2/Conv2d_0b_3x3/weights": np.zeros((3, 3, 32, 128))}
        ),
        ["unexpected: InceptionV1/Mixed_5b/Branch_2/Conv2d_0b_3x3/weights"],
    ),
    "branches of other shapes swapped": (
        lambda t: swapped(t, "inception3a.branch2.", "inception3a.branch3."),
        ["of another shape: inception3a.branch2.0.conv.weight (16, 192, 1, 1) where (96, 192, 1, 1)"],
    ),
    "grey images": (
        changed("conv1.conv.weight", lambda w: w.mean(1, keepdim=True)),
        ["conv1.conv.weight (64, 1, 7, 7) where (64, 3, 7, 7) is expected"],
    ),
    "a 3-D filter": (
        changed("conv3.conv.weight", lambda w: w[:, :, None]),
        ["conv3.conv.weight (192, 64, 1, 3, 3) where (192, 64, 3, 3) is expected"],
    ),
    "whole numbers": (
        changed("inception5b.branch4.1.conv.weight", lambda w: w.to(torch.int8)),
        ["inception5b.branch4.1.conv.weight is torch.int8"],
    ),
    "one scale of all missing": (
        lambda t: without(
            to_slim(t, gamma=True), "InceptionV1/Mixed_4c/Branch_0/Conv2d_0a_1x1/BatchNorm/gamma"
        ),
        ["missing: Mixed_4c/Branch_0/Conv2d_0a_1x1/BatchNorm/gamma"],
    ),
    "no plain tensor": (
        lambda t: to_slim(t) | {"InceptionV1/Conv2d_1a_7x7/BatchNorm/beta": torch.ones(64).to_sparse()},
        ["InceptionV1/Conv2d_1a_7x7/BatchNorm/beta is torch.float32 (torch.sparse_coo); plain"],
    ),
    "no number": (
        changed("inception5b.branch4.1.bn.running_mean", lambda w: w * float("nan")),
        ["inception5b.branch4.1.bn.running_mean has values that are infinite"],
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
            lambda: _other_part("Mixed_4d.b1b.conv3d", nn.Conv3d(128, 256, (3, 5, 5), bias=False)),
            WeightsError,
            r"inception4c.branch2.1.conv.weight \(256, 128, 3, 3\) where \(256, 128, 5, 5\) is expected",
        ),
        (
            lambda: _other_part("Mixed_4d.b1b.bn", nn.BatchNorm3d(256, 1e-3, affine=False)),
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
    with pytest.raises(TypeError, match="must be a mapping of names to tensors, got GoogLeNet"):
        inflate(GoogLeNet(), blank())  # type: ignore[arg-type]


# ---------------------------------------------------------------- files


def test_an_unknown_mode_is_named(weights_2d: Tensors) -> None:
    with pytest.raises(ValueError, match="mode must be one of average, centre, got 'mean'"):
        inflate(weights_2d, blank(), "mean")


@pytest.fixture(scope="module")
def files(weights_2d: Tensors, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("files")
    torch.save(weights_2d, folder / "googlenet.pth")
    safetensors.torch.save_file(weights_2d, folder / "googlenet.safetensors")
    np.savez(folder / "slim.npz", **to_slim(weights_2d, gamma=True))
    return {path.suffix[1:]: path for path in folder.iterdir()}


def test_a_file_becomes_one_that_i3d_loads(
    files: dict[str, Path], weights_2d: Tensors, tmp_path: Path
) -> None:
    out = tmp_path / "out.safetensors"
    seed = torch.random.get_rng_state()
    report = inflate_file(files["pth"], out)
    assert torch.equal(torch.random.get_rng_state(), seed)
    assert report.new == CLASSIFIER
    model, expected = I3D(weights=out), blank(400)
    inflate(weights_2d, expected)
    assert same(without(dict(model.state_dict()), "logits"), without(dict(expected.state_dict()), "logits"))
    classifier = model.logits.conv3d
    assert 0.005 < classifier.weight.std() < 0.015
    assert classifier.bias.count_nonzero() == 0
    assert model.labels is None
    checkpoint = load(out)
    assert checkpoint.format == "torchvision-googlenet"
    assert checkpoint.source == f"{files['pth']}, inflated (average)"
    assert checkpoint.sha256 == sha256(files["pth"])
    first = out.read_bytes()
    inflate_file(files["pth"], out)
    assert out.read_bytes() == first
    assert [path.name for path in tmp_path.iterdir()] == ["out.safetensors"]


@pytest.mark.parametrize("kind", ["safetensors", "npz"])
def test_flow_from_the_command_line(kind: str, files: dict[str, Path], tmp_path: Path) -> None:
    out = tmp_path / "flow.safetensors"
    arguments = ["weights", "inflate", files[kind], "-o", out, "--flow", "--mode", "centre"]
    done = CliRunner().invoke(app, [*map(str, arguments)])
    assert (done.exit_code, done.stdout) == (0, f"{out}\n")
    assert "342 tensors filled; new, to be trained: logits.conv3d.weight, logits.conv3d.bias" in done.stderr
    model, expected = I3D(in_channels=2, weights=out), blank(400, 2)
    inflate(googlenet_weights(), expected, "centre")
    for name, tensor in without(dict(model.state_dict()), "logits").items():
        if not (kind == "npz" and name.endswith("num_batches_tracked")):
            assert torch.equal(tensor, expected.state_dict()[name]), name


@pytest.mark.parametrize(
    ("src", "out", "options", "code", "said"),
    [
        (
            "pth",
            "there.safetensors",
            ["--mode", "mean"],
            2,
            "Invalid value for --mode: mode must be one of average, centre",
        ),
        ("nothing.pth", "there.safetensors", [], 1, "nothing.pth cannot be read: No such file"),
        ("junk.pth", "there.safetensors", [], 1, "junk.pth: not a weights file"),
        (
            "short.pth",
            "there.safetensors",
            [],
            1,
            "short.pth: it has torchvision-googlenet names but does not",
        ),
        ("pth", "no/where.safetensors", [], 1, "no/where.safetensors cannot be written: No such file"),
        ("pth", "folder", [], 1, "folder cannot be written: Is a directory"),
    ],
)
def test_what_fails_leaves_the_output_as_it_was(
    src: str,
    out: str,
    options: list[str],
    code: int,
    said: str,
    files: dict[str, Path],
    weights_2d: Tensors,
    tmp_path: Path,
) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "there.safetensors").write_bytes(b"old")
    (tmp_path / "junk.pth").write_bytes(b"<html>")
    torch.save(without(weights_2d, "conv2"), tmp_path / "short.pth")
    before = sorted(tmp_path.iterdir())
    command = ["weights", "inflate", str(files.get(src, tmp_path / src)), "-o", str(tmp_path / out), *options]
    done = CliRunner(env={"COLUMNS": "300", "NO_COLOR": "1"}).invoke(app, command)
    assert (done.exit_code, done.stdout) == (code, "")
    assert said in done.stderr
    assert (tmp_path / "there.safetensors").read_bytes() == b"old"
    assert sorted(tmp_path.iterdir()) == before


def test_a_file_is_not_inflated_onto_itself(files: dict[str, Path]) -> None:
    before = files["npz"].read_bytes()
    with pytest.raises(WeightsError, match="give the result another name"):
        inflate_file(files["npz"], files["npz"])
    assert files["npz"].read_bytes() == before
