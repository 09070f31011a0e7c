"""How each implementation prepares the frames of a video for its network: one table, by name.

Nothing here imports torch, so that settings are checked at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from fasti3d.utils.parsing import Json


class Normalization(NamedTuple):
    """What a clip is in units of RGB 0 to 255: (frames - mean) / std, per channel."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]


NORMALIZATIONS: Mapping[str, Normalization] = {
    # [-1, 1]: I3D's, and what the usual code for features of video anomaly detection does.
    "symmetric": Normalization((127.5,) * 3, (127.5,) * 3),
    # 0.45 and 0.225 of 0 to 1: video-nonlocal-net, PySlowFast and pytorchvideo.
    "facebook": Normalization((114.75,) * 3, (57.375,) * 3),
    "imagenet": Normalization((123.675, 116.28, 103.53), (58.395, 57.12, 57.375)),
    "torchvision": Normalization(
        (0.43216 * 255, 0.394666 * 255, 0.37645 * 255), (0.22803 * 255, 0.22145 * 255, 0.216989 * 255)
    ),
}


class Preprocessing(NamedTuple):
    """How an implementation prepares RGB frames.

    Attributes:
        name: its key in ``PREPROCESSINGS``.
        normalization: a name in ``NORMALIZATIONS``.
        frames, step: frames per clip, and frames of the video per frame of the clip.
        views: clips per video times crops per clip, in its published accuracy.
        fps: frames per second of the video; None takes every frame.
        size: of the shorter side, or height and width, to which frames are stretched.
        crop: the side of the crops that have a margin; three crops are squares of the whole shorter side.
    """

    name: str
    normalization: str
    frames: int
    step: int
    views: tuple[int, int]
    fps: float | None = None
    size: int | tuple[int, int] = 256
    crop: int = 224

    @property
    def mean(self) -> tuple[float, float, float]:
        """Per channel, in units of 0 to 255."""
        return NORMALIZATIONS[self.normalization].mean

    @property
    def std(self) -> tuple[float, float, float]:
        """Per channel, in units of 0 to 255."""
        return NORMALIZATIONS[self.normalization].std

    @property
    def short_side(self) -> int:
        """The shorter side of the frames that are cut, in pixels."""
        return self.size if isinstance(self.size, int) else min(self.size)


_TEST = (10, 3)

PREPROCESSINGS: Mapping[str, Preprocessing] = {
    row.name: row
    for row in (
        Preprocessing("i3d", "symmetric", 64, 1, (1, 1), fps=25.0),
        Preprocessing("caffe2-32x2", "facebook", 32, 2, _TEST),
        Preprocessing("caffe2-8x8", "facebook", 8, 8, _TEST),
        Preprocessing("pytorchvideo-8x8", "facebook", 8, 8, _TEST, fps=30.0),
        Preprocessing("mmaction2-32x2", "imagenet", 32, 2, _TEST),
        Preprocessing("mmaction2-8x8", "imagenet", 8, 8, _TEST),
        Preprocessing("torchvision", "torchvision", 16, 1, (5, 1), fps=15.0, size=(128, 171), crop=112),
        # Of GowthamGottimukkala/I3D_Feature_Extraction_resnet: ten crops of snippets of 16 frames.
        Preprocessing("anomaly", "symmetric", 16, 1, (1, 10), size=(256, 340)),
    )
}


def in_words(recorded: Json) -> str:
    """What ``record`` returned, in one line."""
    every = "" if recorded["step"] == 1 else f", one in {recorded['step']} of the video's"
    rate = "the video's rate" if recorded["fps"] is None else f"{recorded['fps']:g} per second"
    return (
        f"prepared as {recorded['name']}: {recorded['frames']} frames{every} at {rate}, crops of "
        f"{recorded['crop']}x{recorded['crop']}, normalization {recorded['normalization']}"
    )


def record(
    row: Preprocessing,
    *,
    normalization: str,
    fps: float | None,
    frames: int,
    step: int,
    crops: list[str],
    crop: int,
) -> Json:
    """What an output says of how its clips were prepared, in JSON's types.

    Args:
        row: the implementation's, from which the size of the frames comes.
        normalization, fps, frames, step: what was used in place of the row's.
        crops: names of the crops, in the order of the features' axis.
        crop: their side in pixels.
    """
    chosen = NORMALIZATIONS[normalization]
    return {
        "name": row.name,
        "normalization": normalization,
        "range": [0, 255],
        "mean": [round(value, 6) for value in chosen.mean],
        "std": [round(value, 6) for value in chosen.std],
        "fps": fps,
        "frames": frames,
        "step": step,
        "resize": row.size if isinstance(row.size, int) else list(row.size),
        "crop": crop,
        "crops": crops,
    }
