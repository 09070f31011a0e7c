"""The least time that work can take on a chip: that of its arithmetic or its memory, whichever is more."""

from __future__ import annotations

from typing import NamedTuple


class Chip(NamedTuple):
    """The published peaks of a GPU: dense float16 products with float32 sums, and its memory."""

    name: str
    flop_per_s: float
    bytes_per_s: float


# Source: NVIDIA's data sheets and, of the RTX 4090, its Ada architecture whitepaper. No program reaches both.
CHIPS = (
    Chip("H200", 989e12, 4.8e12),
    Chip("A100", 312e12, 2.039e12),
    Chip("RTX 4090", 165.2e12, 1.008e12),
)


def floor_seconds(flop: int, moved_bytes: int, chip: Chip) -> float:
    """For one kernel, or a chain of kernels of which none waits for more than its own work."""
    return max(flop / chip.flop_per_s, moved_bytes / chip.bytes_per_s)
