"""Where the flow of training clips comes from: files, pictures, or the solver."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from torch import Tensor

from fasti3d.flow.cache import SUFFIX, FlowCache
from fasti3d.flow.encoding import encode_centered, to_grey
from fasti3d.flow.folder import FlowFolder
from fasti3d.flow.params import TVL1Params
from fasti3d.flow.solve import tvl1_video
from fasti3d.flow.stored import StoredFlow
from fasti3d.train.data.video_dataset import Video
from fasti3d.utils.naming import output_name
from fasti3d.video import VideoError

# Flows in float32 at a time: 11 MB at 340x256.
_AT_ONCE = 16


def flow_path(parent: Path, video: Video) -> Path | None:
    """Return where a video's flow is below a folder, by its key or the name of its file; None if nowhere.

    It is a file ``NAME.flow`` or a folder ``NAME`` of pictures.
    """
    name = output_name(video.path, is_folder=os.path.isdir(video.path))
    for place in (parent / video.key, parent / name):
        cached = place.with_name(place.name + SUFFIX)
        if os.path.isfile(cached):
            return cached
        if os.path.isdir(place):
            return place
    return None


def open_flow(path: Path, bound: float, fps: float, short_side: int) -> StoredFlow:
    """Open flow that must have been extracted at a rate and a size.

    Raises:
        VideoError: It cannot be read, or says that it was extracted otherwise.
    """
    if os.path.isdir(path):
        return FlowFolder(path, bound)
    cache = FlowCache(path)
    for name, wanted in (("fps", fps), ("resize", short_side)):
        if cache.settings.get(name) != wanted:
            raise VideoError(
                path,
                f"was made with {name} {cache.settings.get(name)}, not {wanted}: extract it again with "
                "`fasti3d flow --cache`, which has the right defaults",
            )
    return cache


def stored_clip(flow: StoredFlow, first: int, count: int, short_side: int) -> Tensor:
    """Return flows as bytes, uint8 (count, H, W, 2), of ``encode_centered``.

    Raises:
        VideoError: They cannot be read, or are of another size.
    """
    pieces = []
    for start in range(first, first + count, _AT_ONCE):
        pixels = flow.read(start, min(_AT_ONCE, first + count - start))
        height, width = pixels.shape[2:]
        # TSN's tools squeeze frames by a pixel.
        if abs(min(height, width) - short_side) > 1:
            raise VideoError(
                flow.path,
                f"holds flow of {width}x{height}: expected a short side of {short_side}; extract it so",
            )
        pieces.append(torch.from_numpy(encode_centered(pixels)))
    return torch.cat(pieces).permute(0, 2, 3, 1)


def solved_clip(frames: Tensor, params: TVL1Params) -> Tensor:
    """Return the flows between frames uint8 (n+1, H, W, 3) as bytes, uint8 (n, H, W, 2)."""
    pieces = []
    for start in range(0, len(frames) - 1, _AT_ONCE):
        gray = to_grey(frames[start : start + _AT_ONCE + 1])
        pieces.append(encode_centered(tvl1_video(gray, params=params)))
    return torch.cat(pieces).permute(0, 2, 3, 1)
