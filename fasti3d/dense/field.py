"""Which frames of a video each step of a map depends on: receptive fields along time.

With SAME padding the front padding of a strided window depends on the length of its input, and so the place
of every step depends on the number of frames of the whole video: on its remainder by 4, since the three
strided layers see T, ceil(T/2) and ceil(T/4), and the last of them pads its back only.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from fasti3d import network
from fasti3d.engine.temporal import Field
from fasti3d.network import TRUNK
from fasti3d.same_padding import same_output, same_padding

# After the trunk: the head's pool of Mixed_5c, averaged over space, and the classifier's logits for it.
HEADS = ("pooled", "logits")
FEATURES = (*TRUNK, *HEADS)
"""The names of features: the endpoints of the trunk, ``pooled`` and ``logits``."""

# A Mixed block's widest branches are 3 frames wide.
_MIXED_WINDOW = (3, 1)


class Support(NamedTuple):
    """What one step is of, in frame indices; each ``end`` is one more than the last.

    Attributes:
        start, end: the frames that it stands for: ``stride`` frames from ``stride * i`` on, and one step
            more for the head's features, which are an average of two steps. Those of a map tile the video.
        seen_start, seen_end: the frames that it depends on.
        centre: the middle of these as it would be without the video's ends; a half between two frames.
    """

    start: int
    end: int
    seen_start: int
    seen_end: int
    centre: float


def check_features(features: str) -> None:
    """ValueError for features that there are not."""
    if features not in FEATURES:
        raise ValueError(f"features must be one of {', '.join(FEATURES)}, got {features!r}")


def parts(features: str) -> tuple[str, ...]:
    """The parts of the trunk, in order, that compute the features; the head follows the last."""
    names = tuple(TRUNK)
    return names if features in HEADS else names[: names.index(features) + 1]


def window(part: str) -> tuple[int, int]:
    """(frames, stride) along time of a part of the trunk."""
    spec = TRUNK[part]
    return _MIXED_WINDOW if isinstance(spec, network.Mixed) else (spec.kernel[0], spec.stride[0])


def chained(names: Iterable[str], length: int) -> tuple[Field, int]:
    """The field of parts of the trunk in a row on a map of ``length`` frames, and the length that is left."""
    found = Field(1, 0, 1)
    for name in names:
        frames, step = window(name)
        found = found.then(frames, step, same_padding(length, frames, step)[0])
        length = same_output(length, step)
    return found, length


def field(features: str, frames: int) -> Field:
    """The receptive field of features along time, in frames of a video.

    Args:
        features: an endpoint of the trunk, ``pooled`` or ``logits``.
        frames: those of the whole video; only the remainder by 4 matters.

    Raises:
        ValueError: unknown features, or no frames.
    """
    _check(features, frames)
    found, _ = chained(parts(features), frames)
    more = (network.HEAD_POOL[0] - 1) * found.stride if features in HEADS else 0
    return found._replace(size=found.size + more)


def steps(features: str, frames: int) -> int:
    """Steps of the features of a whole video: ceil(frames / stride), one less after the head's pool.

    Args:
        features, frames: as for ``field``.

    Raises:
        ValueError: unknown features, or no frames; fewer than 9 of them for the head.
    """
    _check(features, frames)
    count = chained(parts(features), frames)[1]
    return count - (network.HEAD_POOL[0] - 1) if features in HEADS else count


def support(features: str, frames: int) -> list[Support]:
    """What each step of the features of a video is of.

    Args:
        features, frames: as for ``field``.

    Raises:
        ValueError: as ``steps``.
    """
    stride, before, size = field(features, frames)
    nominal = stride * (network.HEAD_POOL[0] if features in HEADS else 1)
    found = []
    for i in range(steps(features, frames)):
        first = stride * i - before
        found.append(
            Support(
                stride * i,
                min(stride * i + nominal, frames),
                max(first, 0),
                min(first + size, frames),
                first + (size - 1) / 2,
            )
        )
    return found


def _check(features: str, frames: int) -> None:
    check_features(features)
    least = network.MIN_FRAMES if features in HEADS else 1
    if frames < least:
        raise ValueError(
            f"{features} needs at least {least} frames, got {frames}: repeat frames"
            + (", or take Mixed_5c" if least > 1 else "")
        )
