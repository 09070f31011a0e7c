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
from fasti3d.flow.export.flow_output import FlowOutput
from fasti3d.flow.export.settings import Options
from fasti3d.flow.solve import tvl1_video
from fasti3d.tvl1_limits import MIN_SIDE
from fasti3d.video import Frame, VideoError, read_frames


@dataclass(frozen=True)
class Exported:
    """What a run did.

    Attributes:
        frames: Frames of the video; there is one flow fewer.
        solved: Flows that this run computed; an earlier run made the others.
        width, height: The size of the flow, in pixels.
        seconds: Wall-clock time.
    """

    frames: int
    solved: int
    width: int
    height: int
    seconds: float


def export(
    video: Path, output: FlowOutput, options: Options, *, progress: Callable[[float], None] | None = None
) -> Exported:
    """Write the flow between consecutive frames of a video, continuing where an earlier run stopped.

    N frames give N - 1 flows, float32 (2, H, W) in pixels, x first. Memory does not grow with the length of
    the video.

    Args:
        video: A video file, or a folder of images.
        output: Where the flow goes. Flow of other settings there is replaced: ask its ``conflict`` first.
        options: How flow is computed.
        progress: Called with the number of flows that are done.

    Raises:
        VideoError: The video cannot be read, has only one frame, or its frames are too small for TV-L1.
        ExportError: The format cannot hold the flow, or another run writes to the same place.
        OSError: The place cannot be written to.

    Example:
        >>> options = Options(TVL1Params(), 25.0, 256, torch.device("cpu"), 20.0)  # doctest: +SKIP
        >>> output = FolderOutput(Path("flow"), settings_of(video, "flo", options))  # doctest: +SKIP
        >>> export(video, output, options).frames  # doctest: +SKIP
        250
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
        already_done = output.done(height, width)
        times: list[float] = []
        greys = _greys(chain(head, frames), times, already_done, options.device)
        solved = 0
        for flow in tvl1_video(greys, params=options.params):
            output.add(already_done + solved, flow)
            solved += 1
            if progress is not None:
                progress(already_done + solved)
        output.finish(times)
    return Exported(len(times), solved, width, height, time.perf_counter() - start)


def _greys(frames: Iterator[Frame], times: list[float], first: int, device: torch.device) -> Iterator[Tensor]:
    """The grey images from frame ``first`` on; the times of all frames are added to ``times``."""
    for frame in frames:
        times.append(frame.time)
        if frame.index >= first:
            yield to_grey(frame.image.to(device))
