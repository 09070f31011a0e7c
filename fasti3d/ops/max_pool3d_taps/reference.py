"""The max-pool with taps and its gradient in plain PyTorch, tap by tap, for every dtype and device."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor

from fasti3d.same_padding import pad_same, same_padding


def _places(kernel: Sequence[int], stride: Sequence[int], size: Sequence[int]) -> Iterator[tuple[slice, ...]]:
    """Where each tap of all windows lies in a padded map, for results of ``size``."""
    axes = [
        [slice(k, k + (n - 1) * s + 1, s) for k in range(taps)]
        for taps, s, n in zip(kernel, stride, size, strict=True)
    ]
    for place in product(*axes):
        yield (slice(None), slice(None), *place)


def max_pool3d_taps_reference(
    x: Tensor, kernel: Sequence[int], stride: Sequence[int], out: Tensor, taps: Tensor
) -> None:
    # A tap in the padding never wins, not even where all values are -inf.
    padded = pad_same(x, kernel, stride, float("-inf"))
    inside = pad_same(torch.ones_like(x[:1, :1], dtype=torch.uint8), kernel, stride).bool()
    best = torch.full_like(out, float("-inf"))
    winner = torch.zeros_like(taps)
    found = torch.zeros_like(taps, dtype=torch.bool)
    for tap, place in enumerate(_places(kernel, stride, out.shape[2:])):
        value, real = padded[place], inside[place]
        better = real & (~found | (value > best) | value.isnan())
        best = torch.where(better, value, best)
        winner = winner.masked_fill(better, tap)
        found = found | real
    out.copy_(best)
    taps.copy_(winner)


def max_pool3d_taps_backward_reference(
    grad: Tensor, taps: Tensor, kernel: Sequence[int], stride: Sequence[int], out: Tensor
) -> None:
    pads = [same_padding(n, k, s) for n, k, s in zip(out.shape[2:], kernel, stride, strict=True)]
    padded = F.pad(torch.zeros_like(out), [side for pad in reversed(pads) for side in pad])
    padded = padded.to(torch.promote_types(out.dtype, torch.float32))
    for tap, place in enumerate(_places(kernel, stride, grad.shape[2:])):
        padded[place] += grad.masked_fill(taps != tap, 0)
    for axis, ((front, _), n) in enumerate(zip(pads, out.shape[2:], strict=True), start=2):
        padded = padded.narrow(axis, front, n)
    out.copy_(padded)
