"""How much memory a step takes, estimated from one clip, and which batch would fit."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from fasti3d.train.data.clips import ClipSample
from fasti3d.train.settings import TrainingError
from fasti3d.train.updating import Updater
from fasti3d.utils.resources import is_resource_error

# Of the device's memory, what a step may take: allocators lose some to gaps.
_USABLE = 0.92


@dataclass(frozen=True)
class Memory:
    """What a step takes, in bytes.

    Attributes:
        fixed: weights, gradients, the optimizer's momentum and averages of the weights.
        per_clip: what is kept of a clip for the backward pass, and the clip; on a GPU all that it takes.
        available: of the device in all.
    """

    fixed: int
    per_clip: int
    available: int

    def needed(self, batch: int) -> int:
        """Return what a step of so many clips per forward pass takes."""
        return self.fixed + batch * self.per_clip

    def fitting(self) -> int:
        """Return the largest batch that fits, 0 if none does."""
        return max(0, int((_USABLE * self.available - self.fixed) // max(self.per_clip, 1)))


def measured(updater: Updater, sample: ClipSample, *, averaged: bool, device: torch.device) -> Memory:
    """Measure a forward and backward pass of one clip.

    Args:
        updater: of the run.
        sample: the clip.
        averaged: whether an average of the weights is kept.
        device: where it runs.
    """
    model = updater.learner.model
    weights = _bytes(model.state_dict().values())
    trained = _bytes(updater.learner.trained)
    fixed = weights * (2 if averaged else 1) + 2 * trained
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        updater.probe([sample])
        # Gradients are of the fixed part.
        per_clip = torch.cuda.max_memory_allocated(device) - before - trained
        return Memory(fixed, max(per_clip, 0), torch.cuda.mem_get_info(device)[1])
    with _counting_saved(updater) as saved:
        updater.probe([sample])
    clip = updater.clips([sample])
    return Memory(fixed, sum(saved.values()) + clip.numel() * clip.element_size(), _physical())


def explained(
    updater: Updater,
    samples: Sequence[ClipSample],
    *,
    averaged: bool,
    device: torch.device,
) -> TrainingError:
    """Return what to tell of a step for which memory did not suffice.

    Args:
        updater: of the run.
        samples: the clips of a forward pass.
        averaged, device: as for ``measured``.
    """
    batch = len(samples)
    updater.optimizer.zero_grad(set_to_none=True)
    start = f"memory ran out in a step of {batch} clips per forward pass"
    try:
        memory = measured(updater, samples[0], averaged=averaged, device=device)
    except Exception as again:
        if not is_resource_error(again):
            raise
        return TrainingError(
            f"{start}, and one clip does not fit either: end what else uses the device, or try --amp bf16,"
            " --freeze trunk or another device"
        )
    fits = min(memory.fitting(), batch - 1)
    if fits < 1:
        return TrainingError(
            f"{start}: about {size(memory.needed(batch))} of {size(memory.available)} are needed; end what"
            " else uses the device, or try --amp bf16, --freeze trunk or another device"
        )
    return TrainingError(
        f"{start}: about {size(memory.needed(batch))} are needed and {size(memory.available)} are there;"
        f" --batch {fits} would fit, and --accumulate {-(-batch // fits)} with it keeps the clips per step"
    )


def size(count: float) -> str:
    """Return a number of bytes for people.

    Example:
        >>> size(3_200_000_000)
        '3.2 GB'
    """
    return f"{count / 1e9:.1f} GB" if count >= 1e8 else f"{count / 1e6:.1f} MB"


@contextmanager
def _counting_saved(updater: Updater) -> Iterator[dict[int, int]]:
    """Yield the bytes of each memory that is kept for the backward pass, but for the weights."""
    weights = {tensor.untyped_storage().data_ptr() for tensor in updater.learner.model.state_dict().values()}
    saved: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        yield saved


def _bytes(tensors: object) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)  # type: ignore[attr-defined]


def _physical() -> int:
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 0
