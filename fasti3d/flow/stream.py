"""Computes the input of I3D's flow stream from RGB frames, in the two ways that its authors published."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from fasti3d.choices import FlowPreset
from fasti3d.flow.encoding import encode_mediapipe, encode_readme, to_flow_clip, to_grey
from fasti3d.flow.params import TVL1Params
from fasti3d.flow.solve import tvl1, tvl1_video

# The side of the square that the network was trained on, in pixels.
CROP = 224

# The max number of pairs solved in one call, or those of one clip. The last pairs of a call leave a part of
# the GPU idle, which hardly counts with this many (estimated); flow of 340x256 takes 180 MB until cropped.
_PAIRS_AT_ONCE = 256


def center(height: int, width: int) -> tuple[slice, slice]:
    """Return the rows and columns of the center 224x224 pixels, the same that ``video.read_frames`` crops.

    Raises:
        ValueError: the image is smaller.
    """
    if min(height, width) < CROP:
        raise ValueError(
            f"frames must be at least {CROP}x{CROP} pixels, got {height}x{width}: enlarge them; the network "
            "was trained on frames whose short side was resized to 256"
        )
    top, left = (height - CROP) // 2, (width - CROP) // 2
    return slice(top, top + CROP), slice(left, left + CROP)


def stream_flow(frames: Tensor, preset: FlowPreset, params: TVL1Params, *, cropped: bool = True) -> Tensor:
    """TV-L1 flow between consecutive frames, stored compactly: row i leads from frame i to frame i + 1.

    ``readme``: flow of the frames as they are, the center cropped, in the range of the network
    (``encode_readme``). ``mediapipe``: frames squashed to 224x224 (bilinear, averaging where they
    shrink), flow of those in bytes (``encode_mediapipe``).

    Args:
        frames: uint8 (T, H, W, 3), RGB, at least one; at least 224x224 pixels for ``readme``.
        preset: which.
        params: those of TV-L1.
        cropped: False leaves the flow of ``readme`` at the size of the frames.

    Returns:
        (T-1, 2, 224, 224), or (T-1, 2, H, W), on the device of the frames, x first; float32 for ``readme``,
        uint8 for ``mediapipe``. ``to_flow_clip`` makes the network's input of it.
    """
    gray = solver_frames(frames, preset)
    rows, columns = center(*gray.shape[1:]) if cropped else (slice(None), slice(None))
    return _encode(tvl1_video(gray, params=params)[..., rows, columns], preset)


def flow_clips(clips: Tensor, preset: FlowPreset, params: TVL1Params) -> Tensor:
    """The flow network's input from clips of frames.

    Args:
        clips: uint8 (N, T, H, W, 3), RGB, at least one, of at least two frames of at least 224x224 pixels.
        preset, params: as for ``stream_flow``.

    Returns:
        float32 (N, 2, T-1, 224, 224) in [-1, 1], on the device of the clips, without synchronization.
    """
    flows = []
    for some in clips.split(max(1, _PAIRS_AT_ONCE // (clips.shape[1] - 1))):
        flow = pair_flow(solver_frames(some, preset), params)
        flows.append(to_flow_clip(encoded(flow, preset)))
    return torch.cat(flows)


def solver_frames(frames: Tensor, preset: FlowPreset) -> Tensor:
    """RGB frames uint8 (..., H, W, 3) as TV-L1 gets them, uint8 (..., H', W')."""
    return to_grey(_squash(frames) if preset == "mediapipe" else frames)


def pair_flow(gray: Tensor, params: TVL1Params) -> Tensor:
    """Flow in pixels between the consecutive frames of clips (N, T, H, W), in one call: (N, T-1, 2, H, W)."""
    first, second = (pairs.flatten(0, 1) for pairs in (gray[:, :-1], gray[:, 1:]))
    return tvl1(first, second, params=params).unflatten(0, (len(gray), -1))


def encoded(flow: Tensor, preset: FlowPreset) -> Tensor:
    """The center of flow in pixels (..., 2, H, W), stored as ``stream_flow`` says."""
    rows, columns = center(*flow.shape[-2:])
    return _encode(flow[..., rows, columns], preset)


def still_flow(preset: FlowPreset, device: torch.device) -> Tensor:
    """What ``stream_flow`` gives for a frame and itself: (1, 2, 224, 224)."""
    return _encode(torch.zeros((1, 2, CROP, CROP), device=device), preset)


def _encode(flow: Tensor, preset: FlowPreset) -> Tensor:
    return encode_readme(flow) if preset == "readme" else encode_mediapipe(flow)


def _squash(frames: Tensor) -> Tensor:
    planes = frames.flatten(0, -4).permute(0, 3, 1, 2).float()
    small = interpolate(planes, (CROP, CROP), mode="bilinear", antialias=True)
    small = small.round_().clamp_(0, 255).to(torch.uint8).permute(0, 2, 3, 1)
    return small.unflatten(0, frames.shape[:-3])
