"""What one pass over a video's packets tells: how many frames it has, and whether it is whole."""

from __future__ import annotations

import os
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from fasti3d.limits import check_arguments
from fasti3d.video.count import PacketMoments, count_frames
from fasti3d.video.decode import decoded
from fasti3d.video.probe import describe, probe
from fasti3d.video.sample import sample


@dataclass(frozen=True)
class Survey:
    """A video as its packets describe it; None for what it does not declare.

    Attributes:
        frames: the number of frames that ``read_frames`` yields at the rate of the survey.
        fps: average frames per second as declared.
        duration: seconds as declared.
        width, height: in stored pixels, after rotation.
        problem: why it ends early; None if it does not.
        origin: the time stamp of the first frame in seconds, where ``seek.read_span`` can start in the
            middle; None where frames must be decoded from the start.
    """

    frames: int
    fps: float | None
    duration: float | None
    width: int
    height: int
    problem: str | None = None
    origin: float | None = None


def survey(path: str | os.PathLike[str], *, fps: float | None = 25.0) -> Survey:
    """Read all packets of a video, but decode only its first frame, unless it is damaged or its clock breaks.

    Args:
        path, fps: as for ``read_frames``.

    Raises:
        ValueError: ``fps`` is out of range.
        VideoError: the video is missing, empty or has no video stream, or its first frame cannot be decoded.

    Warns:
        VideoWarning: as ``read_frames``.

    Example:
        >>> survey("video.mp4").frames  # doctest: +SKIP
        250
    """
    check_arguments(fps, None, None)
    path = Path(path)
    if os.path.isdir(path):
        info = probe(path)
        assert info.frames is not None
        return Survey(info.frames, None, None, info.width, info.height)
    with closing(decoded(path)) as decoding:
        frame, stream = next(decoding)
        info = describe(path, frame, stream)
        origin = None if frame.pts is None else frame.pts * float(frame.time_base or 0)
    moments, limits = PacketMoments(path), list[str]()
    frames = sum(1 for _ in sample(moments, fps, limits.append))
    if not moments.is_regular or moments.problem or limits:
        frames, origin = count_frames(path, fps=fps, decode=True), None
    return Survey(frames, info.fps, info.duration, info.width, info.height, moments.problem, origin)
