"""Makes data sets of tiny real videos in the published layouts; a video is encoded once and copied."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from fractions import Fraction
from functools import cache
from pathlib import Path

import av
import numpy as np
from av.video.frame import VideoFrame

CLASSES = ("ApplyEyeMakeup", "Hammering", "HammerThrow", "HandstandPushups")


@cache
def video_bytes(
    frames: int = 16,
    color: int = 0,
    *,
    suffix: str = ".avi",
    width: int = 64,
    height: int = 48,
    rate: int = 25,
) -> bytes:
    """The bytes of a small video: a square that moves right on a ground of one of some colors."""
    import io

    buffer = io.BytesIO()
    codec, kind = {
        ".avi": ("mpeg4", "avi"),
        ".mp4": ("libx264" if "libx264" in av.codecs_available else "mpeg4", "mp4"),
        ".mkv": ("libx264" if "libx264" in av.codecs_available else "mpeg4", "matroska"),
        ".webm": ("libvpx-vp9" if "libvpx-vp9" in av.codecs_available else "libvpx", "webm"),
    }[suffix]
    with av.open(buffer, "w", format=kind) as container:
        stream = container.add_stream(codec, rate=rate)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for i in range(frames):
            image = np.full((height, width, 3), [(color * 37) % 256, (color * 91) % 256, 128], np.uint8)
            left = (i * 3) % (width - 8)
            image[8:24, left : left + 8] = 255
            frame = VideoFrame.from_ndarray(image, format="rgb24").reformat(format="yuv420p")
            frame.pts, frame.time_base = i, Fraction(1, rate)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return buffer.getvalue()


def write(path: Path, data: bytes | str) -> Path:
    """Write a file, and the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return path


def make_ucf101(
    folder: Path,
    *,
    classes: Sequence[str] = CLASSES,
    groups: int = 4,
    clips: int = 1,
    frames: int = 16,
    end: str = "\r\n",
    lists: str = "ucfTrainTestlist",
    suffix: str = ".avi",
) -> Path:
    """Make ``folder/UCF-101`` with its lists in ``folder/<lists>``, and return the former.

    Each class has ``groups`` groups of ``clips`` clips; split n tests on the n-th quarter of the groups,
    rounded up, and trains on the others.
    """
    root = folder / "UCF-101"
    write(folder / lists / "classInd.txt", "".join(f"{i} {name}{end}" for i, name in enumerate(classes, 1)))
    held = -(-groups // 4)
    for split in (1, 2, 3):
        test = range((split - 1) * held + 1, split * held + 1)
        train_lines, test_lines = [], []
        for label, name in enumerate(classes, 1):
            for group in range(1, groups + 1):
                for clip in range(1, clips + 1):
                    video = ucf101_name(name, group, clip)
                    if group in test:
                        test_lines.append(f"{video}{end}")
                    else:
                        train_lines.append(f"{video} {label}{end}")
                    if split == 1:
                        path = root / Path(video).with_suffix(suffix)
                        write(path, video_bytes(frames, label - 1, suffix=suffix))
        write(folder / lists / f"trainlist{split:02}.txt", "".join(train_lines))
        write(folder / lists / f"testlist{split:02}.txt", "".join(test_lines))
    return root


def ucf101_name(name: str, group: int, clip: int) -> str:
    """A video's name in the lists; one class is spelled otherwise in the names of its files."""
    return f"{name}/v_{name.replace('HandstandP', 'HandStandP')}_g{group:02}_c{clip:02}.avi"


def copy_to(source: Path, target: Path) -> Path:
    target.parent.mkdir(parents=True, exist_ok=True)
    return Path(shutil.copyfile(source, target))
