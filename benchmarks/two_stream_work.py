"""From frames to two-stream logits: the clips, the passes that are compared, and a pass part by part.

All passes have the same random weights. A pass takes its case's clips and returns their logits.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

import fasti3d
from benchmarks import flow_peers, peers
from benchmarks.flow_data import made_frames
from fasti3d import TwoStreamI3D
from fasti3d.flow import PRESETS, to_flow_clip, to_grey
from fasti3d.flow.stream import center, encoded, pair_flow, solver_frames

OURS = "fasti3d"
OPENCV = "OpenCV's TV-L1 on the CPU, reference networks"

# Of the channels of made clips: colour, so that taking one for another shows.
_TINT = (1.0, 0.9, 0.8)

Pass = Callable[[], Tensor]


class Case(NamedTuple):
    """What one pass computes: clips of frames 340 pixels wide and 256 high."""

    clips: int
    frames: int
    dtype: torch.dtype
    device: str = "cpu"

    def __str__(self) -> str:
        return f"{self.clips}x{self.frames}x256x340 {str(self.dtype).removeprefix('torch.')} {self.device}"


def made_clips(count: int, frames: int, height: int = 256, width: int = 340) -> Tensor:
    """uint8 (count, frames, H, W, 3): the made frames of TV-L1's benchmark, each clip turned another way."""
    grey = made_frames(frames, height, width)
    scene = torch.stack([(grey * share).to(torch.uint8) for share in _TINT], dim=-1)
    turned = [[axis for bit, axis in enumerate((2, 1, 0)) if i >> bit & 1] for i in range(8)]
    return torch.stack([scene.flip(turned[i % 8]) for i in range(count)])


def ours(case: Case) -> tuple[TwoStreamI3D, Tensor]:
    """The network and its frames, both on the case's device."""
    streams = []
    for channels in (3, 2):
        stream = fasti3d.I3D(in_channels=channels)
        stream.load_state_dict(peers.random_reference(channels).state_dict())
        streams.append(stream)
    two = TwoStreamI3D(*streams).eval().requires_grad_(False).to(case.device, case.dtype)
    return two, made_clips(case.clips, case.frames).to(case.device)


def whole(two: TwoStreamI3D, frames: Tensor) -> Pass:
    """The pass that users call."""

    def run() -> Tensor:
        with torch.no_grad():
            logits = two.forward_frames(frames)
            if frames.is_cuda:
                torch.cuda.synchronize()
            return logits

    return run


def with_opencv(case: Case) -> Pass:
    """As many do it: flow by OpenCV, pair after pair on the CPU, and plain networks on the device."""
    rgb, flow = (peers.random_reference(channels).to(case.device, case.dtype) for channels in (3, 2))
    frames = made_clips(case.clips, case.frames).to(case.device)
    solve = flow_peers.opencv()

    def run() -> Tensor:
        rows, columns = center(*frames.shape[2:4])
        grey = to_grey(frames).cpu()
        flows = [torch.stack([solve(a, b) for a, b in itertools.pairwise(clip)]) for clip in grey]
        flow_clip = to_flow_clip(encoded(torch.stack(flows), "readme")).to(case.device, case.dtype)
        rgb_clip = frames[:, :, rows, columns].permute(0, 4, 1, 2, 3).float().div_(127.5).sub_(1)
        with torch.no_grad():
            logits = rgb(rgb_clip.to(case.dtype)) + flow(flow_clip)
        if frames.is_cuda:
            torch.cuda.synchronize()
        return logits

    return run


def expected_logits(case: Case) -> Tensor:
    """Of the first clip, in float32 on the CPU: fasti3d's flow, reference networks; and without any flow."""
    frames = made_clips(1, case.frames)
    rows, columns = center(*frames.shape[2:4])
    rgb_clip = frames[:, :, rows, columns].permute(0, 4, 1, 2, 3) / 127.5 - 1
    flow = pair_flow(to_grey(frames), PRESETS["i3d"])
    with torch.no_grad():
        rgb, flow_network = peers.random_reference(3)(rgb_clip), peers.random_reference(2)
        both = [flow_network(to_flow_clip(encoded(motion, "readme"))) for motion in (flow, 0 * flow)]
    return torch.cat([rgb + logits for logits in both])


class Stopwatch:
    """The seconds that the parts of a pass take: between events on the device, or by the clock on a CPU."""

    def __init__(self, device: torch.device) -> None:
        self._cuda = device.type == "cuda"
        self._marks: list[tuple[str, torch.cuda.Event | float]] = []
        self.mark("")

    def mark(self, name: str) -> None:
        """The end of a part, and the beginning of the next one."""
        if self._cuda:
            event = torch.cuda.Event(enable_timing=True)
            event.record()
            self._marks.append((name, event))
        else:
            self._marks.append((name, time.perf_counter()))

    def seconds(self) -> dict[str, float]:
        """By the parts' names."""
        if self._cuda:
            torch.cuda.synchronize()
        between = itertools.pairwise(self._marks)
        return {name: _elapsed(start, end) for (_, start), (name, end) in between}


def _elapsed(start: torch.cuda.Event | float, end: torch.cuda.Event | float) -> float:
    if isinstance(start, float):
        assert isinstance(end, float)
        return end - start
    return start.elapsed_time(end) / 1e3


def part_by_part(two: TwoStreamI3D, frames: Tensor) -> tuple[Tensor, dict[str, float]]:
    """The logits, step by step as ``forward_frames`` computes them, and the seconds that each part took."""
    rows, columns = center(*frames.shape[2:4])
    with torch.no_grad():
        watch = Stopwatch(frames.device)
        grey = solver_frames(frames, "readme")
        watch.mark("grey")
        flow = pair_flow(grey, PRESETS["i3d"])
        watch.mark("TV-L1")
        flow_clip = to_flow_clip(encoded(flow, "readme")).contiguous()
        flow_clip = flow_clip.to(next(two.flow.parameters()).dtype)
        watch.mark("crop and pack")
        rgb = two.rgb(frames[:, :, rows, columns].permute(0, 4, 1, 2, 3))
        watch.mark("RGB network")
        logits = rgb + two.flow(flow_clip)
        watch.mark("flow network")
    return logits, watch.seconds()
