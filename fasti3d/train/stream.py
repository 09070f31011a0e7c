"""The order of a run's clips, a function of the seed: which clips a step has does not depend on its past."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

from torch.utils.data import Sampler

from fasti3d.train.data.clips import order

Item = tuple[int, int]  # epoch and video


class ClipStream(Sampler[list[Item]]):
    """The clips of one process, from a step on, in batches of one forward pass.

    The run's clips are one stream: a permutation of the videos, then another, and so on. Step s of the
    optimizer takes clips s * B to (s + 1) * B - 1 of it, B being the global batch, and shares them out in
    turns, so that every step has as many clips and no clip is left out.

    Args:
        videos: how many there are.
        seed: of the order.
        batch: clips of a forward pass.
        accumulate: forward passes of a step.
        rank, size: of this process, and how many there are.
        steps: the first step, and the one after the last.
    """

    def __init__(
        self,
        videos: int,
        seed: int,
        *,
        batch: int,
        accumulate: int,
        rank: int,
        size: int,
        steps: range,
    ) -> None:
        self._videos = videos
        self._seed = seed
        self._batch = batch
        self._accumulate = accumulate
        self._rank = rank
        self._size = size
        self._steps = steps
        self._order = lru_cache(maxsize=2)(lambda epoch: order(seed, epoch, videos))

    def __len__(self) -> int:
        return len(self._steps) * self._accumulate

    def __iter__(self) -> Iterator[list[Item]]:
        turn = self._batch * self._size
        for step in self._steps:
            for part in range(self._accumulate):
                start = (step * self._accumulate + part) * turn + self._rank * self._batch
                yield [self._item(position) for position in range(start, start + self._batch)]

    def _item(self, position: int) -> Item:
        epoch, place = divmod(position, self._videos)
        return epoch, self._order(epoch)[place]
