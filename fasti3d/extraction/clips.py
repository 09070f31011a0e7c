"""From stacks of frames and of flow to the clips that a network takes."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from fasti3d.choices import MAP, POOLED, Tail
from fasti3d.flow.encoding import to_flow_clip
from fasti3d.flow.stream import CROP
from fasti3d.i3d import I3D, clip_for
from fasti3d.runtime.upload import upload


class View(NamedTuple):
    """One of the clips made of a stack: where its 224x224 pixels lie, and whether they are mirrored.

    ``down`` and ``right`` share out the margin around the crop: 0 puts all of it after the crop, 1 before.
    """

    down: float
    right: float
    mirrored: bool

    def cut(self, images: Tensor, rows: int, columns: int) -> Tensor:
        """Crop images whose axes ``rows`` and ``columns`` are those of space."""
        for axis, share in ((rows, self.down), (columns, self.right)):
            images = images.narrow(axis, int((images.shape[axis] - CROP) * share), CROP)
        return images.flip(columns) if self.mirrored else images


_CENTRE = ((0.5, 0.5),)
_CORNERS_AND_CENTRE = ((0, 0), (0, 1), (1, 0), (1, 1), (0.5, 0.5))


def views(crops: int, mirrored: bool) -> list[View]:
    """Return the centre; or top left, top right, bottom left, bottom right and it; then those mirrored."""
    places = _CENTRE if crops == 1 else _CORNERS_AND_CENTRE
    return [
        View(down, right, flipped)
        for flipped in ((False, True) if mirrored else (False,))
        for down, right in places
    ]


def filled(stack: Tensor, length: int, tail: Tail, rest: Tensor | None = None) -> Tensor:
    """Return the first ``length`` of a stack; a shorter one is filled up as ``tail`` says.

    Args:
        stack: (T, ...); frames, at least one, or flow.
        length: The number that is returned.
        tail: ``loop`` repeats all of them, otherwise the last one is repeated.
        rest: What is repeated in place of the last one, (1, ...); required if there is none.
    """
    count = len(stack)
    if count >= length:
        return stack[:length]
    if tail == "loop" and count:
        return stack[torch.arange(length, device=stack.device) % count]
    last = stack[-1:] if rest is None else rest
    return torch.cat((stack, last.expand(length - count, *stack.shape[1:])))


def rgb_clip(stacks: list[tuple[Tensor, View]], device: torch.device) -> Tensor:
    """Crop and stack uint8 (T, H, W, 3) each -> uint8 (N, 3, T, 224, 224), which the network scales."""
    cuts = torch.stack([view.cut(frames, 1, 2) for frames, view in stacks])
    return upload(cuts, device).permute(0, 4, 1, 2, 3)


def flow_clip(stacks: list[tuple[Tensor, View]], dtype: torch.dtype) -> Tensor:
    """Crop and stack encoded flow (T, 2, H, W) -> (N, 2, T, 224, 224) in [-1, 1]; mirrored with x negated."""
    clip = to_flow_clip(torch.stack([view.cut(flow, 2, 3) for flow, view in stacks]))
    for one, (_, view) in zip(clip, stacks, strict=True):
        if view.mirrored:
            one[0].neg_()
    return clip.to(dtype)


def features(model: I3D, clip: Tensor, wanted: str) -> Tensor:
    """Return the features that are asked for, (N, ...): pooled, map or an endpoint."""
    clip = clip_for(model, clip)
    if wanted == POOLED:
        return model.extract_features(clip).mean(dim=2)
    endpoint = "Mixed_5c" if wanted == MAP else wanted
    return model.forward_endpoints(clip, (endpoint,))[endpoint]
