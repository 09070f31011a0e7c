"""Checks the clips that users give; nothing about them is guessed."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from numpy.typing import NDArray
from torch import Tensor

from fasti3d.flow.arrays import as_tensor
from fasti3d.metrics.limits import LAYOUTS, check_frames, check_layout, check_range

# The kind of a clip's values: bytes, or floating point of any precision.
Values = Literal["uint8", "float"]

# Tolerance for values that a filter overshot by rounding, as a fraction of the range.
_ROUNDING = 1e-3
# Values of 0 to 1 that are declared as 0 to 255 fill less of the range than this.
_SURELY_NARROW = 1 / 64
# Values of 0 to 1 nearly always include some below this; values of -1 to 1 that are all positive do not.
_SURELY_DARK = 0.05


@dataclass(frozen=True)
class ClipFormat:
    """What the user declared about clips.

    Attributes:
        layout: their axes, a name in ``LAYOUTS``.
        value_range: black and white of floating-point clips; None if not declared. uint8 is 0 to 255.
        doubts: the warnings given so far, once each.

    Raises:
        ValueError: an unknown layout or an empty range.
    """

    layout: str
    value_range: tuple[float, float] | None
    doubts: set[str] = field(default_factory=set, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        check_layout(self.layout)
        check_range(self.value_range)

    def limits(self, dtype: torch.dtype) -> tuple[float, float]:
        """Return black and white of clips of a dtype."""
        if dtype == torch.uint8:
            return 0.0, 255.0
        assert self.value_range is not None
        return self.value_range

    def check(self, clips: NDArray[Any] | Tensor) -> Tensor:
        """Check clips, and return them as a view (N, T, C, H, W).

        Raises:
            TypeError: neither a NumPy array nor a tensor.
            ValueError: another layout, dtype or range than declared, values that are not finite, or
                fewer frames than the network takes.
        """
        x = as_tensor("clips", clips)
        if x.ndim != 5:
            hint = " (add the axis of clips with clips[None])" if x.ndim == 4 else ""
            raise ValueError(f"clips must have 5 axes, {self.layout}, got shape {tuple(x.shape)}{hint}")
        channels = x.shape[self.layout.index("C")]
        if channels != 3:
            fitting = [name for name in LAYOUTS if x.shape[name.index("C")] == 3]
            hint = f"say layout={' or '.join(map(repr, fitting))}" if fitting else "convert them to RGB"
            raise ValueError(
                f"clips must have 3 channels on axis {self.layout.index('C')} in layout {self.layout}, got "
                f"shape {tuple(x.shape)}: {hint}"
            )
        x = x.permute(LAYOUTS[self.layout])
        if 0 in x.shape:
            raise ValueError(f"clips must not be empty, got shape {tuple(clips.shape)}")
        check_frames(x.shape[1])
        self._check_values(x)
        return x

    def _check_values(self, x: Tensor) -> None:
        whole = x.dtype == torch.uint8
        if not (whole or x.is_floating_point()):
            raise ValueError(
                f"clips must be uint8 (0 to 255) or floating point with a value_range, got {x.dtype}: "
                "convert them"
            )
        if self.value_range is None and not whole:
            raise ValueError(
                f"clips are {x.dtype}, whose range is not known: say value_range=(0, 1), (-1, 1) or (0, "
                "255), or give uint8"
            )
        low, high = self.limits(x.dtype)
        minimum, maximum = torch.stack(torch.aminmax(x)).tolist()
        if not (abs(minimum) < float("inf") and abs(maximum) < float("inf")):
            raise ValueError("clips must be finite, but hold NaN or infinity: check where they come from")
        slack = _ROUNDING * (high - low)
        if minimum < low - slack or maximum > high + slack:
            raise ValueError(
                f"clips must lie in their value_range of {low:g} to {high:g}, but have values from "
                f"{minimum:.4g} to {maximum:.4g}: give their range, or clamp what a filter overshot"
            )
        doubt = ""
        if low < maximum and maximum - low < _SURELY_NARROW * (high - low):
            question = "were they scaled by 255 before they became uint8" if whole else "is that their range"
            doubt = f"nearly black in their value_range of {low:g} to {high:g}: {question}?"
        elif low < 0 <= minimum < _SURELY_DARK * high < maximum <= 1:
            doubt = f"which look like 0 to 1 in their value_range of {low:g} to {high:g}: if so, say (0, 1)"
        if doubt and doubt not in self.doubts:
            self.doubts.add(doubt)
            warnings.warn(
                f"clips have values from {minimum:.4g} to {maximum:.4g}, {doubt}", UserWarning, stacklevel=4
            )
