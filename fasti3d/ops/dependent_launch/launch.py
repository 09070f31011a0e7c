"""Which kernels are launched early."""

from __future__ import annotations

import torch

from fasti3d.runtime.gpu import gpu_traits

_MIN_CAPABILITY = (9, 0)


def overlaps(device: torch.device) -> bool:
    """Whether kernels on a device are launched so, which those in Triton's interpreter, on a CPU, are not."""
    return device.type == "cuda" and gpu_traits(device).capability >= _MIN_CAPABILITY


def in_turn_options(device: torch.device) -> dict[str, bool]:
    """What the launch of a kernel that begins with ``in_turn(PDL)`` is given."""
    return {"PDL": True, "launch_pdl": True} if overlaps(device) else {}
