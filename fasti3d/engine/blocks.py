"""Memory of passes: on a CPU one comes after another in the same pages."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

# What is kept at the most between two passes: the maps of a 64x224x224 clip take 76 MB.
_KEPT_BYTES = 128 << 20


class Blocks:
    """Blocks of bytes for the passes of a plan, of which the last one is kept for the next pass.

    The first touch of new pages costs 10 to 20 % of a pass of one clip, measured. A GPU's blocks are kept by
    torch's allocator. Threads may share it: each pass has a block of its own.

    Args:
        keeps: whether any block is kept.
    """

    def __init__(self, *, keeps: bool) -> None:
        self._most = _KEPT_BYTES if keeps else 0
        self.kept: Tensor | None = None
        self._lock = threading.Lock()

    @contextmanager
    def block(self, nbytes: int, device: torch.device) -> Iterator[Tensor]:
        """At least so many bytes until the end of the context, when nothing may read them any more."""
        if device.type != "cpu":
            yield torch.empty(nbytes, dtype=torch.uint8, device=device)
            return
        with self._lock:
            block, self.kept = self.kept, None
        if block is None or len(block) < nbytes:
            block = None  # before the next one is there
            # A tensor of inference mode could only be written there.
            with torch.inference_mode(False):
                block = torch.empty(nbytes, dtype=torch.uint8)
        yield block
        if len(block) <= self._most:
            with self._lock:
                self.kept = block
