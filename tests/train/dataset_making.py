"""Makes data sets of tiny real videos in the published layouts; a video is encoded once and copied."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
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


# Names as they are in HMDB-51, one with each odd character.
ODD_NAMES = (
    "April_09_brush_hair_u_nm_np1_ba_goo_0.avi",
    "#20_Rhythm_clap_u_nm_np1_fr_goo_0.avi",
    "Ellen_Page_[HQ]_clap_h_nm_np1_fr_med_1.avi",
    "Fechten_(Degen);_Foo_u_cm_np1_ri_bad_2.avi",
    "Oh!_What_&_Why_u_cm_np2_le_med_3.avi",
    "kick@home~1+1_f_cm_np1_ba_bad_4.avi",
)


def make_hmdb51(
    folder: Path,
    *,
    classes: Sequence[str] = ("brush_hair", "climb", "climb_stairs", "kick", "kick_ball"),
    lists: str = "testTrainMulti_7030_splits",
    frames: int = 16,
    end: str = " \n",
) -> Path:
    """Make ``folder/hmdb51_org`` and its lists beside it, and return the former.

    Each class has the six odd names: split n tests on the n-th, does not use the last, and trains on others.
    """
    root = folder / "hmdb51_org"
    for label, name in enumerate(classes):
        for odd in ODD_NAMES:
            write(root / name / odd, video_bytes(frames, label))
        for split in (1, 2, 3):
            marks = [
                2 if i == split - 1 else 0 if i == len(ODD_NAMES) - 1 else 1 for i in range(len(ODD_NAMES))
            ]
            lines = [f"{odd} {mark}{end}" for odd, mark in zip(ODD_NAMES, marks, strict=True)]
            write(folder / lists / f"{name}_test_split{split}.txt", "".join(lines))
    return root


KINETICS_CLASSES = (
    "air drumming",
    "hurling (sport)",
    "massaging person's head",
    "passing American football (in game)",
)


def make_kinetics(
    folder: Path,
    *,
    classes: Sequence[str] = KINETICS_CLASSES,
    clips: int = 3,
    frames: int = 16,
    suffix: str = ".mp4",
    class_folder: Callable[[str], str] | None = lambda label: label.replace(" ", "_"),
    times: str = "{}",
) -> Path:
    """Make ``folder/k400`` with train and val videos and their CSV files, and return it.

    Args:
        class_folder: the name of a class's folder; None puts videos of all classes into one.
        times: how times are written, such as ``{}.0``.
    """
    root = folder / "k400"
    for subset, count in (("train", clips), ("val", 1)):
        lines = ["label,youtube_id,time_start,time_end,split"]
        for label, name in enumerate(classes):
            for clip in range(count):
                video = f"{'-_a'[clip % 3]}{subset}{label}{clip}xyz"[:11]
                start, end = (times.format(t) for t in (10 * clip, 10 * clip + 10))
                quote = '"' if " " in name else ""
                lines.append(f"{quote}{name}{quote},{video},{start},{end},{subset}")
                file = f"{video}_{10 * clip:06}_{10 * clip + 10:06}{suffix}"
                place = root / subset / (class_folder(name) if class_folder else "") / file
                write(place, video_bytes(frames, label, suffix=suffix))
        write(root / "annotations" / f"{subset}.csv", "\n".join(lines) + "\n")
    return root


def make_folder(
    root: Path,
    *,
    classes: Sequence[str] = ("cat", "dog"),
    videos: int = 5,
    frames: int = 16,
    name: str = "v{}.avi",
) -> Path:
    """Make a folder per class with videos called ``name``, and return the root."""
    for label, class_name in enumerate(classes):
        for i in range(videos):
            write(root / class_name / name.format(i), video_bytes(frames, label))
    return root
