"""The TV-L1 solvers that are timed and judged side by side, each a call from a pair of frames to its flow."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from benchmarks.flow_data import residual
from fasti3d.flow import TVL1Params, average_endpoint_error, tvl1

# uint8 (H, W) twice -> float32 (2, H, W) in pixels, x first.
Solver = Callable[[Tensor, Tensor], Tensor]

OPENCV = "OpenCV"
SCIKIT_IMAGE = "scikit-image, its defaults"

# Mean endpoint error of fasti3d against OpenCV with the same parameters, in pixels: .001 to .01 on most
# pairs of real frames, up to .05 where OpenCV's own result is as unstable as that.
OPENCV_TOLERANCE = 0.1

_DEFAULTS = TVL1Params()


def fasti3d(params: TVL1Params = _DEFAULTS) -> Solver:
    return lambda frame0, frame1: tvl1(frame0, frame1, params=params)


def opencv(params: TVL1Params = _DEFAULTS) -> Solver:
    """``cv2.optflow.DualTVL1OpticalFlow`` with as many threads as torch uses."""
    import cv2

    *numbers, mode = dataclasses.astuple(params)
    if mode != "opencv-cpu":
        raise ValueError(f"OpenCV on the CPU has only the mode opencv-cpu, got {mode!r}")
    # The fields of TVL1Params are OpenCV's arguments in OpenCV's order.
    solver = cv2.optflow.DualTVL1OpticalFlow_create(*numbers)

    def solve(frame0: Tensor, frame1: Tensor) -> Tensor:
        cv2.setNumThreads(torch.get_num_threads())
        flow = solver.calc(frame0.numpy(), frame1.numpy(), None)
        return torch.from_numpy(flow.transpose(2, 0, 1))

    return solve


def scikit_image() -> Solver:
    """``skimage.registration.optical_flow_tvl1`` as it comes: other pyramid, weight and stop; one thread."""
    from skimage.registration import optical_flow_tvl1

    def solve(frame0: Tensor, frame1: Tensor) -> Tensor:
        down, right = optical_flow_tvl1(frame0.numpy() / 255.0, frame1.numpy() / 255.0)
        return torch.stack([torch.from_numpy(right), torch.from_numpy(down)])

    return solve


PEERS: dict[str, Callable[[], Solver]] = {OPENCV: opencv, SCIKIT_IMAGE: scikit_image}
# What their solvers are in: OpenCV comes without it too, as opencv-python.
_MODULES = {OPENCV: ("cv2", "optflow"), SCIKIT_IMAGE: ("skimage", "registration")}


def skip_without(peer: str) -> None:
    package, module = _MODULES[peer]
    remedy = "pip install fasti3d[bench]"
    found = pytest.importorskip(package, reason=f"{package} is not installed: {remedy}")
    if not hasattr(found, module):
        pytest.skip(f"{package} is installed without {module}: {remedy}")


def check(name: str, solve: Solver, frame0: Tensor, frame1: Tensor) -> None:
    """Fails for a flow that does not lead from frame0 to frame1: a wrong result has no speed."""
    flow = solve(frame0, frame1)
    still = residual(frame0, frame1, torch.zeros_like(flow))
    assert residual(frame0, frame1, flow) < 0.8 * still, f"{name} does not follow the motion"
    if name == OPENCV:
        assert average_endpoint_error(fasti3d()(frame0, frame1), flow) < OPENCV_TOLERANCE
