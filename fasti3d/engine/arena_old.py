"""One block of memory for all the maps of a forward pass."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

_ALIGNMENT = 4096  # bytes: a page, so that no two maps share one


class Arena:
    """Places the maps of a chain of steps in one block.

    A step reads the map at one end of the block and writes its own at the other, over a map that
    nobody reads any more; what it needs meanwhile lies behind its own and is given up at its end. So
    the block is as large as the largest step and not as the network, and one allocation serves
    it: allocators keep much of what they are given back, and new memory costs time to touch.

    Without a block it hands out meta tensors and only measures what is needed on ``device``: run the steps
    over one such arena for the ``peak`` that the block must have.
    """

    def __init__(self, dtype: torch.dtype, device: torch.device, size: int | None = None) -> None:
        self.dtype = dtype
        self.device = device
        self.peak = 0
        self._block = None if size is None else torch.empty(size, dtype=torch.uint8, device=device)
        self._used = [0, 0]  # bytes at the two ends
        self._end = 0  # the one in use by the current step's map

    def clear(self) -> None:
        """Gives up every map."""
        self._used = [0, 0]
        self._end = 0

    def output(self, shape: Sequence[int]) -> Tensor:
        """The current step's map (N, C, T, H, W), channels-last, uninitialised."""
        self._end = 1 - self._end
        self._used[self._end] = 0
        return self.take(shape)

    def take(self, shape: Sequence[int]) -> Tensor:
        """Memory for a clip (N, C, T, H, W), channels-last, until the current ``temporary`` ends."""
        size = math.prod(shape) * self.dtype.itemsize
        begin = self._used[self._end]
        self._used[self._end] += -(-size // _ALIGNMENT) * _ALIGNMENT
        self.peak = max(self.peak, sum(self._used))
        if self._block is None:
            layout = torch.channels_last_3d
            return torch.empty(tuple(shape), dtype=self.dtype, device="meta", memory_format=layout)
        if self._end == 1:
            begin = len(self._block) - self._used[1]
        n, c, t, h, w = shape
        return self._block[begin : begin + size].view(self.dtype).view(n, t, h, w, c).permute(0, 4, 1, 2, 3)

    @contextmanager
    def temporary(self) -> Iterator[None]:
        """What is taken inside is given up at the end."""
        mark = self._used[self._end]
        try:
            yield
        finally:
            self._used[self._end] = mark
