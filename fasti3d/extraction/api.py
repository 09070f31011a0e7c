"""``fasti3d.extract``: the features of many videos, in files."""

from __future__ import annotations

import inspect
import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fasti3d.backbone import I3D_NAME
from fasti3d.choices import check_streams
from fasti3d.extraction import on_ray
from fasti3d.extraction.extracting import extractor
from fasti3d.extraction.job import Failure, Job, create_output_folder, take_shard
from fasti3d.extraction.local import default_workers, run
from fasti3d.extraction.progress import Progress, Tracker
from fasti3d.extraction.settings import ExtractionSettings
from fasti3d.extraction.sources import Source, find_sources
from fasti3d.models import DEFAULT_WEIGHTS, Model, backbone_of, evaluating, load_streams, place
from fasti3d.runtime.devices import resolve_dtype
from fasti3d.utils.naming import alike, quoted
from fasti3d.utils.parsing import Json

_VIDEO_FEATURES_EPS = 1e-5
_SETTINGS = tuple(each.name for each in fields(ExtractionSettings))

StrPath = str | os.PathLike[str]


@dataclass(frozen=True)
class Extraction:
    """What a run did.

    Attributes:
        videos: Videos in all, of this shard.
        done: Videos whose features this run made.
        already_done: Videos that were finished before, or meanwhile by another process.
        failed: Videos that failed, now or, unchanged since, before; ``errors.jsonl`` lists them too.
        rows: Rows of features that this run made.
        seconds: Wall-clock time, without loading weights.
        network: The network that ran, in words.
        preprocessing: How its clips were prepared, as in the records.
    """

    videos: int
    done: int
    already_done: int
    failed: tuple[Failure, ...]
    rows: int
    seconds: float
    network: str = I3D_NAME
    preprocessing: Json = field(default_factory=dict)


def extract(
    sources: StrPath | Iterable[StrPath],
    out: StrPath,
    *,
    model: Model = DEFAULT_WEIGHTS,
    flow_model: Model | None = None,
    settings: ExtractionSettings | None = None,
    progress: Callable[[Progress], None] | None = None,
    **options: Any,
) -> Extraction:
    """Extract the features of videos to files, continuing where an earlier call was cut short.

    Each row is float32 features of a window of the video, or of a step of one pass over it. ``NAME.json``
    beside them says how they were made, and which frames and seconds each row covers. It is written last: a
    video whose record has the same settings, weights and state of its file is finished. A call that was
    killed and is made again ends with the same bytes as an undisturbed one. Several calls may share ``out``.

    Videos that fail are listed in ``errors.jsonl``, and tried again when they have changed. Neither other
    videos nor ``workers`` change the features; memory does not grow with the videos' length or number.

    Args:
        sources: A video, a folder of videos or of images, a ``.txt`` with a video per line, or several of
            these; see ``extraction.find_sources``.
        out: The output folder.
        model: The RGB network, which keeps its device and dtype: an ``I3D`` or an ``I3DResNet``; or the name
            or path of weights, of ``settings.network``.
        flow_model: The same for the flow stream; required unless ``streams`` is ``"rgb"``.
        settings: What to extract; None is the defaults.
        progress: Called, from any thread, with how far the job is.
        **options: Fields of ``ExtractionSettings``, which documents them; they override ``settings``.

    Raises:
        ValueError: A setting is out of range, a source is missing or shares a name, or networks do not fit.
        TypeError: An option is not a field of ``ExtractionSettings``.
        extraction.ConflictError: ``out`` holds features that were made otherwise; nothing was changed.
        extraction.OutputError: ``out`` cannot be written to; what is finished stays.
        fasti3d.weights.WeightsError: Weights cannot be downloaded or read.
        MemoryError, torch.OutOfMemoryError, OSError: Memory or file descriptors ran out.
        ImportError: ``ray`` is given, but not installed.

    Example:
        >>> fasti3d.extract("videos/", "features", stack=16, step=8).done  # doctest: +SKIP
        120
    """
    settings = _chosen(settings, options, model)
    check_streams(settings.streams, flow_model)
    videos = find_sources([sources] if isinstance(sources, str | os.PathLike) else sources)
    if settings.shard is not None:
        videos = take_shard(videos, *settings.shard)
    folder = Path(out)
    create_output_folder(folder)
    _check_names(videos, folder)
    if settings.flow_from is not None:  # where workers have another current folder
        settings = replace(settings, flow_from=Path(settings.flow_from).absolute())
    with nullcontext() if settings.ray is None else on_ray.cluster(settings.ray):
        device, dtype = settings.device, settings.dtype
        on_cluster = None if settings.ray is None else on_ray.cluster_device(device)
        if on_cluster is not None:  # weights are loaded on this machine, which may lack such a device
            device, dtype = "cpu", _name(resolve_dtype(dtype, on_cluster))
        models = load_streams(
            {"rgb": model, "flow": flow_model},
            settings.names,
            backbone=settings.backbone,
            device=device,
            dtype=dtype,
        )
        settings = settings.of(backbone_of(models[settings.names[0]]))
        here, precision = place(models[settings.names[0]])
        settings = replace(settings, device=(on_cluster or here).type, dtype=_name(precision))

        start = time.perf_counter()
        eps = _VIDEO_FEATURES_EPS if settings.layout == "video_features" else None
        with evaluating(nn.ModuleDict(models)), _batch_norm_eps(nn.ModuleDict(models), eps):
            work = extractor(settings, models, folder)
            job = Job(videos, work, folder, retry_errors=settings.retry_errors)
            tracker = None if progress is None else Tracker(job.tally, progress)
            if settings.ray is None:
                run(job, work, settings.workers or default_workers(here), tracker)
            else:
                on_ray.run_on_ray(job, on_ray.Order(settings, models, folder), tracker)
    tally = job.tally
    seconds = time.perf_counter() - start
    return Extraction(
        tally.videos,
        tally.done,
        tally.already_done,
        tuple(job.failures),
        tally.rows,
        seconds,
        settings.backbone.says,
        work.preprocessing,
    )


def _with_settings() -> inspect.Signature:
    """The signature of ``extract`` with the settings by name, for ``help`` and editors."""
    signature = inspect.signature(extract)
    own = list(signature.parameters.values())[:-1]
    kind = inspect.Parameter.KEYWORD_ONLY
    named = [
        inspect.Parameter(each.name, kind, default=each.default, annotation=each.type)
        for each in fields(ExtractionSettings)
    ]
    return signature.replace(parameters=[*own, *named])


extract.__signature__ = _with_settings()  # type: ignore[attr-defined]


def _chosen(settings: ExtractionSettings | None, options: dict[str, Any], model: Model) -> ExtractionSettings:
    """The settings with the options in place of their own values, and the network that the model says."""
    if not isinstance(settings, ExtractionSettings | None):
        raise TypeError(
            f"settings must be an ExtractionSettings, got {type(settings).__name__}: give its fields as "
            "keywords, or ExtractionSettings(...)"
        )
    if unknown := [name for name in options if name not in _SETTINGS]:
        raise TypeError(
            f"extract() got an unexpected keyword argument {unknown[0]!r}: its settings are "
            f"{', '.join(_SETTINGS)}"
        )
    base = settings or ExtractionSettings()
    its = backbone_of(model)
    if "network" not in options and base.network == I3D_NAME != its.network:
        options = {"network": its.network, "variant": its.variant, "non_local": its.non_local} | options
    return replace(base, **options)


def _check_names(videos: Iterable[Source], folder: Path) -> None:
    """ValueError for two videos whose records would be one file in this folder."""
    if (same := alike((f"{video.name}.json" for video in videos), folder)) is not None:
        raise ValueError(
            f"the features of two videos would be in one file, as {quoted(folder)} does not tell apart "
            f"{quoted(same[0])} and {quoted(same[1])}: rename one of them, or write elsewhere"
        )


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


@contextmanager
def _batch_norm_eps(model: nn.Module, eps: float | None) -> Iterator[None]:
    """Give batch norms this eps for the block, or with None their own; each gets its own back."""
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm3d) and eps is not None]
    before = [norm.eps for norm in norms]
    try:
        for norm in norms:
            norm.eps = eps or norm.eps
        yield
    finally:
        for norm, own in zip(norms, before, strict=True):
            norm.eps = own
