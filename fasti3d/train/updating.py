"""One step of the optimizer, from the clips of its forward passes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fasti3d.train.data.batches import to_device
from fasti3d.train.data.clips import ClipSample
from fasti3d.train.distributed import parallel, total
from fasti3d.train.evaluation.ranks import Ranks
from fasti3d.train.learner import Learner
from fasti3d.train.settings import Recipe, TrainingError, TrainingSettings

HALVES = {"bf16": torch.bfloat16, "fp16": torch.float16, None: None}
_SHOWN = 8


@dataclass(frozen=True)
class Step:
    """What a step found.

    Attributes:
        loss: the mean cross-entropy of the step's clips over all processes, in nats.
        accuracy: the share of them whose class has the largest logit.
        norm: of the gradient before it is clipped; None where it is not.
        flags: the sum over all processes of what each gave.
    """

    loss: float
    accuracy: float
    norm: float | None
    flags: tuple[int, ...]


class Updater:
    """Takes steps of SGD.

    The loss of a step is the sum over its clips, of all parts and processes, divided by their number.

    Args:
        learner: the network.
        settings, recipe: of the run.
        group: the processes of the run.
        device: of this one.
    """

    def __init__(
        self, learner: Learner, settings: TrainingSettings, recipe: Recipe, group: Ranks, device: torch.device
    ) -> None:
        self.learner = learner
        self.half = HALVES[recipe.half]
        self.optimizer = torch.optim.SGD(
            learner.trained, lr=recipe.lr, momentum=settings.momentum, weight_decay=settings.weight_decay
        )
        self.scaler = torch.amp.GradScaler(device.type, enabled=recipe.half == "fp16")
        self._parallel = parallel(learner, group)
        self._settings = settings
        self._recipe = recipe
        self._group = group
        self._device = device

    def clips(self, samples: Sequence[ClipSample]) -> Tensor:
        """Return the network's input, on its device."""
        dtype = self.learner.model.logits.conv3d.weight.dtype
        return to_device(samples, self._device, dtype)

    def step(
        self, number: int, lr: float, parts: Sequence[Sequence[ClipSample]], flags: Sequence[int]
    ) -> Step:
        """Take a step.

        Args:
            number: of the step, from 0, from which with the seed and the rank the dropout is drawn.
            lr: the learning rate.
            parts: the clips of each forward pass.
            flags: numbers to be summed over the processes on the way.

        Raises:
            TrainingError: the loss is not finite; the weights have not been changed.
        """
        self.learner.train()
        _seed(self._settings.seed, number, self._group.rank)
        found = torch.zeros(2 + len(flags), dtype=torch.float64, device=self._device)
        found[2:] = torch.tensor(flags, dtype=torch.float64)
        for place, samples in enumerate(parts, 1):
            with self._gathering(last=place == len(parts)):
                found[:2] += self._backward(self._parallel, samples)
        own = found.clone()
        loss, right, *summed = total(found, self._group).tolist()
        count = self._recipe.global_batch
        if not math.isfinite(loss):
            self.optimizer.zero_grad(set_to_none=True)
            keys = [] if own[0].isfinite() else [sample.key for samples in parts for sample in samples]
            self._refuse(loss, number, [key for keys in self._group.gathered(keys) for key in keys])
        norm = self._update(lr)
        return Step(loss / count, right / count, norm, tuple(round(value) for value in summed))

    def _gathering(self, *, last: bool) -> Any:
        """Gradients are averaged over the processes once per step, with its last part."""
        return nullcontext() if last or self._group.world == 1 else self._parallel.no_sync()  # type: ignore[operator]

    def probe(self, samples: Sequence[ClipSample]) -> None:
        """Do the work of one part on this process alone, and change nothing but batch norm's statistics."""
        self.learner.train()
        self._backward(self.learner, samples)
        self.optimizer.zero_grad(set_to_none=True)

    def _backward(self, module: nn.Module, samples: Sequence[ClipSample]) -> Tensor:
        """Add a part's gradients, and return its loss and number of right answers."""
        clips = self.clips(samples)
        labels = torch.tensor([sample.label for sample in samples], device=self._device)
        with torch.autocast(self._device.type, self.half, enabled=self.half is not None):
            logits = module(clips)
        if logits.dtype is not torch.float64:
            logits = logits.float()
        loss = F.cross_entropy(logits, labels, reduction="sum")
        # DistributedDataParallel divides by the processes.
        share = self._group.world / self._recipe.global_batch
        self.scaler.scale(loss * share).backward()
        right = (logits.argmax(1) == labels).sum()
        return torch.stack([loss.detach().double(), right.double()])

    def _update(self, lr: float) -> float | None:
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        norm = None
        if self._settings.clip_norm is not None:
            self.scaler.unscale_(self.optimizer)
            norm = float(nn.utils.clip_grad_norm_(self.learner.trained, self._settings.clip_norm))
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        return norm

    def _refuse(self, loss: float, number: int, keys: list[str]) -> None:
        more = len(keys) - _SHOWN
        names = ", ".join(keys[:_SHOWN]) + (f" and {more} more" if more > 0 else "")
        raise TrainingError(
            f"the loss of step {number + 1} is {loss}, with the clips of {names}: the last checkpoint is"
            " kept; look at these files, or train with a smaller --lr, --clip-norm or --amp off"
        )


def _seed(seed: int, step: int, rank: int) -> None:
    """Draw the random numbers of a step from these alone: a resumed run needs no generator's state."""
    torch.manual_seed(int(np.random.SeedSequence((seed, step, rank)).generate_state(1, np.uint64)[0]))
