"""One of the two sets of clips that FVD compares: what is kept of it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fasti3d.metrics.statistics import Statistics


@dataclass(frozen=True, eq=False)
class Side:
    """What is known of some clips.

    Attributes:
        statistics: of their features.
        sizes: how many clips there are of each (height, width), before they were scaled.
        features: float64 (N, D), each clip's own; None where they are not kept.
    """

    statistics: Statistics
    sizes: Counter[tuple[int, int]]
    features: Tensor | None

    @classmethod
    def empty(cls, width: int, *, keep: bool) -> Side:
        """Of no clips. ``keep``: whether features will be kept."""
        features = torch.empty(0, width, dtype=torch.float64, device="cpu") if keep else None
        return cls(Statistics.empty(width), Counter(), features)

    @classmethod
    def of(cls, features: Tensor, size: tuple[int, int], *, keep: bool) -> Side:
        """Of clips of one size, by their features (N, D)."""
        return cls(Statistics.of(features), Counter({size: len(features)}), features if keep else None)

    @property
    def count(self) -> int:
        return self.statistics.count

    def merged(self, other: Side) -> Side:
        """Both together; features are kept where both have them."""
        features = None
        if self.features is not None and other.features is not None:
            features = torch.cat((self.features, other.features))
        return Side(self.statistics.merged(other.statistics), self.sizes + other.sizes, features)

    def state(self) -> dict[str, Any]:
        """All of it as tensors and plain numbers."""
        return {
            "count": self.count,
            "mean": self.statistics.mean.clone(),
            "scatter": self.statistics.scatter.clone(),
            "sizes": [[*size, count] for size, count in self.sizes.items()],
            "features": None if self.features is None else self.features.clone(),
        }

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Side:
        """What ``state`` gave, wherever its tensors are now."""
        here = ("cpu", torch.float64)
        mean, scatter = (state[name].to(*here) for name in ("mean", "scatter"))
        features = None if state["features"] is None else state["features"].to(*here)
        sizes = Counter({(int(h), int(w)): int(count) for h, w, count in state["sizes"]})
        return cls(Statistics(int(state["count"]), mean, scatter), sizes, features)
