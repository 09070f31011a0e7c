"""What TV-L1 takes, so that its float32 numbers stay finite: the same as csrc/tvl1/operator.h."""

from __future__ import annotations

import torch
from torch import Tensor

MODES = ("opencv-cpu", "opencv-cuda")
MEDIANS = (0, 1, 3, 5)
MOST_LEVELS = 1000
MOST_ITERATIONS = 2**31 - 1
# A step moves the flow by no more than 255 lambda theta + 4 theta, and the illumination by gamma lambda
# theta + 4 theta; what comes back into the next step is opposed to it. So both stay under some 1e13, their
# squares under 1e26, and the products of two dual norms, 1 + tau / theta times a difference, under 1e38.
LARGEST = 1e6
LARGEST_FLOW = 1e9
# Sides of frames: as OpenCV asserts, and to where float32 has a place for every pixel.
MIN_SIDE, MAX_SIDE = 3, 2**24
# How far floats of 0 to 1 may lie outside: weights of a grey conversion that add up to 1 may round white to
# a little above it.
ROUNDING = 1e-3


def largest_frame(lambda_: float, theta: float) -> float:
    """What floats of frames may be at most, either sign: k times brighter is like k times the lambda."""
    return max(1 + ROUNDING, min(LARGEST / (lambda_ * theta), LARGEST)) if lambda_ * theta > 0 else LARGEST


def check_params(
    mode: str, tau: float, lambda_: float, theta: float, nscales: int, warps: int, epsilon: float,
    inner_iterations: int, outer_iterations: int, scale_step: float, gamma: float, median_filtering: int,
) -> None:  # fmt: skip
    """ValueError for a parameter out of its range."""

    def require(name: str, value: object, ok: bool, what: str) -> None:
        if not ok:
            raise ValueError(f"{name} must {what}, got {value!r}")

    require("tau", tau, tau > 0, "be above 0")
    require("lambda_", lambda_, lambda_ > 0, "be above 0")
    require("theta", theta, theta > 0, "be above 0")
    require("nscales", nscales, 1 <= nscales <= MOST_LEVELS, f"be 1 to {MOST_LEVELS}")
    require("warps", warps, 0 <= warps <= MOST_LEVELS, f"be 0 to {MOST_LEVELS}")
    require("epsilon", epsilon, epsilon >= 0, "be at least 0")
    for name, value in (("inner_iterations", inner_iterations), ("outer_iterations", outer_iterations)):
        require(name, value, 1 <= value <= MOST_ITERATIONS, "be at least 1 and less than 2**31")
    require(
        "inner_iterations * outer_iterations",
        inner_iterations * outer_iterations,
        inner_iterations * outer_iterations <= MOST_ITERATIONS,
        "be less than 2**31",
    )
    require("scale_step", scale_step, 0 < scale_step < 1, "lie between 0 and 1 (OpenCV's default is 0.8)")
    require("gamma", gamma, gamma >= 0, "be at least 0")
    require(
        "median_filtering", median_filtering, median_filtering in MEDIANS, "be 3 or 5, or 0 or 1 for none"
    )
    require("mode", mode, mode in MODES, f"be one of {', '.join(MODES)}")
    for name, number in (
        ("theta", theta),
        ("gamma", gamma),
        ("tau / theta", tau / theta),
        ("lambda_ * theta", lambda_ * theta),
    ):
        require(name, number, number <= LARGEST, f"be at most {LARGEST:g}, beyond which float32 overflows")


def check_tensors(frame0: Tensor, frame1: Tensor | None, initial_flow: Tensor | None) -> None:
    """ValueError for frames and an initial flow that do not fit together, whatever their values."""
    for name, frames in (("frame0", frame0), ("frame1", frame1)):
        if frames is None:
            continue
        if frames.dim() != 3 or frames.dtype not in (torch.uint8, torch.float32):
            raise ValueError(f"{name} must be (N, H, W), uint8 or float32, got {_kind(frames)}")
        if not all(MIN_SIDE <= side <= MAX_SIDE for side in frames.shape[1:]):
            raise ValueError(
                f"{name} must have sides of {MIN_SIDE} to {MAX_SIDE} pixels, got {_kind(frames)}"
            )
        if (frames.shape, frames.dtype, frames.device) != (frame0.shape, frame0.dtype, frame0.device):
            raise ValueError(f"{name} must be as frame0, {_kind(frame0)}, got {_kind(frames)}")
    pairs = frame0.shape[0] if frame1 is not None else max(frame0.shape[0] - 1, 0)
    shape = (pairs, 2, *frame0.shape[1:])
    if initial_flow is not None and (
        tuple(initial_flow.shape) != shape
        or initial_flow.dtype != torch.float32
        or initial_flow.device != frame0.device
    ):
        raise ValueError(
            f"initial_flow must be {shape}, torch.float32 on {frame0.device}, got {_kind(initial_flow)}"
        )


def check_values(name: str, tensor: Tensor | None, least: float, most: float) -> None:
    """ValueError for a float32 tensor with a value that is not between the two; NaN is not."""
    if tensor is not None and tensor.is_floating_point() and not ((tensor >= least) & (tensor <= most)).all():
        raise ValueError(f"{name} must be finite and lie in {least:g} to {most:g}, being float32")


def _kind(tensor: Tensor) -> str:
    return f"{tensor.dtype} of {tuple(tensor.shape)} on {tensor.device}"
