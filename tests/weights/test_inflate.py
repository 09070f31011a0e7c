"""Inflated weights give on a still clip what the 2-D ones give on its image, under whatever names."""

from __future__ import annotations

import io
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from googlenet_making import (
    CLASSIFIER,
    GoogLeNet,
    blank,
    copy_of,
    googlenet_weights,
    same,
    swapped,
    to_slim,
    without,
)
from i3d_making import SMALL, assert_maps_close, make_warm_i3d, ordinary, random_clip
from torch import Tensor, nn
from weights_making import Tensors, to_hassony2

from fasti3d import I3D, compat, network
from fasti3d.inflate import inflate, inflate_conv2d
from fasti3d.same_padding import same_output, same_padding

IMAGE = random_clip(1, 3, 64, 64)
# Two convolutions of the same shape.
TWINS = ("inception3b.branch2.0.", "inception3b.branch4.1.")


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
        before, _ = same_padding(length, kernel, stride)
        length = same_output(length, stride)
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


@pytest.mark.parametrize(("mode", "frames"), [("average", 104), ("centre", 16), ("centre", 17)])
def test_a_still_clip_gives_the_2d_maps(mode: str, frames: int, weights_2d: Tensors) -> None:
    assert_still(still_maps(mode, frames), maps_2d(weights_2d), steps_of(mode, frames))


@pytest.mark.parametrize(("mode", "frames"), [("average", 104), ("centre", 16)])
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
    assert stem.shape == (24, in_channels, 7, 7, 7)
    for channel in range(in_channels):
        torch.testing.assert_close(stem[:, channel, 3], weights_2d["conv1.conv.weight"].mean(1))


def _npz(tensors: Tensors, folder: Path) -> Any:
    np.savez(folder / "slim.npz", **to_slim(tensors))
    return np.load(folder / "slim.npz")


def _saved(tensors: Tensors, folder: Path) -> Path:
    torch.save(tensors, folder / "googlenet.pth")
    return folder / "googlenet.pth"


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
        lambda t, _: without(t, "fc", "aux") | {"classifier.1.weight": torch.zeros(5, 96)},
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
    "beside what is no number": (lambda t, _: t | {"labels": np.array([None])}, "labels"),
    "a file's path": (_saved, "fc.weight"),
    "an open file": (lambda t, folder: io.BytesIO(_saved(t, folder).read_bytes()), "fc.weight"),
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
