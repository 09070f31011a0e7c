"""What tvl1 refuses: other frames, initial flows and parameters, each with an error that says why."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
import torch
from flow_making import HEIGHT, QUICK, WIDTH, moving

from fasti3d.flow import tvl1

FRAMES = moving(4)
FLOATS = FRAMES.float() / 255
FIRST, SECOND = FRAMES[0], FRAMES[1]

# What it refuses.

GREY_HINT = "convert color images with fasti3d.flow.to_grey"


@pytest.mark.parametrize(
    ("frame0", "frame1", "error", "message"),
    [
        (FIRST.tolist(), SECOND, TypeError, "frame0 must be a NumPy array or a torch"),
        (FIRST, None, TypeError, "frame1 must be a NumPy array or a torch"),
        (
            FIRST.numpy(),
            SECOND,
            TypeError,
            "frame0 and frame1 must both be NumPy arrays or both tensors, got",
        ),
        (FIRST, SECOND[:-2], ValueError, "frame0 and frame1 must have one shape, got (48, 64) and (46, 64)"),
        (FIRST, SECOND[None], ValueError, "one shape, got (48, 64) and (1, 48, 64)"),
        (FIRST, FLOATS[1], ValueError, "frame0 and frame1 must have one dtype, got uint8 and float32"),
        (FLOATS[0].numpy(), FLOATS[1].double().numpy(), ValueError, "one dtype, got float32 and float64"),
        (FIRST, SECOND.to("meta"), ValueError, "frame0 and frame1 must be on one device, got cpu and meta"),
        (
            FIRST.int(),
            SECOND.int(),
            ValueError,
            "frame0 must be uint8 (0 to 255) or floating point (0 to 1), ",
        ),
        (
            FIRST > 9,
            SECOND > 9,
            ValueError,
            "frame0 must be uint8 (0 to 255) or floating point (0 to 1), got bo",
        ),
        (
            FIRST.numpy().astype("u2"),
            SECOND.numpy(),
            ValueError,
            "frame0 must be uint8 (0 to 255) or floating",
        ),
        (np.array([["a"]]), SECOND.numpy(), ValueError, "frame0 must be uint8"),
        (
            FLOATS[0] * 255,
            FLOATS[1] * 255,
            ValueError,
            "frame0 must lie in 0 to 1, being floating point, but",
        ),
        (FLOATS[0], FLOATS[1] - 0.5, ValueError, "frame1 must lie in 0 to 1"),
        (
            FLOATS[:2],
            FLOATS[2:] * torch.tensor([1.0, 1.3])[:, None, None],
            ValueError,
            "frame1[1] must lie in",
        ),
        (FLOATS[0] * torch.inf, FLOATS[1], ValueError, "frame0 must be finite"),
        (FLOATS[:2], FLOATS[2:] / FRAMES[2:].sub(FRAMES[2, 0, 0]), ValueError, "frame1[0] must be finite"),
        (FIRST[:1], SECOND[:1], ValueError, "frame0 must be at least 3x3 pixels, got 1x64"),
        (FRAMES[:, :, :2], FRAMES[:, :, :2], ValueError, "at least 3x3 pixels, got 48x2 (shape (4, 48, 2))"),
        (FIRST[0], SECOND[0], ValueError, "frame0 must be (H, W), (N, H, W) or (N, 1, H, W), got (64,)"),
        (FIRST[None, None, None], SECOND, ValueError, "(N, 1, H, W), got (1, 1, 1, 48, 64)"),
        (FIRST[..., None].repeat(1, 1, 3), SECOND, ValueError, f"got (48, 64, 3): {GREY_HINT}"),
        (FRAMES[..., None].repeat(1, 1, 1, 3), SECOND, ValueError, f"got (4, 48, 64, 3): {GREY_HINT}"),
        (FRAMES[:, None].repeat(1, 3, 1, 1), SECOND, ValueError, f"got (4, 3, 48, 64): {GREY_HINT}"),
    ],
)
def test_wrong_frames(frame0: Any, frame1: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=re.escape(message)):
        tvl1(frame0, frame1, params=QUICK)


def test_white_may_be_rounded_up() -> None:
    white = FLOATS[:2] / FLOATS[:2].max() * (1 + 2e-7)
    assert white.max() > 1
    assert torch.isfinite(tvl1(white[0], white[1], params=QUICK)).all()


START = torch.zeros((2, HEIGHT, WIDTH))


@pytest.mark.parametrize(
    ("start", "error", "message"),
    [
        (START.numpy(), TypeError, "frame0 and initial_flow must both be NumPy arrays or both tensors"),
        ([0, 0], TypeError, "frame0 and initial_flow must both be"),
        (START.to("meta"), ValueError, "frame0 and initial_flow must be on one device, got cpu and meta"),
        (
            START.permute(1, 2, 0),
            ValueError,
            "initial_flow must be (2, 48, 64) to go with the frames, got (48, ",
        ),
        (
            START[None],
            ValueError,
            "initial_flow must be (2, 48, 64) to go with the frames, got (1, 2, 48, 64)",
        ),
        (START.int(), ValueError, "initial_flow must be floating point, got int32"),
        (START + torch.nan, ValueError, "initial_flow must be finite"),
        (START.double() + 1e300, ValueError, "initial_flow must be finite"),
    ],
)
def test_wrong_initial_flow(start: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=re.escape(message)):
        tvl1(FIRST, SECOND, params=QUICK, initial_flow=start)
    with pytest.raises(ValueError, match=r"initial_flow must be \(3, 2, 48, 64\) to go with the frames"):
        tvl1(FRAMES[1:], FRAMES[:-1], params=QUICK, initial_flow=START)


def test_parameters_of_another_type() -> None:
    with pytest.raises(TypeError, match=r"params must be a TVL1Params, got str: see .*TVL1Params\.preset"):
        tvl1(FIRST, SECOND, params="large-motion")  # type: ignore[arg-type]


def test_there_is_no_gradient() -> None:
    wanting = FLOATS[0].clone().requires_grad_()
    start = START.clone().requires_grad_()
    with pytest.raises(ValueError, match=r"frame0 requires a gradient, but TV-L1 has none: pass frame0"):
        tvl1(wanting, FLOATS[1], params=QUICK)
    with pytest.raises(ValueError, match="frame1 requires a gradient"):
        tvl1(FLOATS[1], wanting, params=QUICK)
    with pytest.raises(ValueError, match="initial_flow requires a gradient"):
        tvl1(FLOATS[0], FLOATS[1], params=QUICK, initial_flow=start)
    with torch.no_grad():
        flow = tvl1(wanting, FLOATS[1], params=QUICK, initial_flow=start)
    assert not flow.requires_grad
    with torch.inference_mode():
        assert torch.equal(tvl1(FLOATS[0], FLOATS[1], params=QUICK), flow)
