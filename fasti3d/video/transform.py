"""Converts a decoded frame to RGB at the size that the network takes."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import torch
from av.video.frame import VideoFrame
from av.video.reformatter import ColorRange, Interpolation, VideoReformatter
from torch import Tensor

from fasti3d.inputs import as_floats
from fasti3d.limits import MAX_PIXELS, MAX_PROPORTION, MAX_SIDE
from fasti3d.video.orientation import Orientation, orientation

# swscale's flags SWS_ACCURATE_RND and SWS_FULL_CHR_H_INT, which not every PyAV names. Without them
# white comes out as 253, and two pixels share one color.
INTERPOLATION = int(Interpolation.BILINEAR) | 0x40000 | 0x2000


def scaled_size(width: int, height: int, pixel_aspect: float, resize: int | None) -> tuple[int, int]:
    """(width, height) with the short side at ``resize`` and the long side rounded half up.

    The proportions are those on a screen: pixels that are not square are made so. ``resize=None``
    leaves the stored size.
    """
    if resize is None:
        return width, height
    wide, high = width * Fraction(pixel_aspect), Fraction(height)
    scale = resize / min(wide, high)
    return int(wide * scale + Fraction(1, 2)), int(high * scale + Fraction(1, 2))


class SizeError(Exception):
    """Frames too small for the crop, or too large or too long and thin to be scaled."""


def _check_scaled(size: tuple[int, int], frame: VideoFrame) -> None:
    short, long = sorted(size)
    if long > MAX_PROPORTION * short or short * long > MAX_PIXELS:
        raise SizeError(
            f"is {frame.width}x{frame.height}, and scaled {size[0]}x{size[1]}: at most {MAX_SIDE}x{MAX_SIDE} "
            f"pixels, and {MAX_PROPORTION} to 1, can be scaled to; use a smaller resize, or none"
        )


class FrameTransform:
    """Scales, rotates and crops frames to RGB, from the decoder's own pixels in one step.

    The first frame fixes the size: where a later one has another, it is stretched to it, as players do.

    Args:
        resize: the short side after scaling, None to leave the size; or height and width as shown, to which
            frames are stretched.
        crop: the side of the square cut from the center, None to keep all. An odd margin has its
            larger half at the bottom and right.
    """

    def __init__(self, resize: int | tuple[int, int] | None, crop: int | None) -> None:
        self._resize = resize
        self._crop = crop
        self._size: tuple[int, int] | None = None  # width and height as shown
        self._turn: Orientation | None = None
        self._rotation = 0
        self._reformatter = VideoReformatter()

    def __call__(self, frame: VideoFrame, pixel_aspect: float) -> Tensor:
        """A new uint8 tensor (H, W, 3).

        Raises:
            SizeError: the frame is smaller than the crop, or scaled beyond the limits.
        """
        turn = self._turned(frame)
        if self._size is None:
            self.begin(frame, pixel_aspect)
        assert self._size is not None
        width, height = turn.size(*self._size)
        image = turn.apply(self._rgb(_opaque(frame, self._reformatter), width, height))
        if self._crop is not None:
            top, left = ((side - self._crop) // 2 for side in image.shape[:2])
            image = image[top : top + self._crop, left : left + self._crop]
        return torch.from_numpy(np.array(image, order="C"))

    def begin(self, frame: VideoFrame, pixel_aspect: float) -> None:
        """Fix the size by a frame that is not to be converted.

        Raises:
            SizeError: as when it is called.
        """
        if isinstance(self._resize, tuple):
            height, width = self._resize
            self._size = width, height
        else:
            stored = scaled_size(frame.width, frame.height, pixel_aspect, self._resize)
            if self._resize is not None:
                _check_scaled(stored, frame)
            self._size = self._turned(frame).size(*stored)
        if self._crop is not None and min(self._size) < self._crop:
            raise SizeError(
                f"is {self._size[0]}x{self._size[1]}, smaller than crop={self._crop}: "
                "give a resize of at least the crop"
            )

    def _turned(self, frame: VideoFrame) -> Orientation:
        if self._turn is None or frame.rotation != self._rotation:
            self._turn, self._rotation = orientation(frame), frame.rotation
        return self._turn

    def _rgb(self, frame: VideoFrame, width: int, height: int) -> np.ndarray:
        rgb = self._reformatter.reformat(
            frame,
            width,
            height,
            "rgb24",
            interpolation=INTERPOLATION,
            dst_color_range=ColorRange.JPEG,
        )
        return rgb.to_ndarray()


def _opaque(frame: VideoFrame, reformatter: VideoReformatter) -> VideoFrame:
    """The frame laid on black, where it has an alpha channel."""
    layout = frame.format
    if not (layout.has_palette or any(component.is_alpha for component in layout.components)):
        return frame
    rgba = reformatter.reformat(
        frame, format="rgba", interpolation=INTERPOLATION, dst_color_range=ColorRange.JPEG
    ).to_ndarray()
    blended = rgba[..., :3] * rgba[..., 3:].astype(np.uint16)
    blended += 127
    blended //= 255
    return VideoFrame.from_ndarray(blended.astype(np.uint8), format="rgb24")


def to_clip(frames: Tensor) -> Tensor:
    """Convert RGB frames to the network's input: uint8 (T, H, W, 3) to float32 (3, T, H, W) in [-1, 1].

    0 becomes -1 and 255 becomes 1.

    Args:
        frames: uint8 (T, H, W, 3), on any device.

    Returns:
        float32 (3, T, H, W) in [-1, 1], in channels-last memory, which the fused network prefers. Add the
        batch axis with ``clip[None]``.

    Raises:
        ValueError: ``frames`` has another dtype or shape.

    Example:
        >>> to_clip(torch.zeros(16, 224, 224, 3, dtype=torch.uint8)).shape
        torch.Size([3, 16, 224, 224])
    """
    if frames.dtype != torch.uint8 or frames.ndim != 4 or frames.shape[3] != 3:
        raise ValueError(
            f"frames must be uint8 of shape (T, H, W, 3), got {frames.dtype} of shape {tuple(frames.shape)}"
        )
    return as_floats(frames.permute(3, 0, 1, 2), torch.float32)
