"""The variants of FVD in use: how a clip is prepared for the network, and which covariance is used."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from fasti3d import network
from fasti3d.choices import check_choice

SIZE = 224
# Max bytes of frames that are scaled at once, in float32: those of films take much more than the network.
_MAX_BYTES = 256 << 20


@dataclass(frozen=True)
class Preset:
    """One variant of FVD.

    Attributes:
        name: of the variant.
        crop: the short side is scaled to 224 pixels (the long one rounded up) and a center square cut out;
            otherwise frames are squashed to 224x224.
        half_pixel: pixels lie at the centers of their squares when frames are scaled, as in PyTorch;
            otherwise at their upper left corners, as in TensorFlow 1, which shifts enlarged frames.
        eight_bit: values are truncated to 0, 1, ... 255 first.
        bn_eps: that of the network's batch norms.
        unbiased: covariances divide by N - 1, else by N.
        source: the project that defined it.
    """

    name: str
    crop: bool
    half_pixel: bool
    eight_bit: bool
    bn_eps: float
    unbiased: bool
    source: str


PRESETS = {
    preset.name: preset
    for preset in (
        Preset(
            "tf",
            crop=False,
            half_pixel=False,
            eight_bit=False,
            bn_eps=network.BN_EPS,
            unbiased=True,
            source="google-research, frechet_video_distance",
        ),
        Preset(
            "stylegan-v",
            crop=True,
            half_pixel=True,
            eight_bit=False,
            bn_eps=network.BN_EPS,
            unbiased=True,
            source="universome/fvd-comparison",
        ),
        Preset(
            "videogpt",
            crop=True,
            half_pixel=True,
            eight_bit=True,
            bn_eps=1e-5,
            unbiased=True,
            source="wilson1yan/VideoGPT, videogpt/fvd",
        ),
        Preset(
            "cd-fvd",
            crop=False,
            half_pixel=True,
            eight_bit=False,
            bn_eps=1e-5,
            unbiased=False,
            source="songweige/content-debiased-fvd, with its model i3d",
        ),
    )
}


def find_preset(name: str) -> Preset:
    """Return the preset of a name, or raise a ValueError that lists the names."""
    check_choice("preset", name, PRESETS)
    return PRESETS[name]


def prepare(clips: Tensor, low: float, high: float, preset: Preset) -> Tensor:
    """Prepare clips for the network: (N, T, C, H, W) of any dtype to float32 (N, C, T, 224, 224).

    ``low`` becomes -1 and ``high`` 1, after scaling the size: both are linear, so that the order, in which
    the presets' authors differ, only moves the last bits.
    """
    frames = clips.flatten(0, 1)
    found = torch.empty((len(frames), frames.shape[1], SIZE, SIZE), dtype=torch.float32, device=clips.device)
    some = max(1, _MAX_BYTES // (found.element_size() * frames[0].numel()))
    for part, out in zip(frames.split(some), found.split(some), strict=True):
        _prepare(part, low, high, preset, out)
    return found.unflatten(0, clips.shape[:2]).transpose(1, 2)


def _prepare(frames: Tensor, low: float, high: float, preset: Preset, out: Tensor) -> None:
    if preset.eight_bit and frames.is_floating_point():
        frames = ((frames.float() - low) * (255 / (high - low))).clamp_(0, 255).to(torch.uint8)
        low, high = 0.0, 255.0
    frames = frames.float()
    height, width = frames.shape[2:]
    size = [SIZE, SIZE]
    if preset.crop:
        # Of equal sides the height is rounded up as well: to 225, where 224 is exceeded in the last bit.
        axis = 1 if height < width else 0
        size[axis] = math.ceil((height, width)[axis] * (SIZE / min(height, width)))
    if size != [height, width]:
        if preset.half_pixel:
            frames = F.interpolate(frames, size, mode="bilinear", align_corners=False)
        else:
            for axis in (3, 2):
                frames = _scale_tf1(frames, axis, size[axis - 2])
    top, left = ((side - SIZE) // 2 for side in size)
    frames = frames[:, :, top : top + SIZE, left : left + SIZE]
    torch.mul(frames, 2 / (high - low), out=out).sub_((high + low) / (high - low))


def _scale_tf1(frames: Tensor, axis: int, size: int) -> Tensor:
    """One axis of TensorFlow 1's ``resize_bilinear`` and its defaults: no aligned corners or half pixels."""
    length = frames.shape[axis]
    # In float32, as there; the factor stays on the host, as a copy of it to a GPU would wait for the GPU.
    position = torch.arange(size, device=frames.device) * torch.tensor(
        length / size, dtype=torch.float32, device="cpu"
    )
    before = position.long()
    after = (before + 1).clamp_(max=length - 1)
    shape = [-1 if i == axis else 1 for i in range(frames.ndim)]
    share = (position - before).view(shape)
    return frames.index_select(axis, before).lerp_(frames.index_select(axis, after), share)
