"""What all stored flow of a video has in common."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray


class StoredFlow(Protocol):
    """The flow of a whole video: ``FlowCache`` or ``FlowFolder``.

    Attributes:
        path: the file or folder.
    """

    path: Path

    def __len__(self) -> int:
        """The number of flows."""
        ...

    def read(self, first: int, count: int) -> NDArray[np.float32]:
        """Flows ``first`` and those that follow, counted from 0: float32 (count, 2, H, W) in pixels."""
        ...

    def check_frames(self, count: int) -> None:
        """VideoError if these are not the flows of ``count`` frames: one less, or as many."""
        ...
