"""Checks of what users declare about clips, which the command line can run without importing torch."""

from __future__ import annotations

from fasti3d.choices import check_choice
from fasti3d.network import MIN_FRAMES

# Each with the order that makes (N, T, C, H, W) of it.
LAYOUTS = {"NTHWC": (0, 1, 4, 2, 3), "NCTHW": (0, 2, 1, 3, 4), "NTCHW": (0, 1, 2, 3, 4)}


def check_layout(layout: str) -> None:
    """Raise a ValueError for an unknown layout."""
    check_choice("layout", layout, LAYOUTS)


def check_range(value_range: tuple[float, float] | None) -> None:
    """Raise a ValueError unless the range is None, for uint8, or two numbers in increasing order."""
    if value_range is None:
        return
    try:
        low, high = value_range
        fits = -float("inf") < low < high < float("inf")
    except (TypeError, ValueError):  # not two numbers
        fits = False
    if not fits:
        raise ValueError(
            f"value_range must be black and white, as (0, 1), (-1, 1) or (0, 255), got {value_range!r}"
        )


def check_frames(frames: int) -> None:
    """Raise a ValueError for clips shorter than the network takes."""
    if frames < MIN_FRAMES:
        raise ValueError(
            f"clips must have at least {MIN_FRAMES} frames, the shortest that I3D takes, got {frames}: use "
            "longer clips; repeating frames also works but gives scores that are not comparable with others"
        )
