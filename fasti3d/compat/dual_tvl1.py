"""``DualTVL1OpticalFlow`` with the interface of OpenCV's optflow module, on the solver of ``fasti3d.tvl1``.

Change ``from cv2 import optflow`` to ``from fasti3d.compat import dual_tvl1 as optflow``.

Unlike with OpenCV, torch's threads do not survive a fork, so ``calc`` would hang in a process forked after
the first call. Start workers with ``spawn``, or call ``torch.set_num_threads(1)`` first in each.
"""

# ruff: noqa: N802, N803, N815 - the names are OpenCV's

from __future__ import annotations

import json
import operator
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fasti3d.flow.frames import as_images, as_start, check_alike
from fasti3d.flow.params import TVL1Params
from fasti3d.ops.tvl1.checks import check_values
from fasti3d.ops.tvl1.reference import Settings, solve_pairs
from fasti3d.tvl1_limits import max_frame_value

# The parameters in the order of ``create``, under the names of ``TVL1Params``, in the types OpenCV keeps.
_KINDS: dict[str, type] = {
    "tau": float,
    "lambda_": float,
    "theta": float,
    "nscales": int,
    "warps": int,
    "epsilon": float,
    "inner_iterations": int,
    "outer_iterations": int,
    "scale_step": float,
    "gamma": float,
    "median_filtering": int,
    "use_initial_flow": bool,
}
# At these limits OpenCV solves the remaining problem, and so does the solver in plain PyTorch: without
# iterations, smoothing or data term, or with all levels of one size.
_LIMITS = {"inner_iterations": 0, "outer_iterations": 0, "tau": 0, "lambda_": 0, "scale_step": 1}

_FILE_NODE_MAP = 5  # cv2.FILE_NODE_MAP


def _accessors(name: str) -> tuple[Callable[..., Any], Callable[..., None]]:
    def get(self: DualTVL1OpticalFlow) -> Any:
        return self._values[name]

    def put(self: DualTVL1OpticalFlow, val: Any) -> None:
        self._values[name] = _converted("val", val, _KINDS[name])

    get.__doc__ = f"Return ``{name}`` of ``fasti3d.TVL1Params``."
    put.__doc__ = f"Set ``{name}`` of ``fasti3d.TVL1Params``."
    return get, put


class DualTVL1OpticalFlow:
    """TV-L1 optical flow with the interface of ``cv2.optflow.DualTVL1OpticalFlow``.

    Create one with ``create()``. As in OpenCV, parameters are checked when they are used: a wrong one is an
    error of the next ``calc``.

    Unlike in OpenCV, an image too small for all scales does not lower the number of scales for later images;
    frames that are not finite are refused, and so are parameters with which OpenCV's flow diverges (tau,
    lambda or theta below 0); and ``save`` writes the parameters, where OpenCV's fails over the dot in its own
    name.

    Example:
        >>> DualTVL1OpticalFlow.create(nscales=3).getScalesNumber()
        3
    """

    def __init__(self, values: dict[str, Any]) -> None:
        self._values = {name: _converted(name, values[name], kind) for name, kind in _KINDS.items()}

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
        """Create a solver; ``fasti3d.TVL1Params`` documents the parameters.

        As in OpenCV, every ``medianFiltering`` up to 1 means none; with ``warps``, ``innnerIterations`` or
        ``outerIterations`` of 0 or less nothing is iterated; the signs of ``epsilon`` and ``gamma`` are
        ignored.
        """
        given = (
            *(tau, lambda_, theta, nscales, warps, epsilon, innnerIterations, outerIterations),
            *(scaleStep, gamma, medianFiltering, useInitialFlow),
        )
        return DualTVL1OpticalFlow(dict(zip(_KINDS, given, strict=True)))

    def calc(self, I0: Any, I1: Any, flow: Any) -> Any:
        """Compute the flow from I0 to I1.

        Args:
            I0: grayscale image (H, W) or (H, W, 1), uint8 of 0 to 255, or float32, which is multiplied by 255
                (0 to 1 fits the parameters; other ranges are accepted, as by OpenCV). NumPy, or a
                ``cv2.UMat``.
            I1: another of the same shape and dtype.
            flow: None, or the output; with ``setUseInitialFlow(True)`` also the initial flow: float32
                (H, W, 2), NumPy or a ``cv2.UMat``.

        Returns:
            float32 (H, W, 2), in pixels, x first: a ``cv2.UMat`` if one of the arguments is, else NumPy. It
            is ``flow``, overwritten, if that is float32 (H, W, 2).

        Raises:
            TypeError, ValueError: as ``fasti3d.tvl1`` and ``fasti3d.TVL1Params``; or an initial flow of
                that shape and dtype is required.
        """
        umat = next((type(array) for array in (I0, I1, flow) if _is_umat(array)), None)
        first, second = _image("I0", I0), _image("I1", I1)
        images = [as_images(name, image, any_range=True) for name, image in (("I0", first), ("I1", second))]
        largest = max_frame_value(self._values["lambda_"], self._values["theta"])
        for name, image in zip(("I0", "I1"), images, strict=True):
            check_values(name, image, -largest, largest)
        check_alike("I0", first, "I1", second)
        shape = (*first.shape, 2)
        given = _array(flow)
        fits = isinstance(given, np.ndarray) and given.shape == shape and given.dtype == np.float32
        start = None
        if self.getUseInitialFlow():
            if not fits:
                got = "None" if given is None else f"{getattr(given, 'dtype', '')} {np.shape(given)}"
                raise ValueError(
                    f"flow must be float32 {shape} to start from, got {got}: pass such an array, or call "
                    "setUseInitialFlow(False)"
                )
            planes = given.transpose(2, 0, 1)
            start = as_start("flow", planes, planes.shape)
        solved, _ = self._solver()(images[0], images[1], start)
        result = np.ascontiguousarray(solved[0].numpy().transpose(1, 2, 0))
        if not fits:
            return result if umat is None else umat(result)
        if _is_umat(flow):
            sys.modules["cv2"].copyTo(result, None, flow)  # loaded, since it made the UMat
            return flow
        flow[...] = result
        return flow if umat is None else umat(flow)

    def collectGarbage(self) -> None:
        """Do nothing: no memory is kept between calls."""

    def clear(self) -> None:
        """Do nothing, as OpenCV, which keeps the parameters."""

    def empty(self) -> bool:
        """Return False, as OpenCV."""
        return False

    def getDefaultName(self) -> str:
        """Return OpenCV's name of this algorithm."""
        return "DenseOpticalFlow.DualTVL1OpticalFlow"

    def save(self, filename: str | os.PathLike[str]) -> None:
        """Write the parameters to a file that ``cv2.FileStorage`` reads: XML, JSON or, otherwise, YAML.

        Raises:
            OSError: a file that cannot be written.
        """
        path = Path(filename)
        values = {name: int(v) if isinstance(v, bool) else v for name, v in self._values.items()}
        if path.suffix == ".json":
            text = json.dumps(values, indent=4) + "\n"
        elif path.suffix == ".xml":
            lines = [f"<{name}>{value!r}</{name}>" for name, value in values.items()]
            text = "\n".join(['<?xml version="1.0"?>', "<opencv_storage>", *lines, "</opencv_storage>", ""])
        else:
            text = "\n".join(["%YAML:1.0", "---", *(f"{k}: {v!r}" for k, v in values.items()), ""])
        path.write_text(text)

    def write(self, fs: Any, name: str = "") -> None:
        """Write the parameters to a ``cv2.FileStorage``, with ``name`` into a map of that name."""
        if name:
            fs.startWriteStruct(name, _FILE_NODE_MAP)
        for key, value in self._values.items():
            fs.write(key, value if isinstance(value, float) else int(value))
        if name:
            fs.endWriteStruct()

    def read(self, fn: Any) -> None:
        """Read the parameters from a ``cv2.FileNode``, as ``write`` and ``save`` wrote them."""
        for name, kind in _KINDS.items():
            node = fn.getNode(name)
            if not node.empty():
                self._values[name] = kind(node.real())

    def _solver(self) -> Callable[..., Any]:
        """Return the solver of two images and an initial flow: the operator, or at its limits the reference.

        Raises:
            ValueError: neither takes the parameters.
        """
        values = {name: value for name, value in self._values.items() if name != "use_initial_flow"}
        values["epsilon"], values["gamma"] = abs(values["epsilon"]), abs(values["gamma"])
        values["median_filtering"] = max(values["median_filtering"], 0)
        for name in ("warps", "inner_iterations", "outer_iterations"):
            values[name] = max(values[name], 0)
        limits = {name: values[name] for name, limit in _LIMITS.items() if values[name] == limit}
        TVL1Params(**{name: value for name, value in values.items() if name not in limits})
        if limits:
            settings = Settings("opencv-cpu", **values)
            return lambda first, second, start: solve_pairs(first, second, start, settings)
        return lambda first, second, start: torch.ops.fasti3d.tvl1(
            first, second, start, "opencv-cpu", **values
        )

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
    """Create a solver with OpenCV's default parameters."""
    return DualTVL1OpticalFlow.create()


def _converted(name: str, value: Any, kind: type) -> Any:
    """The value as OpenCV keeps it.

    Raises:
        TypeError: a value that does not stand for one of that type.
    """
    try:
        return operator.index(value) if kind is int else kind(value)
    except (TypeError, ValueError):
        wanted = "a whole number" if kind is int else "a number"
        raise TypeError(f"{name} must be {wanted}, got {value!r}") from None


def _is_umat(array: Any) -> bool:
    return type(array).__name__ == "UMat"


def _array(array: Any) -> Any:
    return array.get() if _is_umat(array) else array


def _image(name: str, image: Any) -> NDArray[Any]:
    image = _array(image)
    if not isinstance(image, np.ndarray):
        raise TypeError(f"{name} must be a NumPy array or a cv2.UMat, got {type(image).__name__}")
    if image.ndim == 3 and image.shape[2] == 1:
        image = image[:, :, 0]
    if image.ndim != 2:
        raise ValueError(
            f"{name} must be a grayscale image (H, W), got shape {image.shape}: for color, "
            "cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)"
        )
    return image
