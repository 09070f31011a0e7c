"""The processes that share the work, as ``torchrun`` starts them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, NamedTuple, TypeVar

import torch
from torch import distributed

T = TypeVar("T")

# Ranks wait for each other at the end only, and one may have longer videos than the others.
_PATIENCE = timedelta(days=30)


class Ranks(NamedTuple):
    """This process's number among all of ``world``, from 0."""

    rank: int
    world: int

    @property
    def leads(self) -> bool:
        return self.rank == 0

    def share(self, items: Sequence[T]) -> Sequence[T]:
        """Return this rank's part of the items: every ``world``-th. Parts may differ in length by one.

        Example:
            >>> Ranks(1, 3).share("abcde")
            'be'
        """
        return items[self.rank :: self.world]

    def wait(self) -> None:
        """Wait until every rank is here."""
        self.gathered(None)

    def gathered(self, value: T) -> list[T]:
        """Return the values of all ranks, in order. Each rank must call it."""
        found: list[Any] = [value]
        if self.world > 1:
            found = [None] * self.world
            distributed.all_gather_object(found, value)
        return found

    def led(self, work: Callable[[], object]) -> None:
        """Let rank 0 do something that the others wait for. Each rank must call it.

        Raises:
            Exception: What it raised, on every rank.
        """
        error: Exception | None = None
        if self.leads:
            try:
                work()
            except Exception as found:
                error = found
        if error is not None and self.world == 1:
            raise error
        if (error := self.gathered(error)[0]) is not None:
            raise error


def ranks() -> Ranks:
    """Return this process's place in torch's process group; alone if there is none."""
    if distributed.is_available() and distributed.is_initialized():
        return Ranks(distributed.get_rank(), distributed.get_world_size())
    return Ranks(0, 1)


@contextmanager
def launched() -> Iterator[Ranks]:
    """Join the process group of ``torchrun`` for the block, unless this process is in one, or alone.

    It is one of the CPU, whatever the device of the network: the ranks only exchange a few words.
    """
    if ranks().world > 1 or int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield ranks()
        return
    distributed.init_process_group("gloo", timeout=_PATIENCE)
    try:
        yield ranks()
    finally:
        distributed.destroy_process_group()


def own_device(device: str) -> str:
    """Return the device of this rank, where each has a GPU of its own: ``cuda:LOCAL_RANK``.

    Args:
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``, which is kept.
    """
    local = os.environ.get("LOCAL_RANK")
    if local is None or device not in ("auto", "cuda") or not torch.cuda.is_available():
        return device
    return f"cuda:{int(local) % torch.cuda.device_count()}"
