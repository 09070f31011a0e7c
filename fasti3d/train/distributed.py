"""What the processes of a run do together, as torchrun starts them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from fasti3d.runtime.devices import resolve_device
from fasti3d.train.evaluation.ranks import Ranks, own_device, ranks

T = TypeVar("T")

# The first process may index a data set or write a checkpoint while the others wait.
_PATIENCE = timedelta(hours=2)


@contextmanager
def joined(device: str) -> Iterator[tuple[Ranks, torch.device]]:
    """Join the processes that torchrun started, unless this program has, or there is one alone.

    Args:
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``; ``auto`` and ``cuda`` are the GPU of this process.

    Yields:
        The processes, and the device of this one.

    Raises:
        ValueError: the device is not there.
    """
    own = resolve_device(own_device(device))
    if own.type == "cuda":
        torch.cuda.set_device(own)
    if ranks().world > 1 or int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield ranks(), own
        return
    dist.init_process_group("nccl" if own.type == "cuda" else "gloo", timeout=_PATIENCE)
    try:
        yield ranks(), own
    finally:
        dist.destroy_process_group()


def from_first(make: Callable[[], T], group: Ranks) -> T:
    """Return what the first process makes; the others wait for it."""
    if group.world == 1:
        return make()
    box = [make() if group.leads else None]
    dist.broadcast_object_list(box, src=0)
    return box[0]  # type: ignore[return-value]


def total(values: Tensor, group: Ranks) -> Tensor:
    """Replace values by their sum over all processes, and return them."""
    if group.world > 1:
        dist.all_reduce(values)
    return values


def spread(tensors: Iterable[Tensor], group: Ranks) -> None:
    """Overwrite tensors by those of the first process."""
    if group.world > 1:
        for tensor in tensors:
            dist.broadcast(tensor.detach(), src=0)


def parallel(module: nn.Module, group: Ranks) -> nn.Module:
    """Return a module whose gradients are averaged over the processes."""
    return nn.parallel.DistributedDataParallel(module) if group.world > 1 else module
