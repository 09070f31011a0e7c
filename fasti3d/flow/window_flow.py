"""Adds the flow between their frames to the windows of a video."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from threading import Event
from typing import Protocol

import torch
from torch import Tensor

from fasti3d.choices import FlowPreset
from fasti3d.flow.params import TVL1Params
from fasti3d.flow.stream import center, still_flow, stream_flow
from fasti3d.network import MIN_FRAMES
from fasti3d.runtime.upload import upload
from fasti3d.video import Window


@dataclass(frozen=True, eq=False)
class FlowWindow(Window):
    """A window, its frames cropped to the center, and the flow between them.

    Attributes:
        flow: (T-1, 2, 224, 224) as ``stream_flow`` gives it; flow i leads from frame i to frame i + 1.
    """

    flow: Tensor


class PairFlow(Protocol):
    """Where the flow between consecutive frames comes from: ``SolvedFlow``, or ``flow.folder.FolderFlow``.

    Attributes:
        preset: how it is stored.
        device: where it is.
        group: pairs that are asked for at a time.
    """

    preset: FlowPreset
    device: torch.device
    group: int

    def __call__(self, first: int, frames: Tensor) -> Tensor:
        """Flow as ``stream_flow`` stores it, of frames uint8 (n+1, H, W, 3), ``first`` on in the video."""
        ...


class SolvedFlow:
    """Flow by TV-L1 on a device, as ``stream_flow`` says."""

    def __init__(
        self, preset: FlowPreset, params: TVL1Params, device: torch.device, *, cropped: bool = True
    ) -> None:
        self.preset: FlowPreset = preset
        self.device = device
        self.group = _group(device)
        self._params = params
        self._cropped = cropped

    def __call__(self, first: int, frames: Tensor) -> Tensor:
        some = upload(frames, self.device)
        return stream_flow(some, self.preset, self._params, cropped=self._cropped)


def with_flow(windows: Iterator[Window], pairs: PairFlow, stop: Event | None = None) -> Iterator[FlowWindow]:
    """Add the flow to windows of whole frames (``crop=None``) in order; each pair is requested once.

    For a window that overlaps the previous one only the new pairs are requested; pairs outside of all
    windows never are. Only the encoded flow of a window is kept, until the next one.

    A video of fewer than 10 frames has fewer flows than the 9 that the network needs: they are
    repeated from the start, and a single frame has zero flow.

    Args:
        windows: what ``video.windows(..., crop=None)`` gives; at least 224x224 pixels.
        pairs: where flow comes from.
        stop: ends the iteration soon after it is set, possibly within a window.
    """
    for item, flow in with_pair_flow(windows, pairs, stop):
        rows, columns = center(*item.frames.shape[1:3])
        yield FlowWindow(
            item.index,
            item.start,
            item.frames[:, rows, columns].contiguous(),
            item.times,
            _repeated(MIN_FRAMES, flow if len(flow) else still_flow(pairs.preset, pairs.device)),
        )


def with_pair_flow(
    windows: Iterator[Window], pairs: PairFlow, stop: Event | None = None
) -> Iterator[tuple[Window, Tensor]]:
    """Yield unchanged windows with the flow of their own pairs: one less than distinct frames, perhaps none.

    Otherwise as ``with_flow``.
    """
    flow: Tensor | None = None
    first = 0  # the frame that flow[0] leads from
    for item in windows:
        frames = item.frames[: len(set(item.times))]  # without those that a short video repeats
        if flow is not None:
            flow = flow[item.start - first :]
        first = item.start
        while flow is None or len(flow) < len(frames) - 1:
            if stop is not None and stop.is_set():
                return
            done = 0 if flow is None else len(flow)
            more = pairs(first + done, frames[done : done + pairs.group + 1])
            flow = more if flow is None else torch.cat((flow, more))
        if flow.is_cuda:
            # The consumer may be in another thread and on another stream.
            torch.cuda.current_stream(pairs.device).synchronize()
        yield item, flow


def _repeated(count: int, flow: Tensor) -> Tensor:
    return flow if len(flow) >= count else flow[torch.arange(count) % len(flow)]


def _group(device: torch.device) -> int:
    """Pairs per call: enough to occupy all processors, few enough to take seconds."""
    return 64 if device.type == "cuda" else max(16, 4 * torch.get_num_threads())
