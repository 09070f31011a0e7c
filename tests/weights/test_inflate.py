"""Inflated weights compute on a still clip what the 2-D network computes on its image; what does not fit is left."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from googlenet_making import GoogLeNet, googlenet_weights, to_slim
from i3d_making import random_clip
from torch import Tensor, nn
from typer.testing import CliRunner
from weights_making import Tensors, to_deepmind, to_hassony2

from fasti3d import I3D, compat, network, reference
from fasti3d.cli import app
from fasti3d.inflate import inflate, inflate_conv2d, inflate_file
from fasti3d.weights import WeightsError, load

CLASSIFIER = ("logits.conv3d.weight", "logits.conv3d.bias")
SIZE = (64, 64)
# A convolution of the same shape as another's, on the same input.
TWINS = ("inception3b.branch1.", "inception3b.branch2.0.")


@pytest.fixture(scope="module")
def weights_2d() -> Tensors:
    return googlenet_weights()


@pytest.fixture(scope="module")
def image() -> Tensor:
    return random_clip(1, 3, *SIZE)


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
        ((4, 3, 5, 5), torch.float32, 3, "center", "mode must be average or centre, got 'center'"),
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
    """The steps of each endpoint that no window of its own or of a layer before reaches the clip's ends for."""
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


def assert_still(
    tensors: Tensors, image: Tensor, mode: str, frames: int, expected: GoogLeNet | None = None
) -> None:
    """Every endpoint equals the 2-D network's at every step that the mode makes exact."""
    model = I3D(7).eval()
    inflate(tensors, model, mode)
    if expected is None:
        expected = GoogLeNet()
        expected.load_state_dict({k: t for k, t in tensors.items() if not k.startswith("aux")}, strict=True)
    with torch.no_grad():
        maps_2d = expected.eval()(image)
        maps = model.forward_endpoints(image[:, :, None].expand(-1, -1, frames, -1, -1), network.TRUNK)
    assert list(maps) == list(maps_2d) == list(network.TRUNK)
    steps = exact_steps(frames)
    for name, found in maps.items():
        exact = steps[name] if mode == "average" else range(found.shape[2])
        assert len(exact) > 0, f"no step of {name} is exact with {frames} frames"
        wanted = maps_2d[name]
        error = (found[:, :, exact] - wanted[:, :, None]).abs().max() / wanted.abs().max()
        assert error <= 1e-5, f"{name}: {error:.1e}"


def test_the_window_walk() -> None:
    """Numbers of a walk by hand; the shortest clip with an exact step of Mixed_5c has 101 frames."""
    steps = exact_steps(128)
    assert steps["Conv3d_1a_7x7"] == range(1, 62)
    assert steps["Mixed_3c"] == range(4, 59)
    assert steps["Mixed_4f"] == range(7, 24)
    assert steps["Mixed_5c"] == range(6, 10)
    assert exact_steps(101)["Mixed_5c"] == range(6, 7)
    assert not any(exact_steps(frames)["Mixed_5c"] for frames in range(9, 101))


def test_the_average_is_exact_away_from_the_ends(weights_2d: Tensors, image: Tensor) -> None:
    assert_still(weights_2d, image, "average", 104)


@pytest.mark.parametrize("frames", [16, 17])
def test_the_centre_is_exact_at_every_step(frames: int, weights_2d: Tensors, image: Tensor) -> None:
    assert_still(weights_2d, image, "centre", frames)


def test_a_clip_without_an_exact_step_proves_nothing(weights_2d: Tensors, image: Tensor) -> None:
    with pytest.raises(AssertionError, match="no step of MaxPool3d_5a_2x2 is exact with 64 frames"):
        assert_still(weights_2d, image, "average", 64)


@pytest.mark.parametrize(("mode", "frames"), [("average", 104), ("centre", 9)])
@pytest.mark.parametrize("mistake", ["branches", "eps", "padding"])
def test_mistakes_are_seen(
    mistake: str, mode: str, frames: int, weights_2d: Tensors, image: Tensor
) -> None:
    expected = GoogLeNet(
        eps=1e-5 if mistake == "eps" else 1e-3, stem_padding=(3, 3) if mistake == "padding" else (2, 3)
    )
    expected.load_state_dict(without(weights_2d, "aux"))
    tensors = swapped(weights_2d, *TWINS) if mistake == "branches" else weights_2d
    first = {"branches": "Mixed_3c", "eps": "Conv3d_1a_7x7", "padding": "Conv3d_1a_7x7"}[mistake]
    with pytest.raises(AssertionError, match=rf"^{first}: "):
        assert_still(tensors, image, mode, frames, expected)
