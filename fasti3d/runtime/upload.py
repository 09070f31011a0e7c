"""Copies from the host to a GPU, concurrent with the work there."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor


def upload(host: Tensor, device: torch.device) -> Tensor:
    """Return ``host.to(device)``, for use on the current stream.

    The copy to a GPU goes from pinned memory on a stream of its own: it does not wait for kernels launched
    before, and only work submitted to the current stream from now on waits for it.
    """
    if device.type != "cuda" or host.device.type != "cpu":
        return host.to(device)
    index = torch.cuda.current_device() if device.index is None else device.index
    device = torch.device("cuda", index)
    user, copying = torch.cuda.current_stream(device), _copying(device)
    with torch.cuda.stream(copying):
        copy = host.pin_memory().to(device, non_blocking=True)
    user.wait_stream(copying)
    # Else its memory would go to the next copy while the user's kernels still read it.
    copy.record_stream(user)
    return copy


@cache
def _copying(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)
