"""Memory for maps, from one pass to the next."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

# Blocks of more bytes are not kept: those of a clip of 64 frames have 64 MB in float32.
MAX_KEPT = 128 << 20


class Blocks:
    """Blocks that passes write their maps into; on a CPU the last one is kept.

    The system gives new memory in zeroed pages, which takes 3 % of a pass. A GPU's memory is torch's to keep.
    """

    def __init__(self) -> None:
        self._kept: Tensor | None = None
        self._lock = threading.Lock()

    @contextmanager
    def lend(self, nbytes: int, x: Tensor) -> Iterator[Tensor]:
        """A block of so many bytes of whatever values, on x's device, which no other thread has meanwhile."""
        # Not under a tracer, whose tensors have no memory.
        keeps = x.device.type == "cpu" and type(x) is Tensor and nbytes <= MAX_KEPT
        block = None
        if keeps:
            with self._lock:
                block, self._kept = self._kept, None
        if block is None or len(block) < nbytes:
            # One of inference mode could not be written to outside of it.
            with torch.inference_mode(False):
                block = torch.empty(nbytes, dtype=torch.uint8, device=x.device)
        yield block[:nbytes]
        if keeps:
            with self._lock:
                self._kept = block
