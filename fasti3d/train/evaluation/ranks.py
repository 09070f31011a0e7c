"""The processes that share the work, as ``torchrun`` starts them."""

from __future__ import annotations

import atexit
import os
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any, NamedTuple, TypeVar

import torch
from torch import distributed

T = TypeVar("T")

# Ranks wait for each other at the end only, and one may have longer videos than the others.
_PATIENCE = timedelta(days=30)


class Ranks(NamedTuple):
    """This process's number among all of ``world``, from 0, and torch's group in which they talk."""

    rank: int
    world: int
    group: Any = None

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
            distributed.all_gather_object(found, value, self.group)
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
    """Return this process's place in torch's process group; alone if there is none.

    Where there are several, each rank must call it.
    """
    if not (distributed.is_available() and distributed.is_initialized()):
        return Ranks(0, 1)
    rank, world = distributed.get_rank(), distributed.get_world_size()
    return Ranks(rank, world, _patient_group()) if world > 1 else Ranks(0, 1)


def joined() -> Ranks:
    """Join the process group of ``torchrun``, unless this process is in one already, or alone.

    It is left at the end of the process: another one could not be joined at the same address.
    """
    is_launched = int(os.environ.get("WORLD_SIZE", "1")) > 1 and distributed.is_available()
    if is_launched and not distributed.is_initialized():
        distributed.init_process_group("gloo")
        atexit.register(distributed.destroy_process_group)
    return ranks()


_patient: list[tuple[object, Any]] = []


def _patient_group() -> Any:
    """The group in which all ranks talk on the CPU, with the patience that long videos ask for."""
    whole = distributed.group.WORLD
    if not _patient or _patient[0][0] is not whole:
        _patient[:] = [(whole, distributed.new_group(backend="gloo", timeout=_PATIENCE))]
    return _patient[0][1]


def own_device(device: str) -> str:
    """Return the device of this rank, where each has a GPU of its own: ``cuda:LOCAL_RANK``.

    Args:
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``, which is kept.
    """
    local = os.environ.get("LOCAL_RANK")
    if local is None or device not in ("auto", "cuda") or not torch.cuda.is_available():
        return device
    return f"cuda:{int(local) % torch.cuda.device_count()}"
