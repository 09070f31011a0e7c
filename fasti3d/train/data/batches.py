"""Puts clips on the device, which scales, crops and flips them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fasti3d.runtime.upload import upload
from fasti3d.train.data.clips import ClipSample

# Bytes of flow: 128 is no motion, 1 and 255 are 20 pixels, which is -1 and 1.
_STILL, _STEPS = 128, 127


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
    cut = upload(sample.frames, device)[:, top : top + size, left : left + size].float()
    is_flow = cut.shape[3] == 2
    values = ((cut - _STILL) / _STEPS).clamp_(min=-1) if is_flow else cut / 127.5 - 1
    if flip:
        values = values.flip(2)
        if is_flow:
            values[..., 0].neg_()
    return values.to(dtype)
