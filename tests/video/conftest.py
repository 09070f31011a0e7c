"""Makes odd videos with PyAV: nothing here comes from a file in the repository."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from av.video.frame import VideoFrame
from video_making import WriteVideo


@pytest.fixture
def write_video(tmp_path: Path) -> WriteVideo:
    def write(
        name: str,
        frames: Iterable[VideoFrame],
        *,
        codec: str = "ffv1",
        pts: Iterable[int] | None = None,
        time_base: Fraction = Fraction(1, 1000),
        rate: int | Fraction = 25,
        format: str | None = None,
        options: dict[str, str] | None = None,
        container_options: dict[str, str] | None = None,
        sample_aspect_ratio: Fraction | None = None,
    ) -> Path:
        """Writes frames at ``rate``, or at ``pts`` times ``time_base`` seconds."""
        path = tmp_path / name
        frames = list(frames)
        if pts is None:
            time_base = 1 / Fraction(rate)
            pts = range(len(frames))
        # Given as an open file, so that no name means anything to FFmpeg here.
        with (
            path.open("wb") as file,
            av.open(file, "w", format=format or _format(path), options=container_options or {}) as container,
        ):
            stream = container.add_stream(codec, rate=rate, options=options or {})
            stream.width, stream.height = frames[0].width, frames[0].height
            stream.pix_fmt = frames[0].format.name
            stream.codec_context.time_base = time_base
            if sample_aspect_ratio is not None:
                stream.codec_context.sample_aspect_ratio = sample_aspect_ratio
            stream.codec_context.color_range = frames[0].color_range
            stream.codec_context.colorspace = frames[0].colorspace
            for frame, stamp in zip(frames, pts, strict=True):
                frame.pts, frame.time_base = stamp, time_base
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
        return path

    return write


@pytest.fixture
def write_image(write_video: WriteVideo) -> Callable[[Path, np.ndarray], Path]:
    def write(path: Path, rgb: np.ndarray) -> Path:
        """Writes an RGB (H, W, 3), RGBA (H, W, 4) or grey (H, W) image as png, jpg, bmp or webp."""
        codec, formats = {
            ".png": ("png", {2: "gray", 3: "rgb24", 4: "rgba"}),
            ".jpg": ("mjpeg", {3: "yuvj444p"}),
            ".bmp": ("bmp", {3: "bgr24"}),
            ".webp": ("libwebp", {3: "bgra"}),
        }[path.suffix.lower()]
        channels = rgb.shape[2] if rgb.ndim == 3 else 2
        source = {2: "gray", 3: "rgb24", 4: "rgba"}[channels]
        frame = VideoFrame.from_ndarray(rgb, format=source).reformat(format=formats[channels])
        options = {"lossless": "1"} if path.suffix == ".webp" else {}
        context = av.CodecContext.create(codec, "w")
        context.width, context.height, context.pix_fmt = frame.width, frame.height, frame.format.name
        context.time_base = Fraction(1, 25)
        context.options = options
        packets = [*context.encode(frame), *context.encode(None)]
        path.write_bytes(b"".join(bytes(packet) for packet in packets))
        return path

    return write


def _format(path: Path) -> str:
    formats = {".mkv": "matroska", ".ts": "mpegts", ".h264": "h264"}
    return formats.get(path.suffix, path.suffix[1:])
