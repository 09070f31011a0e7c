"""``DualTVL1OpticalFlow`` with the interface of OpenCV's optflow module, on ``fasti3d.tvl1``.

Change ``from cv2 import optflow`` to ``from fasti3d.compat import dual_tvl1 as optflow``.

One thing is not as with OpenCV: torch's threads do not survive a fork, so that ``calc`` would hang in a
process forked after the first call. Start workers by ``spawn``, or let each call ``torch.set_num_threads(1)``
first.
"""

# ruff: noqa: N802, N803, N815 - the names are OpenCV's

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fasti3d.flow import TVL1Params, tvl1


def _accessors(name: str) -> tuple[Callable[..., Any], Callable[..., None]]:
    def get(self: DualTVL1OpticalFlow) -> Any:
        return self._values[name]

    def put(self: DualTVL1OpticalFlow, val: Any) -> None:
        self._values[name] = val

    return get, put


class DualTVL1OpticalFlow:
    """TV-L1 optical flow with the interface of ``cv2.optflow.DualTVL1OpticalFlow``.

    Make one by ``create()``. As in OpenCV, parameters are looked at when they are used: a wrong one is an
    error of the next ``calc``.

    Other than in OpenCV, an image too small for all scales does not lower the number of scales for the
    images after it; float images outside 0 to 1 are refused; and an initial flow to be used, but of
    another shape or dtype, is an error rather than ignored.
    """

    def __init__(self, values: dict[str, Any]) -> None:
        self._values = values

    @staticmethod
    def create(
        tau: float = 0.25,
        lambda_: float = 0.15,
        theta: float = 0.3,
        nscales: int = 5,
        warps: int = 5,
        epsilon: float = 0.01,
        innnerIterations: int = 30,  # the three n are OpenCV's
        outerIterations: int = 10,
        scaleStep: float = 0.8,
        gamma: float = 0.0,
        medianFiltering: int = 5,
        useInitialFlow: bool = False,
    ) -> DualTVL1OpticalFlow:
        """A solver with these parameters; ``fasti3d.TVL1Params`` says what they mean."""
        return DualTVL1OpticalFlow(
            {
                "tau": tau,
                "lambda_": lambda_,
                "theta": theta,
                "nscales": nscales,
                "warps": warps,
                "epsilon": epsilon,
                "inner_iterations": innnerIterations,
                "outer_iterations": outerIterations,
                "scale_step": scaleStep,
                "gamma": gamma,
                "median_filtering": medianFiltering,
                "use_initial_flow": useInitialFlow,
            }
        )

    def calc(
        self, I0: NDArray[Any], I1: NDArray[Any], flow: NDArray[Any] | None = None
    ) -> NDArray[np.float32]:
        """Flow from I0 to I1.

        Args:
            I0: grey image (H, W) or (H, W, 1), uint8, or float32 of 0 to 1.
            I1: another of the same shape and dtype.
            flow: with ``setUseInitialFlow(True)`` where to start from: float32 (H, W, 2).

        Returns:
            (H, W, 2) float32, in pixels, x first. It is ``flow``, overwritten, if that was given as
            float32 (H, W, 2).

        Raises:
            TypeError, ValueError: as ``fasti3d.tvl1`` and ``fasti3d.TVL1Params``; or the initial flow is
                to be used, and there is none of that shape and dtype.
        """
        values = dict(self._values)
        use_initial_flow = values.pop("use_initial_flow")
        first, second = _image("I0", I0), _image("I1", I1)
        shape = (*first.shape, 2)
        out = flow if flow is not None and flow.shape == shape and flow.dtype == np.float32 else None
        if use_initial_flow and out is None:
            got = "None" if flow is None else f"{flow.dtype} {flow.shape}"
            raise ValueError(
                f"flow must be float32 {shape} to start from, got {got}: pass such an array, or call "
                "setUseInitialFlow(False)"
            )
        start = out.transpose(2, 0, 1) if use_initial_flow and out is not None else None
        solved = tvl1(first, second, params=TVL1Params(**values), initial_flow=start).transpose(1, 2, 0)
        if out is None:
            return np.ascontiguousarray(solved)
        out[...] = solved
        return out

    def collectGarbage(self) -> None:
        """Does nothing: no memory is kept between calls."""

    getTau, setTau = _accessors("tau")
    getLambda, setLambda = _accessors("lambda_")
    getTheta, setTheta = _accessors("theta")
    getScalesNumber, setScalesNumber = _accessors("nscales")
    getWarpingsNumber, setWarpingsNumber = _accessors("warps")
    getEpsilon, setEpsilon = _accessors("epsilon")
    getInnerIterations, setInnerIterations = _accessors("inner_iterations")
    getOuterIterations, setOuterIterations = _accessors("outer_iterations")
    getScaleStep, setScaleStep = _accessors("scale_step")
    getGamma, setGamma = _accessors("gamma")
    getMedianFiltering, setMedianFiltering = _accessors("median_filtering")
    getUseInitialFlow, setUseInitialFlow = _accessors("use_initial_flow")


DualTVL1OpticalFlow_create = DualTVL1OpticalFlow.create


def createOptFlow_DualTVL1() -> DualTVL1OpticalFlow:
    """A solver with OpenCV's default parameters."""
    return DualTVL1OpticalFlow.create()


def _image(name: str, image: NDArray[Any]) -> NDArray[Any]:
    if not isinstance(image, np.ndarray):
        raise TypeError(f"{name} must be a NumPy array, got {type(image).__name__}")
    if image.ndim == 3 and image.shape[2] == 1:
        image = image[:, :, 0]
    if image.ndim != 2:
        raise ValueError(
            f"{name} must be a grey image (H, W), got shape {image.shape}: for colour, "
            "cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)"
        )
    return image
