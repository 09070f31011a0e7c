"""What may be said about clips, where the command line can check it without importing torch."""

from __future__ import annotations

from fasti3d.choices import check_choice
from fasti3d.network import MIN_FRAMES

# Each with the order that makes (N, T, C, H, W) of it.
LAYOUTS = {"NTHWC": (0, 1, 4, 2, 3), "NCTHW": (0, 2, 1, 3, 4), "NTCHW": (0, 1, 2, 3, 4)}


def check_layout(layout: str) -> None:
    """ValueError for axes that no clips have."""
    check_choice("layout", layout, LAYOUTS)


def check_range(value_range: tuple[float, float] | None) -> None:
    """ValueError for anything but a range that is not empty; None is right where clips are uint8."""
    if value_range is None:
        return
    try:
        low, high = value_range
        fits = -float("inf") < low < high < float("inf")
    except (TypeError, ValueError):  # no two numbers
        fits = False
    if not fits:
        raise ValueError(
            f"value_range must be black and white, as (0, 1), (-1, 1) or (0, 255), got {value_range!r}"
        )


def check_frames(frames: int) -> None:
    """ValueError for clips shorter than the network takes."""
    if frames < MIN_FRAMES:
        raise ValueError(
            f"clips must have at least {MIN_FRAMES} frames, the shortest that I3D takes, got {frames}: use "
            "longer clips; repeating frames also works but gives scores that compare with no others"
        )
