"""Reads flow from the pictures that denseflow, TSN's tools and ``fasti3d flow --layout denseflow`` write."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from av.error import FFmpegError
from av.packet import Packet
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame
from numpy.typing import NDArray

from fasti3d.choices import FlowPreset
from fasti3d.flow.checks import BOUND, check_bound
from fasti3d.flow.encoding import decode_denseflow, encode_readme, to_flow_clip, to_grey
from fasti3d.flow.stored import StoredFlow
from fasti3d.flow.stream import center
from fasti3d.utils.naming import output_name
from fasti3d.video import VideoError, count_frames
from fasti3d.video.errors import blamed, collected_warnings

StrPath = str | os.PathLike[str]

_NAME = re.compile(r"flow_([xy])_(\d{4,})\.(jpe?g|png)", re.IGNORECASE)
_DECODERS = {"jpg": "mjpeg", "jpeg": "mjpeg", "png": "png"}
# Damage is an error; otherwise decoders would conceal it.
_OPTIONS = {"err_detect": "crccheck+bitstream+buffer+explode", "max_pixels": str(1 << 26)}
_JPEG_END = b"\xff\xd9"
# Frames of one shape are scaled to sides that differ by this much, in pixels, with what rounds them; TSN
# squeezes frames of 341x256 to 340x256.
_SIDES_MAY_DIFFER = 2


class FlowFolder:
    """The flow of one video as pictures: flow_x_00001.jpg and flow_y_00001.jpg, 8-bit grayscale, and so on.

    Numbers have four digits or more, start at 0 or 1 and have no gap; pictures are JPEG or PNG. The first
    two lead from the first frame to the second.

    Args:
        path: the folder.
        bound: the bound that they were encoded with, in pixels: 0 stands for -bound, 128 for no motion.

    Attributes:
        path, bound: as given.

    Raises:
        ValueError: a bound that is not above 0.
        VideoError: no such folder, no flow in it, or a missing picture, whose path it then has.

    Source: github.com/open-mmlab/denseflow; github.com/yjxiong/temporal-segment-networks.

    Example:
        >>> len(FlowFolder("flow/video"))  # doctest: +SKIP
        249
    """

    def __init__(self, path: StrPath, bound: float = BOUND) -> None:
        check_bound(bound)
        self.path, self.bound = Path(path), bound
        self._check_record()
        self._files = self._found()
        self._size: tuple[int, int] | None = None

    def __len__(self) -> int:
        """The number of flows."""
        return len(self._files)

    def state(self) -> dict[str, Any]:
        """The number, size and time of change of the pictures, in JSON's types.

        Raises:
            VideoError: one that is gone.
        """
        try:
            states = [path.stat() for pair in self._files for path in pair]
        except OSError as error:
            raise blamed(self.path, f"cannot be read: {error.strerror}", error) from error
        return {
            "folder": str(self.path.absolute()),
            "flows": len(self),
            "bytes": sum(state.st_size for state in states),
            "modified_ns": max(state.st_mtime_ns for state in states),
        }

    def read(self, first: int, count: int) -> NDArray[np.float32]:
        """Flows ``first`` and those that follow, counted from 0: float32 (count, 2, H, W) in pixels.

        Raises:
            VideoError: a picture that cannot be read, or of another size than the others; or there are not
                so many. Its path is that of the picture, or of the folder.
        """
        if first + count > len(self):
            raise VideoError(
                self.path, f"holds {len(self)} flows, fewer than the {first + count} that are needed"
            )
        pictures = [[self._picture(path) for path in pair] for pair in self._files[first : first + count]]
        return decode_denseflow(np.array(pictures), self.bound)

    def check_frames(self, count: int) -> None:
        """VideoError if these are not the flows of ``count`` frames: one less, or as many."""
        if len(self) not in (count - 1, count):
            raise VideoError(
                self.path,
                f"holds {len(self)} flows, which are those of {len(self)} or {len(self) + 1} frames, but the "
                f"video is sampled to {count}: give the fps that the flow was extracted at (native, or None "
                "in Python, for each frame of the video)",
            )

    def _check_record(self) -> None:
        """VideoError where ``fasti3d flow`` says that it was not done, or made with another bound."""
        try:
            record = json.loads((self.path / "flow.json").read_bytes())
            bound = record["settings"]["bound"]
            done = "pairs" in record
        except (OSError, ValueError, TypeError, KeyError, RecursionError):
            return
        if not done:
            raise VideoError(self.path, "is unfinished: let `fasti3d flow` complete it first")
        if isinstance(bound, float) and bound != self.bound:
            raise VideoError(
                self.path, f"was made with a bound of {bound:g}, not {self.bound:g}: give that one"
            )

    def _found(self) -> list[tuple[Path, Path]]:
        """The pictures of x and y, in order."""
        axes: dict[str, dict[int, Path]] = {"x": {}, "y": {}}
        try:
            names = sorted(os.listdir(self.path))
        except OSError as error:
            raise blamed(self.path, f"cannot be read as a folder of flow: {error.strerror}", error) from error
        for name in names:
            if match := _NAME.fullmatch(name):
                axis, number = axes[match[1].lower()], int(match[2])
                if number in axis:
                    raise VideoError(self.path, f"holds a flow twice: {axis[number].name} and {name}")
                axis[number] = self.path / name
        numbers = axes["x"].keys() | axes["y"].keys()
        if not numbers:
            raise VideoError(self.path, "holds no flow: no flow_x_00001.jpg")
        first = min(min(numbers), 1)
        for number in range(first, max(numbers) + 1):
            for name, other in ("xy", "yx"):
                if number not in axes[name]:
                    raise VideoError(self._missing(axes, name, other, number), "is missing")
        return [(axes["x"][number], axes["y"][number]) for number in sorted(numbers)]

    def _missing(self, axes: dict[str, dict[int, Path]], axis: str, other: str, number: int) -> Path:
        """The name that it would have, by one that is there."""
        like = axes[other].get(number) or next(iter((axes[axis] or axes[other]).values()))
        digits = len(like.stem.split("_")[2])
        return self.path / f"flow_{axis}_{number:0{digits}}{like.suffix}"

    def _picture(self, path: Path) -> NDArray[np.uint8]:
        picture = _read_grey(path)
        size = picture.shape[:2]
        if self._size is None:
            self._size = size
        if size != self._size:
            raise VideoError(
                path, f"is {size[1]}x{size[0]}, but others of its folder are {self._size[1]}x{self._size[0]}"
            )
        return picture


def flow_folder(parent: StrPath, video: StrPath, bound: float = BOUND) -> FlowFolder:
    """The flow of a video in a folder of such folders: that of its name, of a file without the suffix.

    Raises:
        ValueError, VideoError: as ``FlowFolder``.
    """
    return FlowFolder(Path(parent) / output_name(video, is_folder=os.path.isdir(video)), bound)


def check_flow_count(folder: StoredFlow, video: Path, fps: float | None) -> None:
    """Check early whether the flow can be that of the video's frames at a rate; reading it makes certain.

    Raises:
        VideoError: it cannot; or a video that cannot be read.
    """
    with collected_warnings([]):  # reading it warns of the same
        for decode in (False, True):
            count = count_frames(video, fps=fps, decode=decode)
            if len(folder) in (count - 1, count):
                return
    folder.check_frames(count)


class FolderFlow:
    """The flow of the frames of a video, read from its folder or file: see ``flow.window_flow.PairFlow``.

    Args:
        folder: of the whole video, sampled as its frames are.
        device: where flow is put.
        cropped: whether the center 224x224 is cut from it.
    """

    preset: FlowPreset = "readme"

    def __init__(self, folder: StoredFlow, device: torch.device, *, cropped: bool = True) -> None:
        self._folder = folder
        self._cropped = cropped
        self.device = device
        self.group = 64

    def __call__(self, first: int, frames: torch.Tensor) -> torch.Tensor:
        """The flow between frames (n+1, H, W, 3), from frame ``first`` of the video on: (n, 2, 224, 224).

        Raises:
            VideoError: as ``FlowFolder.read``; or flow of another size than the frames.
        """
        wanted = frames.shape[1:3]
        if len(frames) == 1:
            flow = torch.zeros((0, 2, *wanted))
        else:
            flow = torch.from_numpy(self._folder.read(first, len(frames) - 1))
        sides = flow.shape[2:]
        if max(abs(side - other) for side, other in zip(sides, wanted, strict=True)) > _SIDES_MAY_DIFFER:
            raise VideoError(
                self._folder.path,
                f"holds flow of {sides[1]}x{sides[0]}, but that of frames whose short side is 256, "
                f"{wanted[1]}x{wanted[0]}, is needed: extract it at that size",
            )
        rows, columns = center(*sides) if self._cropped else (slice(wanted[0]), slice(wanted[1]))
        return encode_readme(flow[..., rows, columns]).to(self.device)


def read_clips(
    flow_from: StrPath | Sequence[StrPath], frames: torch.Tensor, first: int | Sequence[int], bound: float
) -> torch.Tensor:
    """The flow network's input for clips of frames: see ``TwoStreamI3D.forward_frames``.

    Args:
        flow_from: a folder per clip.
        frames: uint8 (N, T, H, W, 3).
        first: the number in its video of each clip's first frame, or of all clips'.
        bound: that of the folders.

    Returns:
        float32 (N, 2, T-1, 224, 224) in [-1, 1], on the device of the frames.

    Raises:
        ValueError: not a folder and a number for each clip.
        VideoError: as ``FlowFolder`` and ``FolderFlow``.
    """
    folders = [flow_from] if isinstance(flow_from, str | os.PathLike) else list(flow_from)
    starts = [first] * len(frames) if isinstance(first, int) else list(first)
    if not len(folders) == len(starts) == len(frames):
        raise ValueError(
            f"flow_from and first must have one entry per clip, {len(frames)}, got {len(folders)} and "
            f"{len(starts)}"
        )
    if min(starts) < 0:
        raise ValueError(f"first must be at least 0, got {min(starts)}")
    flows = [
        FolderFlow(FlowFolder(folder, bound), frames.device)(start, clip)
        for folder, start, clip in zip(folders, starts, frames, strict=True)
    ]
    return to_flow_clip(torch.stack(flows))


def _read_grey(path: Path) -> NDArray[np.uint8]:
    """A picture (H, W) of 8 bits; one in color as its luma."""
    try:
        if not path.is_file():
            raise VideoError(path, "is not a file")
        data = path.read_bytes()
    except OSError as error:
        raise blamed(path, f"cannot be read: {error.strerror}", error) from error
    kind = _DECODERS[path.suffix[1:].lower()]
    if kind == "mjpeg" and _JPEG_END not in data:
        raise VideoError(path, f"is cut off, or not a JPEG file ({len(data)} bytes)")
    context = VideoCodecContext.create(kind, "r")
    assert isinstance(context, VideoCodecContext)
    context.options = _OPTIONS
    try:
        (frame,) = [*context.decode(Packet(data)), *context.decode(None)]
    except (FFmpegError, ValueError) as error:
        raise blamed(path, "is broken: it cannot be decoded", error) from error
    return _grey(path, frame)


def _grey(path: Path, frame: VideoFrame) -> NDArray[np.uint8]:
    if frame.format.components[0].bits != 8:
        raise VideoError(path, f"has {frame.format.components[0].bits} bits, but flow is stored in 8")
    if frame.format.name == "gray":
        return np.asarray(frame.to_ndarray(), np.uint8)
    if frame.format.name.startswith("yuv"):
        luma = frame.planes[0]
        rows = np.frombuffer(bytes(luma), np.uint8).reshape(-1, luma.line_size)
        return rows[: luma.height, : luma.width]
    return to_grey(frame.to_ndarray(format="rgb24"))
