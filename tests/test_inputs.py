"""What users may hand to the network, and what they are told otherwise."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from i3d_making import SMALL, make_i3d, ordinary, random_clip
from tolerances import assert_close
from torch import Tensor

from fasti3d import I3D, inputs


@pytest.fixture(scope="module")
def model() -> I3D:
    return make_i3d()


@pytest.fixture(autouse=True)
def fresh_warnings(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Every test as in a new process, where nothing was warned about yet."""
    monkeypatch.setattr(inputs, "_warned", set())
    return


def clip(*shape: int) -> Tensor:
    return random_clip(*shape)


# The argument, the value it had, and what to do about it.
@pytest.mark.parametrize(
    ("x", "error", "value", "remedy"),
    [
        (np.zeros((1, 3, 9, 224, 224)), TypeError, "x must be a torch.Tensor.*ndarray", r"\(N, C, T, H, W\)"),
        (None, TypeError, "x must be a torch.Tensor.*NoneType", r"\(N, C, T, H, W\)"),
        (clip(3, 9, 8, 8), ValueError, r"x must be \(N, C, T, H, W\).*\(3, 9, 8, 8\)", r"x\[None\]"),
        (clip(3, 9), ValueError, r"x must be .*\(3, 9\)", r"\(N, C, T, H, W\)"),
        (clip(1, 1, 3, 9, 8, 8), ValueError, r"x must be .*\(1, 1, 3, 9, 8, 8\)", r"\(N, C, T, H, W\)"),
        (clip(1, 4, 9, 8, 8), ValueError, r"x must have 3 channels.*got 4", r"3 channels on axis 1"),
        (clip(1, 9, 8, 8, 3), ValueError, r"x must have 3 channels.*got 9", r"x\.permute\(0, 4, 1, 2, 3\)"),
        (clip(1, 9, 3, 8, 8), ValueError, r"x must have 3 channels.*got 9", r"x\.transpose\(1, 2\)"),
        (clip(0, 3, 9, 8, 8), ValueError, r"x must not be empty.*\(0, 3, 9, 8, 8\)", "not be empty"),
        (clip(1, 3, 9, 0, 8), ValueError, r"x must not be empty.*\(1, 3, 9, 0, 8\)", "not be empty"),
        (clip(1, 3, 9, 8, 8).long(), ValueError, "x must be floating point.*int64", r"x\.float\(\)"),
        (
            clip(1, 3, 9, 8, 8).half(),
            ValueError,
            "x is torch.float16.*torch.float32",
            "cast one to the other",
        ),
        (
            clip(1, 3, 9, 8, 8).double(),
            ValueError,
            "x is torch.float64.*torch.float32",
            "cast one to the other",
        ),
        (
            torch.full((1, 3, 9, 8, 8), float("nan")),
            ValueError,
            "x .*(nan|NaN)",
            "before|finite",
        ),
        (
            torch.full((1, 3, 9, 8, 8), float("-inf")),
            ValueError,
            "x .*inf",
            "before|finite",
        ),
    ],
)
def test_errors_name_the_value_and_the_remedy(
    model: I3D, x: object, error: type[Exception], value: str, remedy: str
) -> None:
    for needs_grad in (False, True):
        with torch.set_grad_enabled(needs_grad), pytest.raises(error, match=value) as raised:
            model.forward_features(x)
        assert raised.match(remedy)


@pytest.mark.parametrize("size", [(8, 224, 224), (1, 193, 193), (9, 192, 224), (64, 224, 112), (2, 20, 20)])
def test_clips_too_small_for_the_head(model: I3D, size: tuple[int, int, int]) -> None:
    x = clip(1, 3, *size)
    short = size[0] < 9
    value = rf"at least 9 frames.*got {size[0]}" if short else rf"193x193 pixels.*got {size[1]}x{size[2]}"
    calls = (model, model.extract_features, lambda v: model.forward_endpoints(v, ["Predictions"]))
    with torch.no_grad():
        for call in calls:
            with pytest.raises(ValueError, match=value) as raised:
                call(x)
            assert raised.match("forward_features")
        model.forward_endpoints(x, ["Conv3d_1a_7x7"])  # any size will do without the head


@pytest.mark.parametrize("in_channels", [2, 5])
def test_bytes_are_rgb(in_channels: int) -> None:
    model = make_i3d(in_channels=in_channels)
    with pytest.raises(
        ValueError, match=rf"x is uint8, .* has {in_channels} channels: scale it to \[-1, 1\]"
    ):
        model.forward_features(torch.zeros(1, in_channels, 9, 8, 8, dtype=torch.uint8))


def test_flow_networks_name_their_own_channels() -> None:
    with pytest.raises(ValueError, match="x must have 2 channels on axis 1, got 3"):
        make_i3d(in_channels=2).forward_features(clip(*SMALL))


def test_autocast_takes_float32_clips_and_weights_of_either_dtype(model: I3D) -> None:
    x = clip(*SMALL)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        assert model.forward_features(x).dtype == torch.bfloat16
        assert model.forward_features(x.bfloat16()).dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("scale", "shift", "found", "remedy"),
    [
        (127.5, 127.5, r"values from 0.* to 25[45]", r"x / 127\.5 - 1"),
        (128.0, 0.0, r"values from -12[78] to 12[78]", r"\[-1, 1\]"),
        (0.5, 0.5, r"values from .* to (1|0\.99)", r"2 \* x - 1"),
    ],
)
def test_a_wrong_range_is_warned_about_once(
    model: I3D, scale: float, shift: float, found: str, remedy: str
) -> None:
    x = clip(*SMALL) * scale + shift
    with torch.no_grad(), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(2):
            model.forward_endpoints(x, ["Conv3d_1a_7x7"])
    assert len(caught) == 1
    assert re.search(found, str(caught[0].message))
    assert re.search(remedy, str(caught[0].message))


def test_the_warning_points_at_the_caller(model: I3D) -> None:
    with torch.no_grad(), pytest.warns(UserWarning, match="expects") as caught:
        model.forward_features(clip(*SMALL) * 100)
    assert caught[0].filename == __file__


def test_each_kind_of_range_has_its_warning(model: I3D) -> None:
    with torch.no_grad(), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for x in (clip(*SMALL) * 100, clip(*SMALL).abs(), clip(*SMALL) * 100, clip(*SMALL).abs()):
            model.forward_endpoints(x, ["Conv3d_1a_7x7"])
    assert len(caught) == 2


def test_clips_in_range_are_not_warned_about(model: I3D) -> None:
    black = torch.full(SMALL, -1.0)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("error")
        for x in (clip(*SMALL), black, torch.zeros(SMALL), clip(*SMALL) * 1.05, clip(*SMALL) - 0.5):
            model.forward_endpoints(x, ["Conv3d_1a_7x7"])


def test_training_is_checked_as_well() -> None:
    model = make_i3d().train()
    with pytest.warns(UserWarning, match="0-255"):
        model.forward_endpoints(clip(2, *SMALL[1:]) * 127.5 + 127.5, ["Conv3d_1a_7x7"])
    with pytest.raises(ValueError, match="9 frames"):
        model(clip(1, 3, 8, 224, 224))


def test_checks_do_not_change_the_result(model: I3D) -> None:
    x = clip(*SMALL) * 100
    with torch.no_grad(), pytest.warns(UserWarning, match="expects"):
        y = model.forward_endpoints(x, ["Conv3d_1a_7x7"])["Conv3d_1a_7x7"]
    expected = ordinary(model, x, "Conv3d_1a_7x7")["Conv3d_1a_7x7"]
    assert_close("i3d", y, expected)


def test_gradients_that_nobody_asks_for() -> None:
    """In eval mode, by default on: one warning, at the line that called."""
    x, name = clip(*SMALL), ["Conv3d_1a_7x7"]
    model = make_i3d()
    with pytest.warns(UserWarning, match=r"gradients are on .* torch\.no_grad\(\)") as caught:
        y = model.forward_endpoints(x, name)["Conv3d_1a_7x7"]
    assert [one.filename for one in caught] == [__file__]
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        model.forward_endpoints(x, name)  # said once
        inputs._warned.clear()
        with torch.no_grad():
            model.forward_endpoints(x, name)
        model.forward_endpoints(x.clone().requires_grad_(), name)  # for the clip's
        make_i3d().train().forward_endpoints(x, name)
        partly = make_i3d()
        partly.Mixed_3b.b0.bn.train()
        partly.forward_endpoints(x, name)
        frozen = make_i3d().requires_grad_(False)
        frozen.forward_endpoints(x, name)
        frozen.logits.requires_grad_()
        frozen.forward_endpoints(x, name)
        y.sum().backward()
        model.forward_endpoints(x, name)  # they are in use


def test_bad_names(model: I3D) -> None:
    with pytest.raises(ValueError, match=r"unknown endpoints \['Mixed_9z'\]: choose from Conv3d_1a_7x7"):
        model.forward_endpoints(clip(*SMALL), ["Mixed_9z"])
    with pytest.raises(ValueError, match="wrap it in a list"):
        model.forward_endpoints(clip(*SMALL), "Mixed_5c")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_classes": 0}, "num_classes must be at least 1, got 0"),
        ({"in_channels": -1}, "in_channels must be at least 1, got -1"),
        ({"dropout": 1.5}, "dropout.*1.5"),
    ],
)
def test_constructor_arguments(arguments: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        I3D(**arguments)
