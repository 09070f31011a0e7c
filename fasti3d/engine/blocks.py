"""Memory of passes: on a CPU one comes after another in the same pages."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

# What is kept at the most between two passes: the maps of a 64x224x224 clip take 76 MB.
_KEPT_BYTES = 128 << 20


class Blocks:
    """Blocks of bytes for passes, of which the last one is kept for the next pass.

    The system gives new memory in zeroed pages, whose first touch costs 3 to 20 % of a pass of one clip,
    measured. A GPU's blocks are kept by torch's allocator. Threads may share it: each pass has a block of its
    own.

    Args:
        keeps: whether any block is kept.
    """

    def __init__(self, *, keeps: bool) -> None:
        self._most = _KEPT_BYTES if keeps else 0
        self.kept: Tensor | None = None
        self._lock = threading.Lock()

    @contextmanager
    def block(self, nbytes: int, x: Tensor) -> Iterator[Tensor]:
        """So many bytes on x's device until the end of the context, when nothing may read them any more."""
        # Not under a tracer, whose tensors have no memory.
        keeps = x.device.type == "cpu" and type(x) is Tensor and nbytes <= self._most
        block = None
        if keeps:
            with self._lock:
                block, self.kept = self.kept, None
        if block is None or len(block) < nbytes:
            block = None  # before the next one is there
            # A tensor of inference mode could only be written there.
            with torch.inference_mode(False):
                block = torch.empty(nbytes, dtype=torch.uint8, device=x.device)
        yield block[:nbytes]
        if keeps:
            with self._lock:
                self.kept = block


_shared: weakref.WeakValueDictionary[str, Blocks] = weakref.WeakValueDictionary()


def shared_blocks() -> Blocks:
    """What all plans on a CPU share, as long as one of them lives."""
    return _shared.setdefault("cpu", Blocks(keeps=True))
