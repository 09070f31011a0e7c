"""The limits of TV-L1's numbers, within which float32 stays finite: the same as in csrc/tvl1/operator.h.

The command line checks parameters by them, before it imports torch.
"""

from __future__ import annotations

MODES = ("opencv-cpu", "opencv-cuda")
MEDIANS = (0, 1, 3, 5)
MAX_LEVELS = 1000
MAX_ITERATIONS = 2**31 - 1
# Estimated: a step moves the flow by at most 255 lambda theta + 4 theta, and the illumination by gamma lambda
# theta + 4 theta, and the next step opposes it. So both stay below about 1e13, their squares below 1e26, and
# products of two dual norms, 1 + tau / theta times a difference, below 1e38.
MAX_VALUE = 1e6
MAX_FLOW = 1e9
# Sides of frames: as OpenCV asserts, and to where float32 has a place for every pixel.
MIN_SIDE, MAX_SIDE = 3, 2**24
# How far floats of 0 to 1 may lie outside: weights of a gray conversion that add up to 1 may round white to
# a little above it.
ROUNDING = 1e-3


def max_frame_value(lambda_: float, theta: float) -> float:
    """The maximum absolute value of float frames: k times brighter frames act like k times the lambda."""
    if lambda_ * theta <= 0:
        return MAX_VALUE
    return max(1 + ROUNDING, min(MAX_VALUE / (lambda_ * theta), MAX_VALUE))


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
    require("nscales", nscales, 1 <= nscales <= MAX_LEVELS, f"be 1 to {MAX_LEVELS}")
    require("warps", warps, 0 <= warps <= MAX_LEVELS, f"be 0 to {MAX_LEVELS}")
    require("epsilon", epsilon, epsilon >= 0, "be at least 0")
    for name, value in (("inner_iterations", inner_iterations), ("outer_iterations", outer_iterations)):
        require(name, value, 1 <= value <= MAX_ITERATIONS, "be at least 1 and less than 2**31")
    require(
        "inner_iterations * outer_iterations",
        inner_iterations * outer_iterations,
        inner_iterations * outer_iterations <= MAX_ITERATIONS,
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
        require(name, number, number <= MAX_VALUE, f"be at most {MAX_VALUE:g}: above it float32 overflows")
