"""From stacks of frames and of flow to the clips that a network takes."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from fasti3d.choices import MAP, POOLED, Tail
from fasti3d.extraction.settings import ExtractionSettings
from fasti3d.flow.encoding import to_flow_clip
from fasti3d.models import VideoNetwork, network_clip
from fasti3d.runtime.upload import upload


class View(NamedTuple):
    """One of the clips made of a stack: where its pixels lie, and whether they are mirrored.

    ``down`` and ``right`` share out the margin around the crop: 0 puts all of it after the crop, 1 before.
    """

    name: str
    down: float
    right: float
    mirrored: bool
    side: int

    def cut(self, images: Tensor, rows: int, columns: int) -> Tensor:
        """Crop images whose axes ``rows`` and ``columns`` are those of space."""
        for axis, share in ((rows, self.down), (columns, self.right)):
            images = images.narrow(axis, int((images.shape[axis] - self.side) * share), self.side)
        return images.flip(columns) if self.mirrored else images


_CENTRE = {"center": (0.5, 0.5)}
# Squares of the whole shorter side, which leaves a margin along the longer one alone.
_THIRDS = {"first": (0.0, 0.0), "middle": (0.5, 0.5), "last": (1.0, 1.0)}
_CORNERS = {
    "top left": (0.0, 0.0),
    "top right": (0.0, 1.0),
    "bottom left": (1.0, 0.0),
    "bottom right": (1.0, 1.0),
}
_PLACES = {1: _CENTRE, 3: _THIRDS, 5: _CORNERS | _CENTRE, 10: _CORNERS | _CENTRE}
# Of GowthamGottimukkala/I3D_Feature_Extraction_resnet: the center is the third, and the same five places are
# cut from mirrored frames.
_ANOMALY = ("top left", "top right", "center", "bottom left", "bottom right")


def views(settings: ExtractionSettings) -> list[View]:
    """Return the crops of a window in the order of the features' axis.

    The center; or first, middle and last along the longer side; or top left, top right, bottom left, bottom
    right and the center; then those mirrored. In the layout anomaly the center is third, and of the mirrored
    ones "top left" is the top left of the mirrored frame.
    """
    side, places = settings.crop_side, _PLACES[settings.crop_count]
    if settings.layout != "anomaly":
        return [
            View(f"{name}, mirrored" if flipped else name, down, right, flipped, side)
            for flipped in ((False, True) if settings.mirrored else (False,))
            for name, (down, right) in places.items()
        ]
    upright = [View(name, *places[name], False, side) for name in _ANOMALY]
    return upright + [
        view._replace(name=f"{view.name} of mirrored", right=1 - view.right, mirrored=True)
        for view in upright
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
    """Crop and stack uint8 (T, H, W, 3) each -> uint8 (N, 3, T, side, side)."""
    cuts = torch.stack([view.cut(frames, 1, 2) for frames, view in stacks])
    return upload(cuts, device).permute(0, 4, 1, 2, 3)


def flow_clip(stacks: list[tuple[Tensor, View]], dtype: torch.dtype) -> Tensor:
    """Crop and stack encoded flow (T, 2, H, W) -> (N, 2, T, side, side) in [-1, 1]; mirrored: x negated."""
    clip = to_flow_clip(torch.stack([view.cut(flow, 2, 3) for flow, view in stacks]))
    for one, (_, view) in zip(clip, stacks, strict=True):
        if view.mirrored:
            one[0].neg_()
    return clip.to(dtype)


def features(model: VideoNetwork, clip: Tensor, settings: ExtractionSettings) -> Tensor:
    """Return the features that are asked for, (N, ...): pooled, map or an endpoint."""
    clip = network_clip(model, clip, settings.normalized_as)
    if settings.features == POOLED:
        return model.extract_features(clip).mean(dim=2)
    endpoint = settings.backbone.last_map if settings.features == MAP else settings.features
    return model.forward_endpoints(clip, (endpoint,))[endpoint]
