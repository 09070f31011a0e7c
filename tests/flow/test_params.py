"""TVL1Params: OpenCV's defaults, ranges, presets."""

from __future__ import annotations

import dataclasses
import math
import pickle
from typing import Any

import numpy as np
import pytest

from fasti3d.flow import PRESETS, TVL1Params


def test_defaults_are_those_of_opencv() -> None:
    cv2 = pytest.importorskip("cv2")
    if not hasattr(cv2, "optflow"):
        pytest.skip("this OpenCV was built without its contributed modules")
    theirs, ours = cv2.optflow.DualTVL1OpticalFlow_create(), TVL1Params()
    assert ours == TVL1Params(
        tau=theirs.getTau(),
        lambda_=theirs.getLambda(),
        theta=theirs.getTheta(),
        nscales=theirs.getScalesNumber(),
        warps=theirs.getWarpingsNumber(),
        epsilon=theirs.getEpsilon(),
        inner_iterations=theirs.getInnerIterations(),
        outer_iterations=theirs.getOuterIterations(),
        scale_step=theirs.getScaleStep(),
        gamma=theirs.getGamma(),
        median_filtering=theirs.getMedianFiltering(),
    )
    assert ours.mode == "opencv-cpu"


def test_presets() -> None:
    assert list(PRESETS) == ["i3d", "opencv-cuda", "large-motion"]
    assert TVL1Params.preset("i3d") == TVL1Params()
    assert TVL1Params.preset("opencv-cuda") == TVL1Params(mode="opencv-cuda")
    assert TVL1Params.preset("large-motion") == TVL1Params(scale_step=0.5)
    assert TVL1Params.preset("large-motion", warps=3) == TVL1Params(scale_step=0.5, warps=3)


def test_unknown_preset_names_those_there_are() -> None:
    with pytest.raises(ValueError, match="one of i3d, opencv-cuda, large-motion, got 'fast'"):
        TVL1Params.preset("fast")
    with pytest.raises(ValueError, match="tau must be above 0, got 0"):
        TVL1Params.preset("i3d", tau=0)


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("tau", [0.0, -0.1, math.nan, math.inf, "0.25", None, True]),
        ("lambda_", [0.0, -1, math.nan]),
        ("theta", [0.0, -1, math.inf]),
        ("nscales", [0, -1, 2.0, "5", True, 1001]),
        ("warps", [-1, 1.5, 1001]),
        ("epsilon", [-0.01, math.nan]),
        ("inner_iterations", [0, 2**31]),
        ("outer_iterations", [0, None]),
        ("scale_step", [0.0, 1.0, 1.25, -0.5, math.nan]),
        ("gamma", [-0.1, math.inf]),
        ("median_filtering", [2, 4, 7, -1, 5.0]),
        ("mode", ["cpu", "", None]),
    ],
)
def test_a_wrong_value_is_named(field: str, values: list[Any]) -> None:
    for value in values:
        with pytest.raises(ValueError, match=f"^{field} must ") as caught:
            TVL1Params(**{field: value})
        assert repr(value) in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"tau": 1e300}, "tau / theta"),
        ({"theta": 1e-300}, "tau / theta"),
        ({"theta": 1e300}, "theta"),
        ({"lambda_": 1e300}, r"lambda_ \* theta"),
        ({"gamma": 1e39}, "gamma"),
        ({"gamma": 1e22}, "gamma"),
        ({"theta": 1.1e6}, "theta"),
        ({"tau": 4e5}, "tau / theta"),
        ({"lambda_": 4e6}, r"lambda_ \* theta"),
    ],
)
def test_what_would_overflow_float32_is_refused(changes: dict[str, float], named: str) -> None:
    with pytest.raises(ValueError, match=rf"^{named} must be at most 1e\+06"):
        TVL1Params(**changes)


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("tau", [1e-3, 1, np.float32(0.5)]),
        ("epsilon", [0, 0.0]),
        ("gamma", [0, 0.5]),
        ("nscales", [1, 1000, np.int64(3)]),
        ("warps", [0, 1000]),
        ("gamma", [1e6]),
        ("median_filtering", [0, 1, 3, 5]),
        ("scale_step", [0.01, 0.99]),
    ],
)
def test_the_ends_of_the_ranges_are_allowed(field: str, values: list[Any]) -> None:
    for value in values:
        assert getattr(TVL1Params(**{field: value}), field) == value


def test_it_is_a_value() -> None:
    params = TVL1Params(epsilon=0.05)
    with pytest.raises(dataclasses.FrozenInstanceError):
        params.epsilon = 0.1  # type: ignore[misc]
    assert hash(params) == hash(TVL1Params(epsilon=0.05))
    assert pickle.loads(pickle.dumps(params)) == params
    with pytest.raises(ValueError, match="warps"):
        dataclasses.replace(params, warps=-1)


def test_iterations_are_counted_in_32_bits() -> None:
    with pytest.raises(ValueError, match=r"inner_iterations \* outer_iterations must be less than 2\*\*31"):
        TVL1Params(inner_iterations=2**16, outer_iterations=2**15)
