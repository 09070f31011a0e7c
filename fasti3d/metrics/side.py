"""What is kept of one of the two sets of clips that FVD compares."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fasti3d.metrics.statistics import Statistics
from fasti3d.utils.parsing import brief, first_line

_MAX_LOGIT = torch.finfo(torch.float32).max
_MAX_COUNT = 1 << 53  # whole numbers that float64 can count


@dataclass(frozen=True, eq=False)
class Side:
    """What is kept of a set of clips.

    Attributes:
        statistics: of their features.
        sizes: the number of clips of each (height, width), before scaling.
        features: float64 (N, D), one row per clip; None if they are not kept.
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
        """Return everything as tensors and plain numbers."""
        return {
            "count": self.count,
            "mean": self.statistics.mean.clone(),
            "scatter": self.statistics.scatter.clone(),
            "sizes": [[*size, count] for size, count in self.sizes.items()],
            "features": None if self.features is None else self.features.clone(),
        }

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Side:
        """Rebuild what ``state`` returned, from tensors on any device.

        Raises:
            ValueError: the state is not that of clips.
        """
        try:
            count, sizes = state["count"], [tuple(size) for size in state["sizes"]]
            here = ("cpu", torch.float64)
            mean, scatter = (state[name].to(*here) for name in ("mean", "scatter"))
            features = None if state["features"] is None else state["features"].to(*here)
            whole = all(type(n) is int and 0 <= n < _MAX_COUNT for size in [(count,), *sizes] for n in size)
        except (LookupError, TypeError, AttributeError, ValueError) as error:
            raise ValueError(f"it is not what was kept of clips: {first_line(error)}") from error
        if not whole or any(len(size) != 3 for size in sizes) or sum(n for _, _, n in sizes) != count:
            raise ValueError(f"it declares {brief(count)} clips, of sizes {brief(sizes)}")
        width = mean.numel()
        expected = [(width,), (width, width), (count, width)]
        tensors = [mean, scatter] if features is None else [mean, scatter, features]
        shapes = [tuple(tensor.shape) for tensor in tensors]
        if not width or shapes != expected[: len(shapes)]:
            raise ValueError(f"its mean, scatter and features have shapes {brief(shapes)} for {count} clips")
        limits = (_MAX_LOGIT, 4 * _MAX_LOGIT**2 * max(count, 1), _MAX_LOGIT)
        if not all(bool((x.abs() <= limit).all()) for x, limit in zip(tensors, limits, strict=False)):
            raise ValueError("it holds NaN, or numbers beyond float32 logits")
        if (scatter.diagonal() < 0).any() or not torch.allclose(scatter, scatter.mT):
            raise ValueError("its scatter must be symmetric, with a diagonal of 0 or more")
        return cls(Statistics(count, mean, scatter), Counter({(h, w): n for h, w, n in sizes}), features)
