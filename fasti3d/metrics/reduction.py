"""The clips of all processes together."""

from __future__ import annotations

from collections import Counter

import torch
import torch.distributed as dist
from torch import Tensor

from fasti3d.metrics.side import Side
from fasti3d.metrics.statistics import Statistics


def distributed() -> bool:
    """Whether this is one of several processes of a torch.distributed group."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def reduced(side: Side) -> Side:
    """The clips of this side in all processes, the same in each. All processes must call it."""
    own = side.statistics
    first = torch.cat((own.mean.new_tensor([own.count]), own.count * own.mean))
    count, *_ = total = _summed(first)
    mean = total[1:] / count.clamp(min=1)
    # Each process moves its scatter to the common mean, after which they add up.
    shift = own.mean - mean
    scatter = _summed(own.scatter + own.count * torch.outer(shift, shift))
    others: list[tuple[Counter[tuple[int, int]], Tensor | None] | None] = [None] * dist.get_world_size()
    dist.all_gather_object(others, (side.sizes, side.features))
    sizes: Counter[tuple[int, int]] = Counter()
    kept = []
    for other in others:
        assert other is not None
        sizes += other[0]
        kept.append(other[1])
    features = torch.cat([part for part in kept if part is not None]) if None not in kept else None
    return Side(Statistics(int(count), mean, scatter), sizes, features)


def _summed(values: Tensor) -> Tensor:
    """The sum over all processes, where the group's backend can compute it."""
    place = torch.device("cuda", torch.cuda.current_device()) if dist.get_backend() == "nccl" else "cpu"
    values = values.to(place, copy=True)
    dist.all_reduce(values)
    return values.cpu()
