"""What the options of several verbs have in common."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import typer


def at_least(least: int) -> Callable[[int], int]:
    """A check of an option that names the value it got, which typer's own ``min`` does not."""

    def check(value: int) -> int:
        if value < least:
            raise typer.BadParameter(f"must be at least {least}, got {value}")
        return value

    return check


def to_shape(text: str) -> list[int]:
    """``N,C,T,H,W``, five or any other number of whole numbers, none below 0."""
    try:
        sizes = [int(size) for size in text.split(",")]
    except ValueError:
        raise typer.BadParameter(
            f"must be five whole numbers, N,C,T,H,W, got {text!r}", param_hint="--shape"
        ) from None
    if min(sizes) < 0:
        raise typer.BadParameter(f"must not be below 0, got {text!r}", param_hint="--shape")
    return sizes


def to_rate(text: str) -> float | None:
    """``native`` as None, else a number above 0."""
    if text == "native":
        return None
    try:
        rate = float(text)
    except ValueError:
        rate = 0.0
    if not 0 < rate < float("inf"):
        raise typer.BadParameter(f"must be a number above 0, or native, got {text!r}", param_hint="--fps")
    return rate


def expected_frames(path: Path, fps: float | None) -> float | None:
    """How many frames will be sampled, as far as the file says."""
    from fasti3d.video import probe

    info = probe(path)
    rate = fps or info.fps
    return info.duration * rate if info.duration and rate else info.frames
