"""Several videos in work at once, one of them at a time in the network."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from threading import Event, Lock

from torch import Tensor

from fasti3d.extraction.rows import Watch
from fasti3d.train.data import Video
from fasti3d.train.evaluation.scoring import Scorer
from fasti3d.video import VideoError
from fasti3d.video.errors import collected_warnings
from fasti3d.video.survey import Survey


@dataclass(frozen=True, eq=False)
class Scored:
    """What became of a video.

    Attributes:
        video: which.
        logits: float32 (views, classes); None where it failed.
        reason: why it failed; empty where it did not.
        warnings: what was odd about it.
    """

    video: Video
    logits: Tensor | None
    reason: str = ""
    warnings: tuple[str, ...] = ()


def scored(
    scorer: Scorer, videos: Sequence[Video], workers: int, known: Mapping[str, Survey] | None = None
) -> Generator[Scored, None, None]:
    """Yield what becomes of each video, as they are done; a video that fails does not stop the others.

    Args:
        scorer: Makes the logits.
        videos: Of a data set.
        workers: Videos in work at once, of which one has the device.
        known: What is known of videos, by key.

    Raises:
        MemoryError, torch.OutOfMemoryError, OSError: Memory or descriptors ran out.
    """
    watch = Watch(Lock(), Event())
    waiting = deque(videos)
    working: set[Future[Scored]] = set()
    with ThreadPoolExecutor(workers, thread_name_prefix="fasti3d-evaluate") as pool:
        try:
            while waiting or working:
                while waiting and len(working) < workers:
                    working.add(pool.submit(_scored, scorer, waiting.popleft(), watch, known or {}))
                done, working = wait(working, return_when=FIRST_COMPLETED)
                for future in done:
                    yield future.result()
        finally:
            watch.stop.set()  # before the pool waits for its threads


def _scored(scorer: Scorer, video: Video, watch: Watch, known: Mapping[str, Survey]) -> Scored:
    texts: list[str] = []
    try:
        with collected_warnings(texts):
            logits = scorer(video, watch, known.get(video.key))
    except VideoError as error:
        # The video is named beside the reason; a picture of its flow, in the reason.
        return Scored(video, None, error.reason if error.path == video.path else str(error))
    except FloatingPointError as error:
        return Scored(video, None, str(error))
    return Scored(video, logits, warnings=tuple(texts))
