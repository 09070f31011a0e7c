"""From a video to the files of its flow."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path

import torch
from torch import Tensor

from fasti3d.flow.encoding import to_grey
from fasti3d.flow.export.output import Output
from fasti3d.flow.export.settings import Options
from fasti3d.flow.solve import tvl1_video
from fasti3d.tvl1_limits import MIN_SIDE
from fasti3d.video import Frame, VideoError, read_frames


@dataclass(frozen=True)
class Exported:
    """What a run did.

    Attributes:
        frames: of the video; there is one flow less.
        solved: flows computed by this run; the others were there.
        width, height: of the flow, in pixels.
        seconds: wall-clock time.
    """

    frames: int
    solved: int
    width: int
    height: int
    seconds: float


def export(
    video: Path, output: Output, options: Options, *, progress: Callable[[float], None] | None = None
) -> Exported:
    """Writes the flow between the consecutive frames of a video, from where an earlier run got to.

    N frames give N - 1 flows. Memory is bounded, whatever the length of the video.

    Args:
        video: a video file, or a folder of images.
        output: where to. What is there of other settings is replaced: ask its ``conflict`` first.
        options: how.
        progress: called with the number of flows that are there.

    Raises:
        VideoError: a video that cannot be read, has only one frame, or frames too small for TV-L1.
        ExportError: flow that the format cannot hold, or another run that writes to the same place.
        OSError: a place that cannot be written.
    """
    start = time.perf_counter()
    frames = read_frames(video, fps=options.fps, resize=options.resize, crop=None)
    head = list(islice(frames, 2))
    if len(head) < 2:
        raise VideoError(video, "has only one frame at this rate, and flow is between two")
    height, width = head[0].image.shape[:2]
    if min(height, width) < MIN_SIDE:
        raise VideoError(video, f"is {width}x{height}, too small for flow: enlarge it to {MIN_SIDE} pixels")
    with output.opened():
        there = output.done(height, width)
        times: list[float] = []
        greys = _greys(chain(head, frames), times, there, options.device)
        solved = 0
        for flow in tvl1_video(greys, params=options.params):
            output.add(there + solved, flow)
            solved += 1
            if progress is not None:
                progress(there + solved)
        output.finish(times)
    return Exported(len(times), solved, width, height, time.perf_counter() - start)


def _greys(frames: Iterator[Frame], times: list[float], first: int, device: torch.device) -> Iterator[Tensor]:
    """The grey images from frame ``first`` on; the times of all frames are added to ``times``."""
    for frame in frames:
        times.append(frame.time)
        if frame.index >= first:
            yield to_grey(frame.image.to(device))
