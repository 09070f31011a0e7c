"""Merges the clips of all processes."""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from fasti3d.metrics.side import Side
from fasti3d.metrics.statistics import Statistics


def distributed() -> bool:
    """Whether this is one of several processes of a torch.distributed group."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def reduced(side: Side, kind: tuple[int | None, str | None]) -> Side:
    """Return the clips of this side in all processes, the same in each. All processes must call it.

    ``kind``: the frames of a clip and the kind of its values, None if there are no clips yet.

    Raises:
        ValueError: processes whose clips differ in kind.
    """
    parts: list[tuple[Any, Counter[tuple[int, int]], Tensor | None]] = [(kind, side.sizes, side.features)]
    parts *= dist.get_world_size()
    dist.all_gather_object(parts, parts[0])
    kinds = {other for other, _, _ in parts if other[0] is not None}
    if len(kinds) > 1:
        raise ValueError(f"clips must be of one kind in all processes, got (frames, values) {sorted(kinds)}")
    sizes = sum((other for _, other, _ in parts), Counter())
    kept = [features for _, _, features in parts if features is not None]
    features = torch.cat(kept) if len(kept) == len(parts) else None
    own = side.statistics
    first = torch.cat((own.mean.new_tensor([own.count]), own.count * own.mean))
    count, *_ = total = _summed(first)
    mean = total[1:] / count.clamp(min=1)
    # Each process moves its scatter to the common mean, after which they add up.
    shift = own.mean - mean
    scatter = _summed(own.scatter + own.count * torch.outer(shift, shift))
    return Side(Statistics(int(count), mean, scatter), sizes, features)


def _summed(values: Tensor) -> Tensor:
    """The sum over all processes, where the group's backend can compute it."""
    place = torch.device("cuda", torch.cuda.current_device()) if dist.get_backend() == "nccl" else "cpu"
    values = values.to(place, copy=True)
    dist.all_reduce(values)
    return values.cpu()
