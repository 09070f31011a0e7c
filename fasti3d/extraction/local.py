"""A job on this machine: several videos in work at once, one of them at a time in a network."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from functools import partial
from threading import Event, Lock

import torch

from fasti3d.extraction.extracting import Extractor, Outcome
from fasti3d.extraction.job import Job
from fasti3d.extraction.progress import Tracker
from fasti3d.extraction.rows import Watch
from fasti3d.extraction.sources import Source

# A CPU is busy with one network; a second video only has its frames ready when the first one ends.
_CPU_WORKERS = 2
_MAX_GPU_WORKERS = 8


def default_workers(device: torch.device) -> int:
    """Return how many videos are in work at once: enough that the networks need not wait for frames."""
    if device.type == "cpu":
        return _CPU_WORKERS
    return min(_MAX_GPU_WORKERS, os.cpu_count() or 1)


def run(job: Job, extractor: Extractor, workers: int, tracker: Tracker | None = None) -> None:
    """Do all that is pending; return when every video is finished or failed, also those of other processes.

    Each worker reads a video, with windows and flow made ahead of need in two bounded queues, and puts them
    through the networks in turn with the other workers. So memory grows with the workers and not with the
    videos. The features do not depend on the workers: batches hold windows of one video only.

    Args:
        job: The videos.
        extractor: Makes the output of each.
        workers: Videos in work at once.
        tracker: Told how far the job is.

    Raises:
        ConflictError: Outputs are there that were made otherwise.
        OutputError: The output folder cannot be written to.
    """
    watch = Watch(Lock(), Event())

    def extract(source: Source, patient: bool) -> Outcome:
        progress = None if tracker is None else partial(tracker.advance, source)
        return extractor(source, watch, wait=patient, progress=progress)

    busy: list[Source] = []
    pending = job.pending()
    if tracker is not None:
        tracker.begin(pending)
    try:
        with ThreadPoolExecutor(workers, thread_name_prefix="fasti3d-extract") as pool:
            try:
                # What another process has in work is left to it, and looked at again at the end.
                for patient, sources in ((False, pending), (True, busy)):
                    for outcome in _outcomes(pool, workers, sources, partial(extract, patient=patient)):
                        if outcome.state == "busy":
                            busy.append(outcome.source)
                            continue
                        job.note(outcome)
                        if tracker is not None:
                            tracker.finished(outcome)
            except BaseException:
                watch.stop.set()  # before the pool waits for its threads
                raise
    finally:
        job.close()


def _outcomes(
    pool: ThreadPoolExecutor, workers: int, sources: list[Source], extract: Callable[[Source], Outcome]
) -> Iterator[Outcome]:
    """The outcomes as they come; no more videos are handed out than there are workers."""
    waiting = deque(sources)
    working: set[Future[Outcome]] = set()
    while waiting or working:
        while waiting and len(working) < workers:
            working.add(pool.submit(extract, waiting.popleft()))
        done, working = wait(working, return_when=FIRST_COMPLETED)
        for future in done:
            yield future.result()
