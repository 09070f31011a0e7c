"""Clips that were chosen by a seed, the same on every machine."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from torch import Tensor

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Clip:
    """Some frames in a row.

    Attributes:
        frames: (T, H, W, 3).
        name: of the video, or the place in the array, that it is from.
        start: its first frame there.
        length: how many frames there are.
        rate: frames a second, where that is known.
    """

    frames: Tensor
    name: str
    start: int
    length: int
    rate: float | None


@dataclass(frozen=True)
class Skipped:
    """A video that gave no clip, and why."""

    name: str
    reason: str


def shuffled(items: Sequence[T], seed: int) -> list[T]:
    """All items in a random order."""
    return random.Random(seed).sample(items, len(items))


def clip_rng(seed: int, name: str) -> random.Random:
    """Random numbers for one video, which depend on no other."""
    return random.Random(f"{seed}/{name}")
