"""Batch norm statistics computed anew from many batches, as a short run needs before it is evaluated."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from fasti3d.i3d import I3D
from fasti3d.train.distributed import total
from fasti3d.train.evaluation.ranks import Ranks
from fasti3d.train.learner import batch_norms


@contextmanager
def precise_statistics(
    model: I3D, clips: Iterable[Tensor], group: Ranks, half: torch.dtype | None
) -> Iterator[None]:
    """Inside, the running statistics of a network are those of these clips, and its own again afterwards.

    The mean and the variance of all clips' values are combined from those of each batch, of all processes.
    Running averages of a few hundred steps with momentum .001 are mostly the statistics that training started
    from (SlowFast's "precise BN").

    Args:
        model: whose; its mode is kept.
        clips: batches of the network's input.
        group: the processes, each with batches of its own.
        half: the dtype of mixed precision, None for none.
    """
    norms = batch_norms(model)
    kept = [{name: buffer.clone() for name, buffer in norm.named_buffers()} for norm in norms]
    try:
        found = _pooled(model, norms, clips, group, half)
        for norm, (mean, var) in zip(norms, found, strict=True):
            _set(norm.running_mean, mean)
            _set(norm.running_var, var)
        yield
    finally:
        for norm, buffers in zip(norms, kept, strict=True):
            for name, buffer in norm.named_buffers():
                _set(buffer, buffers[name])


@torch.no_grad()
def _pooled(
    model: I3D, norms: list[_BatchNorm], clips: Iterable[Tensor], group: Ranks, half: torch.dtype | None
) -> list[tuple[Tensor, Tensor]]:
    """Mean and variance of each batch norm's input over all batches."""
    modes = {part: part.training for part in model.modules()}
    momenta = [norm.momentum for norm in norms]
    sums = [
        torch.zeros(2, norm.num_features, dtype=torch.float64, device=_mean(norm).device) for norm in norms
    ]
    count = 0
    model.train()
    try:
        for norm in norms:
            norm.momentum = 1.0  # the statistics then are the last batch's
        for clip in clips:
            with torch.autocast(clip.device.type, half, enabled=half is not None):
                model.forward_features(clip)
            for norm, pair in zip(norms, sums, strict=True):
                mean = _mean(norm).double()
                pair[0] += mean
                pair[1] += _var(norm).double() + mean.square()
            count += 1
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        for part, mode in modes.items():
            part.training = mode
    whole = total(torch.cat([pair.flatten() for pair in sums]), group)
    batches = total(whole.new_tensor(float(count)), group)
    found = []
    for values in (whole / batches).split([2 * norm.num_features for norm in norms]):
        mean, square = values.view(2, -1)
        found.append((mean, (square - mean.square()).clamp(min=0)))
    return found


def _mean(norm: _BatchNorm) -> Tensor:
    assert norm.running_mean is not None
    return norm.running_mean


def _var(norm: _BatchNorm) -> Tensor:
    assert norm.running_var is not None
    return norm.running_var


def _set(buffer: Tensor | None, value: Tensor) -> None:
    assert buffer is not None
    with torch.no_grad():
        buffer.copy_(value)
