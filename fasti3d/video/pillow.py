"""Frames as produced by programs that decode with OpenCV and scale with Pillow."""

from __future__ import annotations

import numpy as np
import torch
from av.video.frame import VideoFrame
from av.video.reformatter import ColorRange, Interpolation, VideoReformatter
from torch import Tensor
from torch.nn.functional import interpolate

from fasti3d.video.orientation import Orientation, orientation


class PillowTransform:
    """RGB as OpenCV's VideoCapture converts it, and its short side scaled to ``resize`` as Pillow does.

    Frames are converted at the size they are stored in, bit for bit as by OpenCV (swscale, without its
    accurate rounding, two pixels sharing a color), turned upright, and only then scaled: bilinear, averaging
    where they shrink, in fixed-point numbers as Pillow's, but for rounding in fewer than one of 50 values.
    The long side is rounded down; pixels count as square. The first frame fixes the size.

    Args:
        resize: the short side after scaling.
        crop: the side of the square cut from the center, None to keep all.

    Source: v-iashin/video_features, models/transforms.py, ``ResizeImproved`` and ``TensorCenterCrop``.
    """

    def __init__(self, resize: int, crop: int | None) -> None:
        self._resize = resize
        self._crop = crop
        self._size: tuple[int, int] | None = None
        self._turn: Orientation | None = None
        self._rotation = 0
        self._reformatter = VideoReformatter()

    def __call__(self, frame: VideoFrame, pixel_aspect: float) -> Tensor:
        """A new uint8 tensor (H, W, 3); ``pixel_aspect`` is ignored."""
        rgb = self._reformatter.reformat(
            frame, format="rgb24", interpolation=Interpolation.BICUBIC, dst_color_range=ColorRange.JPEG
        ).to_ndarray()
        if self._turn is None or frame.rotation != self._rotation:
            self._turn, self._rotation = orientation(frame), frame.rotation
        upright = self._turn.apply(np.asarray(rgb, np.uint8))
        image = torch.from_numpy(np.ascontiguousarray(upright))
        if self._size is None:
            height, width = image.shape[:2]
            short = min(height, width)
            self._size = self._resize * height // short, self._resize * width // short
        if image.shape[:2] != self._size:
            planes = image.permute(2, 0, 1)[None]
            scaled = interpolate(planes, self._size, mode="bilinear", antialias=True)
            image = scaled[0].permute(1, 2, 0)
        if self._crop is not None:
            top, left = ((side - self._crop) // 2 for side in image.shape[:2])
            image = image[top : top + self._crop, left : left + self._crop]
        return image.contiguous()
