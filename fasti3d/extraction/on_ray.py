"""A job on a Ray cluster: Ray Data hands out the videos to a pool of actors, which hold the networks.

The calling machine keeps the job: it alone counts, and writes the report of errors. Every machine sees the
videos and the output folder under the same path, so features are never sent.
"""

from __future__ import annotations

import copy
import logging
import os
import pickle
import socket
import tempfile
from collections import Counter
from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from fasti3d.extraction.extracting import Outcome, extractor
from fasti3d.extraction.feature_files import OutputError
from fasti3d.extraction.job import Job
from fasti3d.extraction.progress import Tracker
from fasti3d.extraction.settings import ExtractionSettings
from fasti3d.extraction.sources import Source
from fasti3d.models import VideoNetwork

LOCAL = "local"

# How often a video may end its worker before it counts as failed.
_MAX_ATTEMPTS = 3
_QUIET = ("ray", "ray.data")


@dataclass(frozen=True)
class Order:
    """What a worker needs to know: the arguments of ``extractor``.

    Attributes:
        settings: What to extract; their device is that of the workers.
        models: The network of each stream.
        folder: The output folder.
    """

    settings: ExtractionSettings
    models: dict[str, VideoNetwork]
    folder: Path


@contextmanager
def cluster(address: str) -> Iterator[None]:
    """Connect to Ray for the block: to a cluster of this machine alone, which then ends, or one that stays.

    A program that is connected already stays connected, whatever the address.

    Args:
        address: ``"local"``, or where to connect: ``"auto"`` or ``"HOST:PORT"``.

    Raises:
        ImportError: Ray is not installed.
        ValueError: No cluster answers at that address.
    """
    # A local cluster does not report its use; C++ parts of Ray write to stderr by themselves.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    # A thread of Ray Data that outlives an interrupt must not start another cluster.
    os.environ.setdefault("RAY_ENABLE_AUTO_CONNECT", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise ImportError(f"ray needs Ray Data ({error}): pip install 'fasti3d[ray]'") from error

    if ray.is_initialized():
        with _quiet():
            yield
        return
    own: dict[str, Any] = {"include_dashboard": False} if address == LOCAL else {}
    try:
        with _stderr_closed():
            ray.init(address, log_to_driver=False, logging_level=logging.ERROR, **own)
    except (ConnectionError, ValueError) as error:
        raise ValueError(f"ray: no cluster answers at {address!r}: {error}") from error
    for name in _QUIET:  # for good: threads that outlive an interrupt complain of the end
        logging.getLogger(name).setLevel(logging.CRITICAL)
    try:
        with _quiet():
            yield
    finally:
        ray.shutdown()


@contextmanager
def _stderr_closed() -> Iterator[None]:
    """Keep off the terminal what Ray's C++ parts write as they start: that they were told to be quiet."""
    kept = os.dup(2)
    try:
        with open(os.devnull, "wb") as sink:
            os.dup2(sink.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def cluster_device(name: str) -> torch.device:
    """Return the workers' device by its name: ``auto`` (a GPU if the cluster has one), ``cpu`` or ``cuda``.

    Raises:
        ValueError: The name is another, or the cluster has no GPU.
    """
    has_gpu = any(_resources("GPU"))
    if name == "auto":
        name = "cuda" if has_gpu else "cpu"
    if name not in ("cpu", "cuda"):
        raise ValueError(f"device must be auto, cpu or cuda on a Ray cluster, got {name!r}")
    if name == "cuda" and not has_gpu:
        raise ValueError("device 'cuda' is not there: the Ray cluster has no GPU; use cpu")
    return torch.device(name)


def run_on_ray(job: Job, order: Order, tracker: Tracker | None = None) -> None:
    """Do all that is pending, as ``run`` does, on the cluster inside of ``cluster``.

    A worker is a process with a GPU of its own, or with as many CPUs as torch uses threads here, if the
    machines have them; it does one video after the other. One that dies is started again, and its video
    begun again, at most three times; then the video has failed. The features do not depend on any of this.

    Args:
        job: The videos.
        order: What a worker does; its settings say how many workers there are.
        tracker: Told how far the job is, video by video.

    Raises:
        ConflictError: Outputs are there that were made otherwise.
        OutputError: The output folder cannot be written to, or a worker does not see it.
    """
    import ray

    pending = job.pending()
    if tracker is not None:
        tracker.begin(pending)
    busy: list[Source] = []
    here = replace(order, folder=order.folder.absolute(), models=_on_cpu(order.models))
    try:
        with _mark(here.folder) as mark:
            shared = ray.put(here)
            # What another job has in work is left to it, and looked at again at the end.
            for patient, sources in ((False, pending), (True, busy)):
                results = _outcomes(sources, shared, order.settings, mark.name, patient)
                with closing(results):  # which ends what is in work
                    for outcome in results:
                        if outcome.state == "busy":
                            busy.append(outcome.source)
                            continue
                        job.note(outcome)
                        if tracker is not None:
                            tracker.advance(outcome.source, outcome.rows, float("inf"))
                            tracker.finished(outcome)
    finally:
        job.close()


def _mark(folder: Path) -> Any:
    """A file that every process that sees the folder sees, until it is closed."""
    try:
        return tempfile.NamedTemporaryFile(dir=folder, prefix=".seen.", suffix=".tmp")
    except OSError as error:
        raise OutputError(folder, error) from error


def _outcomes(
    sources: list[Source], order: Any, settings: ExtractionSettings, mark: str, patient: bool
) -> Generator[Outcome, None, None]:
    """The outcomes as they come."""
    if not sources:
        return
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    on_gpu = settings.device == "cuda"
    cpus, room = _shape(on_gpu, settings.workers)
    size = min(settings.workers or room, len(sources))
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    attempts = ray.remote(_Attempts).options(num_cpus=0, scheduling_strategy=here).remote()
    # Pickled, as names of files need not be what Arrow takes for text. One row per block, which is what Ray
    # hands out and, after a death, repeats.
    items = [{"video": pickle.dumps((i, _absolute(source)))} for i, source in enumerate(sources)]
    rows = ray.data.from_items(items, override_num_blocks=len(items)).map(
        _Worker,
        fn_constructor_args=(order, mark, cpus, attempts, patient),
        compute=ray.data.ActorPoolStrategy(
            min_size=1, initial_size=size, max_size=size, max_tasks_in_flight_per_actor=1
        ),
        num_cpus=cpus,
        num_gpus=1 if on_gpu else 0,
    )  # whose actors are restarted, and given the same rows, without end: ``_Worker`` sees to one
    with closing(iter(rows.iter_batches(batch_size=1, prefetch_batches=0))) as batches:
        for row in batches:
            i, result = pickle.loads(row["result"][0])
            if isinstance(result, Exception):
                raise result
            yield replace(result, source=sources[i])


class _Attempts:
    """An actor that counts how often each video was begun."""

    def __init__(self) -> None:
        self._begun: Counter[str] = Counter()

    def begin(self, name: str) -> int:
        self._begun[name] += 1
        return self._begun[name]


class _Worker:
    """An actor that does one video after the other, and holds the networks meanwhile."""

    def __init__(self, order: Any, mark: str, cpus: int, attempts: Any, patient: bool) -> None:
        import ray

        given: Order = ray.get(order)
        torch.set_num_threads(cpus)
        models = {name: model.to(given.settings.device) for name, model in given.models.items()}
        self._extract = extractor(given.settings, models, given.folder)
        self._folder = given.folder
        self._mark = Path(mark)
        self._attempts = attempts
        self._patient = patient

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        i, source = pickle.loads(row["video"])
        try:
            result: Outcome | Exception = self._work(source)
        except Exception as error:
            result = _portable(error)
        return {"result": pickle.dumps((i, result))}

    def _work(self, source: Source) -> Outcome:
        import ray

        if not self._mark.exists():
            reason = f"{socket.gethostname()}, a machine of the cluster, does not see it: it has to be shared"
            raise OutputError(self._folder, OSError(None, reason))
        if ray.get(self._attempts.begin.remote(source.name)) <= _MAX_ATTEMPTS:
            return self._extract(source, wait=self._patient)
        # It may have been finished, and only the word of it lost.
        return self._extract.look(source) or Outcome(
            source,
            "failed",
            reason=f"ended the process that worked on it {_MAX_ATTEMPTS} times, as for want of memory",
            digest=self._extract.digest(source),
        )


def _portable(error: Exception) -> Exception:
    """The error, or its text if it cannot be pickled."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error


def _absolute(source: Source) -> Source:
    return Source(source.name, source.path.absolute())


def _on_cpu(models: dict[str, VideoNetwork]) -> dict[str, VideoNetwork]:
    """The networks on the CPU, where any machine can load them."""
    return {
        name: model if next(model.parameters()).device.type == "cpu" else copy.deepcopy(model).cpu()
        for name, model in models.items()
    }


def _shape(on_gpu: bool, workers: int | None) -> tuple[int, int]:
    """The CPUs of a worker, and how many workers the cluster has room for."""
    cpus, gpus = _resources("CPU"), _resources("GPU")
    wanted = sum(gpus) if on_gpu else workers
    each = min(torch.get_num_threads(), max(cpus))
    if wanted:
        each = min(each, sum(cpus) // wanted)
    each = max(each, 1)
    return each, max(1, sum(gpus) if on_gpu else sum(count // each for count in cpus))


def _resources(kind: str) -> list[int]:
    """The number of them that each machine has."""
    import ray

    return [int(node["Resources"].get(kind, 0)) for node in ray.nodes() if node["Alive"]]


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep Ray Data's messages about its work off the terminal; errors are raised anyway."""
    import ray

    context = ray.data.DataContext.get_current()
    before = context.enable_progress_bars, context.print_on_execution_start
    loggers = {name: logging.getLogger(name) for name in _QUIET}
    levels = {name: logger.level for name, logger in loggers.items()}
    context.enable_progress_bars = context.print_on_execution_start = False
    for logger in loggers.values():
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        context.enable_progress_bars, context.print_on_execution_start = before
        for name, logger in loggers.items():
            logger.setLevel(levels[name])
