"""Puts clips on the device, which scales, crops and flips them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fasti3d.flow.encoding import decode_centered
from fasti3d.inputs import as_floats
from fasti3d.runtime.upload import upload
from fasti3d.train.data.clips import ClipSample

_FLOW_CHANNELS = 2


def to_device(samples: Sequence[ClipSample], device: torch.device, dtype: torch.dtype) -> Tensor:
    """Return the network's input from clips of one stream, one length and one crop size.

    Bytes are uploaded; the device crops, scales to [-1, 1], and flips, where x of flow changes its sign.

    Args:
        samples: The clips, at least one.
        device: Where to put them.
        dtype: Of the result, floating point.

    Returns:
        (N, C, T, 224, 224) in [-1, 1], in channels-last memory.
    """
    return torch.stack([_clip(sample, device, dtype) for sample in samples]).permute(0, 4, 1, 2, 3)


def _clip(sample: ClipSample, device: torch.device, dtype: torch.dtype) -> Tensor:
    """(T, 224, 224, C)."""
    top, left, size, flip = sample.crop
    cut = upload(sample.frames, device)[:, top : top + size, left : left + size]
    is_flow = cut.shape[3] == _FLOW_CHANNELS
    values = decode_centered(cut.movedim(3, 1)).movedim(1, 3) if is_flow else as_floats(cut, torch.float32)
    if flip:
        values = values.flip(2)
        if is_flow:
            values[..., 0].neg_()
    return values.to(dtype)
