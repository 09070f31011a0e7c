"""How far results may be from exact ones: one table for all tests, by operation and dtype.

An error is the largest absolute difference as a share of the largest expected magnitude: sums of
products have rounding errors in proportion to their terms, not to what is left after cancellation.
Unit roundoff is 2**-24 in float32, 2**-11 in float16 and 2**-8 in bfloat16.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor


class Tolerance(NamedTuple):
    """A limit on the error, and why it is what it is."""

    limit: float
    why: str


_SELECTS = "a maximum is one of its inputs: nothing is rounded"
_ROUNDED_ONCE = "float32 sums, rounded once: one unit roundoff, and the sums' own error"
_ROUNDED_THRICE = "weight, bias and result may each be rounded: three unit roundoffs"

TOLERANCES: dict[tuple[str, torch.dtype], Tolerance] = {
    ("max_pool3d_same", torch.float32): Tolerance(0.0, _SELECTS),
    ("max_pool3d_same", torch.bfloat16): Tolerance(0.0, _SELECTS),
    ("max_pool3d_same", torch.float16): Tolerance(0.0, _SELECTS),
    ("conv3d", torch.float32): Tolerance(
        1e-5, "float32 sums of up to 22,000 products err by 2e-6, Winograd's transforms by up to 5e-6"
    ),
    ("conv3d", torch.bfloat16): Tolerance(3 * 2.0**-8, _ROUNDED_THRICE),
    ("conv3d_tiles", torch.bfloat16): Tolerance(
        1.01 * 2.0**-8, "weights that bfloat16 holds exactly, float32 sums, rounded once"
    ),
    ("conv3d", torch.float16): Tolerance(3 * 2.0**-11, _ROUNDED_THRICE),
    ("depthwise_conv3d", torch.float32): Tolerance(1e-6, "float32 sums of up to 60 products err by 4e-7"),
    ("depthwise_conv3d", torch.bfloat16): Tolerance(1.01 * 2.0**-8, _ROUNDED_ONCE),
    ("depthwise_conv3d", torch.float16): Tolerance(1.01 * 2.0**-11, _ROUNDED_ONCE),
    # Three convolutions in a row.
    ("conv3d_block", torch.bfloat16): Tolerance(
        6 * 2.0**-8, "weights and maps rounded at each of three layers"
    ),
    ("conv3d_block", torch.float16): Tolerance(
        6 * 2.0**-11, "weights and maps rounded at each of three layers"
    ),
    # Another form of the same convolution, rounded at the same places.
    ("conv3d_forms", torch.float32): Tolerance(1e-5, "the same float32 sums in another order"),
    ("conv3d_forms", torch.bfloat16): Tolerance(2.0**-7, "rounded once, perhaps to the other neighbour"),
    ("conv3d_forms", torch.float16): Tolerance(2.0**-10, "rounded once, perhaps to the other neighbour"),
    # The same with weights and bias kept in float32.
    ("conv3d_gradient", torch.float32): Tolerance(
        1e-5, "the same float32 sums in another order, of as many terms as there are pixels"
    ),
    # float32 whatever the dtype of the map.
    ("i3d_head", torch.float32): Tolerance(
        1e-5, "float32 sums of up to 100 pixels and 1024 channels, which err by some 1e-6"
    ),
    ("i3d", torch.float32): Tolerance(
        2e-5, "up to 21 convolutions in a row, whose errors of some 1e-6 each add up as noise does"
    ),
    ("i3d", torch.float16): Tolerance(
        1.1 * 2.0**-11, "runs in float32 on the same rounded weights; the result is rounded once"
    ),
    ("i3d", torch.bfloat16): Tolerance(
        4e-2,
        "where the CPU has bfloat16 dot products, every map is rounded: 2**-8 at each of 21 layers, as noise",
    ),
    # From frames, with the flow of another device.
    ("two_stream", torch.float32): Tolerance(
        5e-4, "flow of another rounding adds 5e-5; that of the frame after 1e-3, none at all 1e-2"
    ),
    # Residual networks, of 20 and 37 convolutions, with folded weights.
    ("fused_network", torch.float32): Tolerance(2e-6, "noise of 1e-6 a layer, averaged by the head to 5e-7"),
    ("fused_network", torch.float16): Tolerance(
        2.0**-9, "every map and folded weight rounded to 2**-11, averaged by the head to 8e-4"
    ),
    ("fused_network", torch.bfloat16): Tolerance(
        2.0**-6, "every map and folded weight rounded to 2**-8, averaged by the head to 8e-3"
    ),
    # With every map in float16, as on GPUs.
    ("i3d_half", torch.float16): Tolerance(
        3e-3, "every map is rounded: 2**-11 at each of 21 layers, as noise"
    ),
}


class FlowTolerance(NamedTuple):
    """Limits on the endpoint differences of two flows, in pixels, and why they are what they are."""

    median: float
    mean: float
    within_a_tenth: float
    why: str


# Never a limit on the maximum: any rounding moves single pixels by many pixels, in OpenCV too.
TVL1_OPENCV = FlowTolerance(
    0.02,
    0.03,
    0.98,
    "a warp ends when the flow moves by less than .01 pixels: another rounding may end it one iteration off",
)
# Where OpenCV is further than that from its own result on frames that differ by 1e-7 of their values.
TVL1_UNSTABLE = Tolerance(2.0, "two draws of one spread: within twice OpenCV's own mean difference")
TVL1_ACCURACY = Tolerance(
    0.1, "pixels of mean endpoint error: measured .001; epsilon .05 or a pyramid of step .5 cost more than .1"
)


def error(actual: Tensor, expected: Tensor, scale: float | None = None) -> float:
    """The largest difference over ``scale``, by default the largest expected magnitude; NaN if one is NaN."""
    if actual.shape != expected.shape:
        raise AssertionError(f"shape {tuple(actual.shape)}, expected {tuple(expected.shape)}")
    if expected.numel() == 0:
        return 0.0
    difference = (actual.double() - expected.double()).abs().max().item()
    largest = expected.double().abs().max().item() if scale is None else scale
    return difference / largest if difference else 0.0


def assert_close(operation: str, actual: Tensor, expected: Tensor, *, scale: float | None = None) -> None:
    """Fails unless ``actual`` is within the table's limit for ``operation`` in actual's dtype."""
    tolerance = TOLERANCES[operation, actual.dtype]
    found = error(actual, expected, scale)
    assert not math.isnan(found), f"{operation}: the difference is not a number"
    assert found <= tolerance.limit, (
        f"{operation} in {actual.dtype}: error {found:.3g} above {tolerance.limit:.3g} ({tolerance.why})"
    )
