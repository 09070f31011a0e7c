"""The parameters of TV-L1, under OpenCV's names and with its defaults."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from numbers import Integral, Real
from typing import Any, Literal

from fasti3d.tvl1_limits import check_params

Mode = Literal["opencv-cpu", "opencv-cuda"]


@dataclass(frozen=True)
class TVL1Params:
    """Parameters of ``fasti3d.tvl1``; the defaults are those of OpenCV's ``DualTVL1OpticalFlow``.

    Args:
        tau: time step of the dual update; tau / theta is what counts.
        lambda_: weight of the data term: smaller gives smoother flow.
        theta: coupling of the data term and the smoothness term.
        nscales: pyramid levels, the finest included; fewer where a side would fall under 16 pixels. At
            most 1000.
        warps: image linearizations per pyramid level, at most 1000; with 0 the initial flow, or none, comes
            back as it is scaled down and up again.
        epsilon: iterations of a warp stop when the root of the mean squared change of the flow falls to
            this, in pixels; 0 runs them all.
        inner_iterations: iterations between two medians.
        outer_iterations: medians and rounds of inner iterations per warp; the product of both is less than
            2**31.
        scale_step: size of a level over that of the next finer one, between 0 and 1.
        gamma: weight of an illumination term; 0 leaves it out.
        median_filtering: side of the median of the flow, 3 or 5; 0 and 1 mean none.
        mode: which of OpenCV's two forms. ``opencv-cpu`` is ``cv2.optflow.DualTVL1OpticalFlow``;
            ``opencv-cuda`` is ``cv2.cuda.OpticalFlowDual_TVL1``, which resizes and samples differently, has
            no median (``median_filtering`` is ignored), runs up to ``inner_iterations *
            outer_iterations`` iterations per warp, and checks for the stop less often. Either runs anywhere.

    theta, gamma, tau / theta and lambda_ * theta are at most 1e6: above it float32 overflows.

    Raises:
        ValueError: a value is out of its range.

    Source: Zach, Pock and Bischof, "A Duality Based Approach for Realtime TV-L1 Optical Flow", 2007.

    Example:
        >>> TVL1Params(nscales=3).warps
        5
    """

    tau: float = 0.25
    lambda_: float = 0.15
    theta: float = 0.3
    nscales: int = 5
    warps: int = 5
    epsilon: float = 0.01
    inner_iterations: int = 30
    outer_iterations: int = 10
    scale_step: float = 0.8
    gamma: float = 0.0
    median_filtering: int = 5
    mode: Mode = "opencv-cpu"

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if field.type == "float":
                ok = isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)
                self._require(field.name, ok, "be a finite number")
            elif field.type == "int":
                ok = isinstance(value, Integral) and not isinstance(value, bool)
                self._require(field.name, ok, "be a whole number")
        check_params(**{field.name: getattr(self, field.name) for field in fields(self)})

    def _require(self, name: str, ok: bool, what: str) -> None:
        if not ok:
            raise ValueError(f"{name} must {what}, got {getattr(self, name)!r}")

    @classmethod
    def preset(cls, name: str, **changes: Any) -> TVL1Params:
        """Return the parameters of a preset, one of ``PRESETS``, with ``changes`` to single fields.

        ``i3d``: OpenCV's defaults in its CPU form, the usual input of I3D's flow stream. ``opencv-cuda``:
        the same in its CUDA form. ``large-motion``: a pyramid of step 0.5, whose coarsest level is 16 times
        smaller instead of 2.4 times, for motion of more than about ten pixels per frame.

        Example:
            >>> TVL1Params.preset("large-motion", warps=3).scale_step
            0.5
        """
        if name not in PRESETS:
            raise ValueError(f"preset must be one of {', '.join(PRESETS)}, got {name!r}")
        return replace(PRESETS[name], **changes)


PRESETS: dict[str, TVL1Params] = {
    "i3d": TVL1Params(),
    "opencv-cuda": TVL1Params(mode="opencv-cuda"),
    "large-motion": TVL1Params(scale_step=0.5),
}
"""The presets by name; ``TVL1Params.preset`` says what each is for."""
