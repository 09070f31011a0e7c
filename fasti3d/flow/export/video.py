"""A colour video of flow, encoded in parts so that a later run can continue it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.container import OutputContainer
from av.error import FFmpegError
from av.video.frame import VideoFrame
from av.video.reformatter import ColorRange, Colorspace
from av.video.stream import VideoStream
from torch import Tensor

from fasti3d.flow.colour import flow_to_rgb
from fasti3d.flow.export.flow_output import ExportError, FileOutput
from fasti3d.utils.naming import quoted
from fasti3d.utils.parsing import Json, parse_json

# Frames per part, which starts with a key frame: the most that a kill costs.
PART = 50
# Seconds per tick of the clock, of which every usual rate has a whole number per frame.
_CLOCK = Fraction(1, 90_000)


class VideoOutput(FileOutput):
    """An mp4 with one frame per pair, shown from the time of the pair's first frame to that of its second.

    H.264 if this build of FFmpeg can write it, else MPEG-4; 4:2:0, so that every player shows it.
    """

    def __init__(self, target: Path, settings: Json) -> None:
        super().__init__(target, settings)
        self._part: _Part | None = None

    def done(self, height: int, width: int) -> int:
        parts = self._parts()
        return _end(parts[-1]) if parts else 0

    def add(self, index: int, flow: Tensor) -> None:
        rgb = flow_to_rgb(flow, max_magnitude=self._settings["max_magnitude"]).cpu().numpy()
        # Two by two pixels share a colour: at an odd side the last row or column is repeated.
        rgb = np.pad(rgb, ((0, rgb.shape[0] % 2), (0, rgb.shape[1] % 2), (0, 0)), mode="edge")
        if self._part is None:
            self._part = _Part(self._unfinished, index, rgb.shape[1], rgb.shape[0])
        self._part.add(rgb)
        if self._part.end % PART == 0:
            self._end_part()

    def finish(self, times: list[float]) -> None:
        self._end_part()
        super().finish(times)

    @contextmanager
    def opened(self) -> Iterator[None]:
        with super().opened():
            try:
                yield
            except FFmpegError as error:
                if isinstance(error, OSError | MemoryError):
                    raise
                raise ExportError(
                    f"{quoted(self.target)}: FFmpeg cannot encode these frames ({error.strerror}): choose "
                    "another --resize, or write a .npz"
                ) from error
            finally:
                if self._part is not None:
                    self._part.container.close()

    def _end_part(self) -> None:
        if self._part is not None:
            self._part.finish()
            # Named after the frames in it; the last one may be short.
            os.replace(self._unfinished, self._folder / f"{self._part.start:08}-{self._part.end:08}.mp4")
            self._part = None

    def _join(self, path: Path, times: list[float]) -> None:
        ticks = [round(seconds / _CLOCK) for seconds in times]
        for i in range(1, len(ticks)):  # frames may follow each other faster than the clock ticks
            ticks[i] = max(ticks[i], ticks[i - 1] + 1)
        index = 0
        with av.open(str(path), "w", format="mp4", options={"movflags": "+faststart"}) as whole:
            whole.metadata["comment"] = json.dumps(self._settings)
            stream: VideoStream | None = None
            for part in self._parts():
                with av.open(str(part)) as container:
                    if stream is None:
                        stream = whole.add_stream_from_template(container.streams.video[0])
                        stream.time_base = _CLOCK
                    for packet in container.demux(video=0):
                        if not packet.size:
                            continue  # the sign that the part ends
                        packet.stream, packet.time_base = stream, _CLOCK
                        packet.pts = packet.dts = ticks[index]
                        packet.duration = ticks[index + 1] - ticks[index]
                        whole.mux(packet)
                        index += 1

    def _inside(self) -> Any:
        try:
            with av.open(str(self.target)) as container:
                return parse_json(container.metadata["comment"])
        except (OSError, FFmpegError, ValueError, KeyError):
            return None

    @property
    def _unfinished(self) -> Path:
        return self._folder / "part.mp4"

    def _parts(self) -> list[Path]:
        return sorted(self._folder.glob("*-*.mp4"))


def _end(part: Path) -> int:
    return int(part.stem.split("-")[1])


class _Part:
    """Frames from ``start`` up to ``end``, encoded to a file of their own."""

    def __init__(self, path: Path, start: int, width: int, height: int) -> None:
        self.start = self.end = start
        self.container: OutputContainer = av.open(str(path), "w", format="mp4")
        if "libx264" in av.codecs_available:
            codec, options = "libx264", {"crf": "16"}
        else:
            codec, options = "mpeg4", {"qmin": "2", "qmax": "4"}
        stream = self.container.add_stream(codec, rate=25, options=options)
        assert isinstance(stream, VideoStream)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        # No frame waits for a later one, so that parts follow each other without a seam.
        stream.codec_context.max_b_frames = 0
        stream.codec_context.gop_size = PART
        stream.codec_context.colorspace = Colorspace.ITU601
        stream.codec_context.color_range = ColorRange.MPEG
        self._stream = stream

    def add(self, rgb: np.ndarray) -> None:
        frame = VideoFrame.from_ndarray(rgb, format="rgb24").reformat(
            format="yuv420p", dst_colorspace=Colorspace.ITU601, dst_color_range=ColorRange.MPEG
        )
        frame.pts, frame.time_base = self.end - self.start, Fraction(1, 25)
        self.container.mux(self._stream.encode(frame))
        self.end += 1

    def finish(self) -> None:
        self.container.mux(self._stream.encode(None))
        self.container.close()
