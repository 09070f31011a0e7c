"""From a video to its windows and the flow in them, made ahead of need in bounded memory."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import torch
from torch import Tensor

from fasti3d.extraction.rows import Watch
from fasti3d.extraction.settings import ExtractionSettings
from fasti3d.flow.folder import FolderFlow
from fasti3d.flow.stored import StoredFlow
from fasti3d.flow.window_flow import PairFlow, SolvedFlow, with_pair_flow
from fasti3d.utils.prefetch import READ_AHEAD, read_ahead
from fasti3d.video import Frame, VideoError, Window
from fasti3d.video.errors import blamed
from fasti3d.video.pillow import PillowTransform
from fasti3d.video.read import read_sized, read_transformed


class Reading:
    """The frames of a video as the settings ask for them, counted; any error of the video is a VideoError."""

    def __init__(self, path: Path, settings: ExtractionSettings) -> None:
        crop = None if settings.flowing or settings.crop_count > 1 else settings.crop_side
        strict, size = not settings.partial, settings.preprocessing.size
        self._path = path
        self._frames: Iterable[Frame]
        if settings.layout == "video_features":
            transform = PillowTransform(settings.preprocessing.short_side, crop)
            self._frames = read_transformed(path, transform, fps=settings.rate, strict=strict)
        else:
            self._frames = read_sized(path, size, crop, fps=settings.rate, strict=strict)
        self.count = 0

    def __iter__(self) -> Iterator[Frame]:
        try:
            for frame in self._frames:
                self.count += 1
                yield frame
        except VideoError:
            raise
        except Exception as error:
            # No file in a long list may stop the others, however odd it is.
            raise unreadable(self._path, error) from error


def unreadable(path: Path, error: Exception) -> VideoError:
    """Return the error for a video that raises an unforeseen one."""
    return blamed(path, f"cannot be read ({type(error).__name__}: {error})", error)


def ahead(
    windows: Iterator[Window],
    settings: ExtractionSettings,
    device: torch.device,
    watch: Watch,
    folder: StoredFlow | None = None,
) -> Generator[tuple[Window, Tensor | None], None, None]:
    """Yield the windows in order, with their flow if it is needed; each made ahead, in a thread of its own.

    ``folder``: The folder from which flow is read instead of computed.
    """
    with ExitStack() as threads:
        read = threads.enter_context(closing(read_ahead(windows, READ_AHEAD)))
        if not settings.flowing:
            for window in read:
                watch.check()
                yield window, None
            return
        cropped = settings.crop_count == 1
        pairs: PairFlow
        if folder is None:
            pairs = SolvedFlow(settings.flow_preset, settings.tvl1_params, device, cropped=cropped)
        else:
            pairs = FolderFlow(folder, device, cropped=cropped)
        flows = with_pair_flow(read, pairs, watch.stop)
        for found in threads.enter_context(closing(read_ahead(flows, READ_AHEAD))):
            watch.check()
            yield found
        watch.check()  # flow ends early when it is time to stop
