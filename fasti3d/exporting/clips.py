"""The clips on which an exported file is compared with its network: noise, and a moving picture."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from itertools import islice

import torch
from torch import Tensor

from fasti3d.exporting.parity import Case
from fasti3d.flow.params import PRESETS
from fasti3d.flow.stream import stream_flow
from fasti3d.inputs import RGB_CHANNELS, as_floats
from fasti3d.network import TIME_STRIDE

_FLOW_CHANNELS = 2


def shapes(frames: int, fixed_time: bool) -> list[tuple[int, int]]:
    """(N, T) at which a file is compared: as exported, and three others."""
    if fixed_time:
        return [(n, frames) for n in (1, 2, 3, 4)]
    return [(1, frames), (2, 3 * TIME_STRIDE), (1, 5 * TIME_STRIDE), (3, 4 * TIME_STRIDE)]


def cases(
    channels: Sequence[int],
    size: tuple[int, int, int],
    *,
    fixed_time: bool,
    dtype: torch.dtype,
    video: str | os.PathLike[str] | None,
) -> Iterator[Case]:
    """Yield clips, one per input of ``channels``, of a size (T, H, W) and of other batches and lengths.

    Args:
        channels: of each input; 3 are RGB, 2 optical flow, of which others get noise alone.
        dtype: of the clips; uint8 is RGB.
        video: of the moving picture; None generates one.
    """
    frames, *sides = size
    for n, t in shapes(frames, fixed_time):
        yield "noise", tuple(_noise((n, c, t, *sides), dtype, seed=t + c) for c in channels)
    if not set(channels) <= {RGB_CHANNELS, _FLOW_CHANNELS}:
        return
    longest = max(t for _, t in shapes(frames, fixed_time))
    pictures = _generated(longest + 1, *sides) if video is None else _read(video, longest + 1, *sides)
    title = "a generated clip" if video is None else os.path.basename(video)
    known = {c: _as_clip(pictures, c, dtype) for c in set(channels)}
    for n, t in shapes(frames, fixed_time):
        yield title, tuple(_batch(known[c][:, :t], n) for c in channels)


def noise(shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """Uniform values of [-1, 1], or of all bytes."""
    return _noise(shape, dtype, seed=0)


def _noise(shape: Sequence[int], dtype: torch.dtype, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    if dtype == torch.uint8:
        return torch.randint(0, 256, tuple(shape), dtype=dtype, generator=generator)
    return torch.empty(tuple(shape)).uniform_(-1, 1, generator=generator).to(dtype)


def _batch(clip: Tensor, n: int) -> Tensor:
    """Clips (n, C, T, H, W) that differ: shifted in time, a frame each."""
    return torch.stack([clip.roll(i, dims=1) for i in range(n)])


def _as_clip(pictures: Tensor, channels: int, dtype: torch.dtype) -> Tensor:
    """(C, T, H, W) of frames (T + 1, H, W, 3)."""
    if channels == _FLOW_CHANNELS:
        flow = stream_flow(pictures, "readme", PRESETS["i3d"], cropped=False)
        return flow.transpose(0, 1).to(dtype).contiguous()
    clip = pictures[:-1].permute(3, 0, 1, 2)
    return (clip if dtype == torch.uint8 else as_floats(clip, dtype)).contiguous()


def _read(video: str | os.PathLike[str], frames: int, height: int, width: int) -> Tensor:
    """The first frames (T, H, W, 3) of a video, again from its first where it ends."""
    from fasti3d.video import read_frames  # imports decoders

    side = max(height, width)
    read = [frame.image for frame in islice(read_frames(video, resize=side, crop=side), frames)]
    top, left = (side - height) // 2, (side - width) // 2
    found = [read[i % len(read)] for i in range(frames)]
    return torch.stack(found)[:, top : top + height, left : left + width].contiguous()


def _generated(frames: int, height: int, width: int) -> Tensor:
    """Stripes (T, H, W, 3) that move by a pixel per frame, of another direction in each color."""
    t, y, x = torch.meshgrid(*map(torch.arange, (frames, height, width)), indexing="ij")
    waves = [((t + a * y + b * x) / 7).sin() for a, b in ((1, 0), (0, 1), (1, 1))]
    return ((torch.stack(waves, dim=-1) + 1) * 127.5).round().to(torch.uint8)
