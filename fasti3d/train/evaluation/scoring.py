"""The logits of one video: what a network says of each of its views."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from fasti3d.choices import FlowPreset, Stream
from fasti3d.extraction.clips import filled
from fasti3d.extraction.dense_features import DenseFeatures
from fasti3d.extraction.reading import Reading, ahead, unreadable
from fasti3d.extraction.rows import Watch
from fasti3d.extraction.settings import ExtractionSettings
from fasti3d.flow.checks import BOUND
from fasti3d.flow.encoding import to_flow_clip
from fasti3d.flow.folder import check_flow_count
from fasti3d.flow.params import PRESETS, TVL1Params
from fasti3d.flow.stored import StoredFlow
from fasti3d.flow.stream import CROP, still_flow
from fasti3d.i3d import I3D, clip_for
from fasti3d.models import BATCH, place
from fasti3d.network import MIN_FRAMES
from fasti3d.runtime.upload import upload
from fasti3d.train.data.flow_source import flow_path, open_flow
from fasti3d.train.data.video_dataset import Video
from fasti3d.train.evaluation.views import CLIP_FRAMES, FPS, SHORT_SIDE, Crop, Views
from fasti3d.utils.naming import quoted
from fasti3d.utils.prefetch import batched
from fasti3d.video import VideoError, Window, count_frames
from fasti3d.video.errors import collected_warnings
from fasti3d.video.seek import read_span
from fasti3d.video.survey import Survey, survey
from fasti3d.video.windows import windows_at


@dataclass(frozen=True)
class FlowSource:
    """Where the flow stream's flow comes from.

    Attributes:
        folder: of the videos' flow by their keys or file names: files ``NAME.flow`` of
            ``fasti3d flow --cache``, or folders ``NAME`` of ``flow_x_00001.jpg`` and ``flow_y_00001.jpg``,
            extracted at 25 frames per second and short side 256. None computes flow.
        bound: of pictures of flow, the motion in pixels that 0 and 255 stand for.
        preset, params: how frames become flow, as for ``TwoStreamI3D.forward_frames``.
    """

    folder: Path | None = None
    bound: float = BOUND
    preset: FlowPreset = "readme"
    params: TVL1Params = PRESETS["i3d"]

    def of(self, video: Video) -> StoredFlow | None:
        """Return the flow of a video; None if it is computed.

        Raises:
            VideoError: It is not there, not all of it, or was extracted otherwise.
        """
        if self.folder is None:
            return None
        path = flow_path(self.folder, video)
        if path is None:
            raise VideoError(video.path, f"has no flow in {quoted(self.folder)}: extract it")
        return open_flow(path, self.bound, FPS, SHORT_SIDE)


class Scorer:
    """Computes the logits of a video's views. Can be used by several threads at once.

    Frames are sampled at 25 per second with the short side at 256. ``full`` is one pass over all frames of a
    video, in memory that its length does not change (``fasti3d.dense``), whose logits are averaged over time;
    a clip's are what the network returns for it. N frames have N flows: that of the last one is still, so
    that both streams see the same frames. A video shorter than a clip, or than the 9 frames of the network's
    shortest pass, loops. A pass holds views of one video only, so that logits do not depend on other videos.

    Args:
        model: An ``I3D`` in eval mode.
        stream: ``"rgb"`` or ``"flow"``.
        views: Which views.
        flow: Where flow comes from.
    """

    def __init__(self, model: I3D, stream: Stream, views: Views, flow: FlowSource = FlowSource()) -> None:
        self.views = views
        self._model = model
        self._stream: Stream = stream
        self._flow = flow
        self._device, self._dtype = place(model)
        # Several crops are cut from whole frames; flow is computed from whole frames in any case.
        self._settings = ExtractionSettings(
            streams=stream,
            mode="dense",
            features="Logits",
            fps=FPS,
            partial=True,
            crops=1 if views.crops == 1 else 5,
            flow_preset=flow.preset,
            tvl1_params=flow.params,
            flow_from=flow.folder,
            flow_bound=flow.bound,
        )
        self._dense = DenseFeatures(self._settings, {stream: model})

    def __call__(self, video: Video, watch: Watch | None = None, known: Survey | None = None) -> Tensor:
        """Return the logits of a video.

        Args:
            video: Of a data set; its flow is found by its key.
            watch: What to observe meanwhile.
            known: What ``fasti3d.video.survey`` found of it at 25 frames per second, which is spared then.

        Returns:
            float32 (views, classes) on the CPU.

        Raises:
            VideoError: The video, or its flow, cannot be read.
            FloatingPointError: The logits are not finite.
            StoppedError: The watch says to stop.
            MemoryError, torch.OutOfMemoryError, OSError: Memory or descriptors ran out.
        """
        watch = watch or Watch()
        folder = self._flow.of(video) if self._stream == "flow" else None
        path = video.path
        known = known or _surveyed(path)
        try:
            return self._logits(path, known, watch, folder)
        except VideoError as error:
            # Damaged frames are in packets, and are not decoded.
            frames = _decoded_frames(path) if error.path == path else known.frames
            if frames == known.frames:
                raise
        return self._logits(path, replace(known, frames=frames, origin=None), watch, folder)

    def _logits(self, path: Path, known: Survey, watch: Watch, folder: StoredFlow | None) -> Tensor:
        if self.views.clips:
            starts = self.views.starts(known.frames)
            return self._of_clips(_Clips(path, known, starts, CLIP_FRAMES), watch, folder)
        if known.frames < MIN_FRAMES:
            return self._of_clips(_Clips(path, known, (0,), MIN_FRAMES), watch, folder)
        return self._of_all(path, watch, folder)

    def _of_all(self, path: Path, watch: Watch, folder: StoredFlow | None) -> Tensor:
        """The mean over time, which is added up in double precision, step by step: (1, classes)."""
        total: Tensor | float = 0.0
        steps = 0
        with closing(self._dense(path, watch, folder)) as pieces:
            for rows in pieces:
                if rows is None:
                    total, steps = 0.0, 0
                    continue
                values = rows.features[self._stream].double()
                total, steps = total + values.sum(0), steps + len(values)
        assert isinstance(total, Tensor)
        return (total / steps).float()[None]

    def _of_clips(self, clips: _Clips, watch: Watch, folder: StoredFlow | None) -> Tensor:
        """Of each clip in turn that of each crop: (clips * crops, classes)."""
        if folder is not None:
            check_flow_count(folder, clips.path, FPS)
        found: dict[int, Tensor] = {}
        with closing(self._stacks(clips, watch, folder)) as stacks:
            for start, stack in stacks:
                squares = self.views.squares(*_sides(self._stream, stack))
                parts = []
                for batch in batched(squares, BATCH.get(self._device.type, 1)):
                    watch.check()
                    clip = self._clip(stack, batch)
                    with watch.turn, torch.no_grad():
                        parts.append(self._model(clip_for(self._model, clip)).float().cpu())
                found[start] = torch.cat(parts)
        logits = torch.cat([found[start] for start in clips.starts])
        if not logits.isfinite().all():
            raise FloatingPointError(f"the logits are not finite in {self._dtype}: use dtype float32")
        return logits

    def _stacks(
        self, clips: _Clips, watch: Watch, folder: StoredFlow | None
    ) -> Generator[tuple[int, Tensor], None, None]:
        """The frames (T, H, W, 3) or flow (T, 2, H, W) of each clip, by its start."""
        # T frames have T - 1 flows.
        length = clips.length + (self._stream == "flow")
        starts = sorted(set(clips.starts))
        windows = self._windows(clips, starts, length)
        with closing(ahead(windows, self._settings, self._device, watch, folder)) as found:
            for start in starts:
                window, flow = next(found, (None, None))
                if window is None or len(window.times) < min(length, clips.known.frames - start):
                    raise VideoError(clips.path, "gives other frames each time it is read")
                stack = window.frames
                if flow is not None:
                    still = still_flow(self._flow.preset, self._device)[:, :, :1, :1]
                    sides = flow.shape[2:] if len(flow) else window.frames.shape[1:3]
                    stack = torch.cat((flow, still.expand(1, 2, *sides)))
                yield start, filled(stack, clips.length, "loop")

    def _windows(self, clips: _Clips, starts: list[int], length: int) -> Iterator[Window]:
        """The frames of each clip: of several in one pass, of one from the key frame before it."""
        if len(starts) > 1:
            yield from windows_at(Reading(clips.path, self._settings), starts, length)
            return
        crop = CROP if self._stream == "rgb" and self.views.crops == 1 else None
        try:
            frames = read_span(
                clips.path, starts[0], length, fps=FPS, resize=SHORT_SIDE, crop=crop, known=clips.known
            )
        except VideoError:
            raise
        except Exception as error:
            raise unreadable(clips.path, error) from error
        yield Window(0, starts[0], frames, tuple((starts[0] + i) / FPS for i in range(len(frames))))

    def _clip(self, stack: Tensor, squares: list[Crop]) -> Tensor:
        """Crops of a stack as the network takes them."""
        if self._stream == "rgb":
            cuts = torch.stack([_cut(stack, square, 1) for square in squares])
            return upload(cuts, self._device).permute(0, 4, 1, 2, 3)
        return to_flow_clip(torch.stack([_cut(stack, square, 2) for square in squares])).to(self._dtype)


class _Clips(NamedTuple):
    """The clips of a video: ``length`` frames from each start on."""

    path: Path
    known: Survey
    starts: tuple[int, ...]
    length: int


def _surveyed(path: Path) -> Survey:
    with _looking_at(path):
        return survey(path, fps=FPS)


def _decoded_frames(path: Path) -> int:
    with _looking_at(path):
        return count_frames(path, fps=FPS, decode=True)


@contextmanager
def _looking_at(path: Path) -> Iterator[None]:
    """Inside, any error of a video is a VideoError, and reading it later gives the same warnings."""
    with collected_warnings([]):
        try:
            yield
        except VideoError:
            raise
        except Exception as error:
            raise unreadable(path, error) from error


def _sides(stream: str, stack: Tensor) -> tuple[int, int]:
    height, width = stack.shape[1:3] if stream == "rgb" else stack.shape[2:4]
    return height, width


def _cut(images: Tensor, square: Crop, rows: int) -> Tensor:
    """A square of images whose axes of space begin at ``rows``."""
    top, left = square.corner(*images.shape[rows : rows + 2])
    return images.narrow(rows, top, square.size).narrow(rows + 1, left, square.size)
