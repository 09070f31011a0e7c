"""Chooses clips by a seed, the same on every machine."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from torch import Tensor

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Clip:
    """Consecutive frames of a video or an array.

    Attributes:
        frames: (T, H, W, 3).
        name: of the video, or the index in the array.
        start: the index of the first frame.
        length: the number of frames of the whole.
        rate: frames per second; None if unknown.
    """

    frames: Tensor
    name: str
    start: int
    length: int
    rate: float | None


@dataclass(frozen=True)
class Skipped:
    """A video that yielded no clip, and the reason."""

    name: str
    reason: str


def shuffled(items: Sequence[T], seed: int) -> list[T]:
    """Return all items in a random order."""
    return random.Random(seed).sample(items, len(items))


def clip_rng(seed: int, name: str) -> random.Random:
    """Return the random generator of one video, independent of all others."""
    return random.Random(f"{seed}/{name}")
