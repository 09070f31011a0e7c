"""What is proved: a kernel's configuration on a problem of few tiles that is otherwise the real one."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

# Two-byte values in a cache line: gaps between rows are cut to less than twice as many.
_LINE = 64


class Subject(NamedTuple):
    """A kernel to prove: ``operator`` names the case in ``cases``, ``details`` are its arguments as JSON, and
    ``title`` is shown to users.
    """

    operator: str
    title: str
    details: str

    @staticmethod
    def of(operator: str, title: str, **details: Any) -> Subject:
        return Subject(operator, title, json.dumps(details, sort_keys=True))

    @property
    def key(self) -> str:
        return f"{self.operator} {self.details}"


class Layout(NamedTuple):
    """Where a tensor's values lie: ``offset`` in values from a multiple of 16 bytes."""

    shape: tuple[int, ...]
    strides: tuple[int, ...]
    offset: int
    dtype: str

    @staticmethod
    def of(x: Tensor) -> Layout:
        dtype = str(x.dtype).removeprefix("torch.")
        return Layout(tuple(x.shape), x.stride(), x.data_ptr() % 16 // x.element_size(), dtype)

    def smaller(self, shape: Sequence[int]) -> Layout:
        """The same order of axes, gaps and alignment with other lengths."""
        strides = [0] * len(shape)
        real = length = 0
        for axis in sorted(range(len(shape)), key=lambda axis: (self.strides[axis], -axis)):
            if self.strides[axis] == 0:
                continue
            gap = max(self.strides[axis] - real, 0)
            if length and gap >= 2 * _LINE:
                gap = _LINE + gap % _LINE
            strides[axis] = length + gap
            real, length = self.strides[axis] * self.shape[axis], strides[axis] * shape[axis]
        return Layout(tuple(shape), tuple(strides), self.offset, self.dtype)

    def memory(self, device: torch.device, around: float) -> tuple[Tensor, Tensor]:
        """Return a tensor of this layout, and the memory around it, filled with ``around``."""
        extent = 1 + sum((n - 1) * s for n, s in zip(self.shape, self.strides, strict=True))
        dtype = getattr(torch, self.dtype)
        fill = around if dtype.is_floating_point else 0
        whole = torch.full((self.offset + extent + _LINE,), fill, dtype=dtype, device=device)
        return whole[self.offset :].as_strided(self.shape, self.strides), whole


def few_tiles(size: Sequence[int], box: Sequence[int]) -> tuple[int, ...]:
    """Return the size (N, T, H, W) of a feature map of few tiles: inner ones, edges and parts of a tile.

    No axis is longer than that of ``size``.
    """
    found = [min(n, 2 * b + 1) for n, b in zip(size, box, strict=True)]
    enough = 2 * math.prod(box) + 1
    # For kernels whose tiles are consecutive pixels across all axes.
    for axis in reversed(range(len(found))):
        others = math.prod(found) // max(found[axis], 1)
        found[axis] = max(found[axis], min(size[axis], -(-enough // max(others, 1))))
    return tuple(found)
