"""The features of a video's windows: stacks of frames and of flow, each through its network."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from fasti3d.extraction import clips
from fasti3d.extraction.reading import Reading, ahead
from fasti3d.extraction.rows import Row, Rows, Watch, finite, shown_until
from fasti3d.extraction.settings import ExtractionSettings
from fasti3d.extraction.streams import StreamFeatures
from fasti3d.flow.folder import check_flow_count
from fasti3d.flow.stored import StoredFlow
from fasti3d.models import BATCH, VideoNetwork
from fasti3d.utils.prefetch import batched
from fasti3d.video import Frame, VideoError, Window
from fasti3d.video.windows import cut_windows


class _Stack(NamedTuple):
    """What the networks see of a window: the same number of frames, and of flows, for every window."""

    where: Row
    streams: dict[str, Tensor]


class WindowFeatures(StreamFeatures):
    """Features of the windows of a video. Can be pickled, and used by several threads at once.

    A window is one row. Frames have the size of the network's preprocessing, I3D's a short side of 256
    pixels, of which the network sees the crops of ``clips.views``, I3D 224x224. With several of them,
    features have an axis of them after that of the windows. Flow of a mirrored crop is that of the upright
    frames, mirrored and x negated: TV-L1 of mirrored frames, whose differences are one-sided, differs by 0.01
    pixels on average in a clip that moves by 1.5. Batches hold windows of one video only, so that a video's
    features do not depend on the other videos.

    Memory does not grow with the length of the video: some windows of uint8 frames and encoded flow.

    Args:
        settings: What to extract.
        models: The network of each stream, in eval mode, all on one device and in one dtype.
    """

    def __init__(self, settings: ExtractionSettings, models: dict[str, VideoNetwork]) -> None:
        super().__init__(settings, models)
        self._batch = BATCH.get(self._device.type, 1)

    def __call__(
        self, path: Path, watch: Watch, folder: StoredFlow | None = None
    ) -> Generator[Rows, None, int]:
        """Yield the rows of a video, as ``Producer`` says."""
        if folder is not None:
            check_flow_count(folder, path, self._settings.rate)
        counted = Reading(path, self._settings)
        given = False
        with closing(self._stacks(counted, watch, folder)) as stacks:
            for group in batched(stacks, max(1, self._batch // len(self._views))):
                given = True
                yield Rows(
                    tuple(stack.where for stack in group),
                    {name: self._features(name, group, watch) for name in self._models},
                )
        if folder is not None:
            folder.check_frames(counted.count)
        if not given:
            remedy = "the layout default" if self._settings.layout == "anomaly" else "tail pad or loop"
            raise VideoError(
                path,
                f"has {counted.count} frames, fewer than the {self._settings.span} of a window, and its tail "
                f"is dropped: use {remedy}",
            )
        return counted.count

    def _stacks(
        self, frames: Iterable[Frame], watch: Watch, folder: StoredFlow | None
    ) -> Generator[_Stack, None, None]:
        """The windows to look at, in order."""
        settings = self._settings
        windows: Iterator[Window] = cut_windows(frames, settings.span, settings.stride)
        if settings.tail_policy == "drop":
            windows = (window for window in windows if len(window.times) == settings.span)
        with closing(ahead(windows, settings, self._device, watch, folder)) as found:
            for window, flow in found:
                yield self._stack(window, flow)

    def _stack(self, window: Window, flow: Tensor | None) -> _Stack:
        settings = self._settings
        streams = {}
        if "rgb" in self._models:
            streams["rgb"] = clips.filled(
                window.frames[: settings.reach : settings.every], settings.window, settings.tail_policy
            )
        if flow is not None:
            # Nothing moves in a frame that is repeated.
            streams["flow"] = clips.filled(flow, settings.span - 1, settings.tail_policy, self._still())
        return _Stack(self._row(window), streams)

    def _row(self, window: Window) -> Row:
        times, count = window.times, min(len(window.times), self._settings.reach)
        end = times[count] if len(times) > count else shown_until(times, self._settings.rate)
        return Row(window.start, window.start + count, times[0], end)

    def _features(self, stream: str, group: list[_Stack], watch: Watch) -> Tensor:
        """float32 (windows, ...), or (windows, views, ...) if there are several, on the CPU."""
        wanted = ((stack.streams[stream], view) for stack in group for view in self._views)
        parts = []
        for batch in batched(wanted, self._batch):
            watch.check()
            # Before its turn: frames are copied to a GPU while it is busy with another video.
            frames = self._clip(stream, batch) if stream == "rgb" else None
            with watch.turn, torch.no_grad():
                clip = self._clip(stream, batch) if frames is None else frames
                found = clips.features(self._models[stream], clip, self._settings)
                parts.append(finite(stream, found))
        values = torch.cat(parts)
        return values if len(self._views) == 1 else values.unflatten(0, (len(group), len(self._views)))
