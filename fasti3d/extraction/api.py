"""``fasti3d.extract``: the features of many videos, in files."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

from torch import nn

from fasti3d.choices import POOLED, FlowPreset, Format, Layout, Mode, Streams, Tail, check_streams
from fasti3d.classification.classify import (
    DEFAULT_WEIGHTS,
    evaluating,
    load_model,
)
from fasti3d.extraction import on_ray
from fasti3d.extraction.extracting import extractor
from fasti3d.extraction.job import Failure, Job, every, ready
from fasti3d.extraction.local import default_workers, run
from fasti3d.extraction.progress import Progress, Tracker
from fasti3d.extraction.settings import settle
from fasti3d.extraction.sources import find_sources
from fasti3d.flow.checks import BOUND, check_flow_from
from fasti3d.flow.params import PRESETS, TVL1Params
from fasti3d.i3d import I3D
from fasti3d.runtime.devices import resolve_dtype
from fasti3d.two_stream import check_channels
from fasti3d.utils.naming import alike, quoted

_VIDEO_FEATURES_EPS = 1e-5

StrPath = str | os.PathLike[str]
Weights = I3D | StrPath


@dataclass(frozen=True)
class Extraction:
    """What a run did.

    Attributes:
        videos: how many there were, of this shard.
        done: made by this run.
        there: that were finished before, or meanwhile by another process.
        failed: those that failed, now or, where they are as they were, before; ``errors.jsonl`` in the output
            folder lists them too.
        rows: of features that this run made.
        seconds: wall-clock time, without loading weights.
    """

    videos: int
    done: int
    there: int
    failed: tuple[Failure, ...]
    rows: int
    seconds: float


def extract(
    sources: StrPath | Iterable[StrPath],
    out: StrPath,
    *,
    model: Weights = DEFAULT_WEIGHTS,
    flow_model: Weights | None = None,
    streams: Streams = "rgb",
    mode: Mode = "windows",
    features: str = POOLED,
    stack: int | None = None,
    step: int | None = None,
    fps: float | None = 25.0,
    crops: int = 1,
    flip: bool = False,
    tail: Tail | None = None,
    partial: bool = False,
    format: Format = "npy",
    layout: Layout = "default",
    flow_preset: FlowPreset = "readme",
    tvl1_params: TVL1Params = PRESETS["i3d"],
    flow_from: StrPath | None = None,
    flow_bound: float = BOUND,
    device: str = "auto",
    dtype: str = "auto",
    workers: int | None = None,
    retry_errors: bool = False,
    overwrite: bool = False,
    shard: tuple[int, int] | None = None,
    ray: str | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> Extraction:
    """Writes the features of videos to files, and goes on where an earlier call was cut short.

    A video is cut into windows of ``stack`` frames, ``step`` apart; each is a row. Or, in mode ``"dense"``,
    the network passes once over the whole video, in pieces that give what one pass gives but for rounding,
    and each of its steps along time is a row. Beside the features of a
    video lies its record, ``NAME.json``: what was done, with what, and for each row its first frame, the
    frame after its last (of the frames sampled at ``fps``), and the seconds between which it is shown. The
    record is written last: a video that has one made of the same settings, weights and state of the file
    (size and time of change) is finished and not done again. A call that is killed, at any moment, and made
    again ends with the same bytes as an undisturbed one, and repeats only the videos that were in work.
    Several calls may share an output folder, on one machine or several that see it; each video is then done
    by one of them.

    A video that cannot be read, or not to its end, goes to ``errors.jsonl`` in the output folder, with the
    reason, and the others go on; it is tried again when it, or what is asked for, has changed, or with
    ``retry_errors``.

    What comes out does not depend on ``workers``, nor on the other videos: windows of different videos are
    never in one batch. Memory does not grow with the length of a video or with their number, but for a few
    hundred bytes a row.

    Args:
        sources: a video, a folder of videos (with the folders in it), a ``.txt`` that lists videos, a line
            each, or several of these; a folder of images is a video. See ``extraction.find_sources`` for
            the names of the outputs: those of the videos, without the suffix, in folders as they are in.
        out: the folder for the outputs.
        model: the RGB network, which runs where and in the dtype it is; or the name or path of weights,
            loaded onto ``device`` in ``dtype``. Not looked at where ``streams`` is ``"flow"``.
        flow_model: the same for the flow stream; needed unless ``streams`` is ``"rgb"``.
        streams: ``"rgb"``, ``"flow"`` or ``"both"``: features of each stream, by themselves.
        mode: ``"windows"`` or ``"dense"``. Dense rows of an endpoint are single steps, (C, H', W'), which
            stand for 8 frames each in ``"map"`` and tile the video; those of ``"pooled"`` and ``"Logits"``
            are of two neighbouring steps, 16 frames, 8 apart, and need a video of at least 9. Each depends
            on more frames around (``fasti3d.dense.support``). There is a flow for every frame, so that both
            streams have the same rows: that of the last one is still, as its record says.
        features: ``"pooled"``, 1,024 a window, which are what the classifier sees, averaged over time;
            ``"map"``, all of Mixed_5c, (1024, T/8, 7, 7); or the name of an endpoint
            (``network.ENDPOINTS``), of which the last are ``"Logits"`` and ``"Predictions"``.
        stack: frames in a window, at least 9, with flow 10; None is 64. N frames have N-1 flows. Like
            ``step`` and ``tail``, and the layout video_features, not for mode dense.
        step: frames from one window to the next; None is ``stack``, so that none overlap.
        fps: frames a second to sample, by time stamps; None takes every frame of the video.
        crops: 1 is the centre 224x224 of frames with a short side of 256; 5 are the corners (top left, top
            right, bottom left, bottom right) and the centre, and 10 those and then their mirror images. With
            more than one, features have an axis of them behind that of the windows. Flow of a mirrored crop
            is that of the crop, mirrored and x negated.
        flip: mirror images for other numbers of crops.
        tail: what becomes of the frames at the end that fill no window: ``"pad"``, they make one that repeats
            the last frame (of which the flow is still); ``"loop"``, one that repeats all of them;
            ``"drop"``, they are left out, and the record says how many. None is ``"pad"``, or with the layout
            video_features ``"drop"``. A video shorter than a window has only a tail: dropped, it is an error.
        partial: a file that breaks off gives the frames before that, and a warning in its record; otherwise
            it counts as one that cannot be read.
        format: ``"npy"``, a file a stream, ``NAME_rgb.npy`` and ``NAME_flow.npy``; or one file with all
            streams, ``"npz"``, which also holds each row's place, or ``"safetensors"``. All float32.
        layout: ``"video_features"`` writes what v-iashin/video_features does for I3D: ``NAME_rgb.npy``,
            ``NAME_flow.npy``, ``NAME_fps.npy`` and ``NAME_timestamps_ms.npy``, in float64, and like it reads
            N+1 frames for a window of N, so that both streams have N. With ``fps`` None and a ``stack`` that
            is a multiple of 4, the RGB stream also has its values from the same weights: frames are converted
            as by OpenCV and scaled as by Pillow, and batch norms have the eps of its network, 1e-5. (For
            another rate it encodes videos anew, other lengths it pads otherwise, it does not deinterlace, and
            its flow is that of RAFT or PWC-Net.)
        flow_preset: how frames become flow, as for ``TwoStreamI3D.forward_frames``. ``mediapipe`` squashes
            frames to 224x224, and so has one crop.
        tvl1_params: those of TV-L1.
        flow_from: a folder of folders of flow, as denseflow, TSN's tools and ``fasti3d flow --layout
            denseflow`` write them (``flow.FlowFolder``), to be read instead of computed: that of a video is
            called as its output. Its frames were those of the video at ``fps``, with a short side of 256; the
            number of flows tells, N-1 or N for N frames sampled. The record says which folder it was, and in
            what state.
        flow_bound: with ``flow_from`` the motion in pixels that was cut off at.
        device, dtype: for weights given by name or path; a network has its own.
        workers: videos in work at once, one of which is in the networks while the others are read; None is 2
            on a CPU and up to 8 with a GPU. Each keeps a few windows in memory. With ``ray`` the processes
            of the cluster that do one video each; None is as many as it has room for.
        retry_errors: try again what failed before and has not changed since.
        overwrite: replace outputs that were made of other settings, weights or videos.
        shard: (i, n), of n calls that share the work the i-th, counted from 1.
        ray: do the same on a Ray cluster (the extra ``ray``): ``"local"`` starts one on this machine, for
            this call; ``"auto"`` or ``"HOST:PORT"`` connect to the one that this machine is part of. Its
            machines have to see videos and ``out`` under the same paths, and to have fasti3d. Each worker
            has a GPU, or as many CPUs as torch uses threads here. One that dies is started again, and its
            video done again; a video that ends its worker three times has failed. ``device`` is that of
            the workers, ``"auto"`` a GPU if the cluster has one.
        progress: called with how far it is, in any thread; with ``ray``, video by video.

    Raises:
        ValueError: an argument out of range, sources that are not there or whose outputs would have the same
            name, networks that do not take their stream's channels or are not on one device in one dtype.
        extraction.ConflictError: outputs are there that were made otherwise, and ``overwrite`` is off;
            nothing has been changed then.
        extraction.OutputError: the folder cannot be written to, as when the disk is full; what is finished
            stays.
        MemoryError, torch.OutOfMemoryError, OSError: memory or descriptors ran out. The job ends, and no
            video counts as failed for it; what is finished stays.
        fasti3d.weights.WeightsError: weights that cannot be had or read.
        ImportError: ``ray`` is given, but not installed.
    """
    given = [sources] if isinstance(sources, str | os.PathLike) else sources
    if workers is not None and workers < 1:
        raise ValueError(f"workers must be at least 1, got {workers}")
    check_streams(streams, flow_model)
    check_flow_from(flow_from, flow_bound, flowing=streams != "rgb", preset=flow_preset, params=tvl1_params)
    settings = settle(
        streams=streams,
        mode=mode,
        features=features,
        stack=stack,
        step=step,
        fps=fps,
        crops=crops,
        flip=flip,
        tail=tail,
        partial=partial,
        format=format,
        layout=layout,
        flow_preset=flow_preset,
        tvl1=tvl1_params,
        flow_bound=None if flow_from is None else float(flow_bound),
    )
    flows = None if flow_from is None else Path(flow_from).absolute()
    videos = find_sources(given)
    if shard is not None:
        videos = every(videos, *shard)
    folder = Path(out)
    ready(folder)
    if (same := alike((f"{video.name}.json" for video in videos), folder)) is not None:
        raise ValueError(
            f"the features of two videos would be in one file, as {quoted(folder)} does not tell apart "
            f"{quoted(same[0])} and {quoted(same[1])}: rename one of them, or write elsewhere"
        )
    with nullcontext() if ray is None else on_ray.cluster(ray):
        place = None if ray is None else on_ray.cluster_device(device)
        if place is not None:  # weights are read here, where there need not be such a device
            device, dtype = "cpu", str(resolve_dtype(dtype, place)).removeprefix("torch.")
        models = _load({"rgb": model, "flow": flow_model}, settings.names, device, dtype)
        weight = next(models[settings.names[0]].parameters())
        settings = replace(
            settings,
            device=(place or weight.device).type,
            dtype=str(weight.dtype).removeprefix("torch."),
        )

        start = time.perf_counter()
        eps = _VIDEO_FEATURES_EPS if layout == "video_features" else None
        with evaluating(nn.ModuleDict(models)), _batch_norm_eps(nn.ModuleDict(models), eps):
            work = extractor(settings, models, folder, overwrite=overwrite, flow_from=flows)
            job = Job(videos, work, folder, retry_errors=retry_errors)
            tracker = None if progress is None else Tracker(job.tally, progress)
            if ray is None:
                run(job, work, workers or default_workers(weight.device), tracker)
            else:
                order = on_ray.Order(settings, models, folder, overwrite, flows)
                on_ray.run_on_ray(job, order, workers, tracker)
    tally = job.tally
    seconds = time.perf_counter() - start
    return Extraction(tally.videos, tally.done, tally.there, tuple(job.failures), tally.rows, seconds)


def _load(given: dict[str, Weights | None], names: Iterable[str], device: str, dtype: str) -> dict[str, I3D]:
    """The networks of these streams."""
    models = {}
    for name in names:
        weights = given[name]
        assert weights is not None
        models[name] = (
            weights if isinstance(weights, I3D) else load_model(weights, device=device, dtype=dtype)
        )
        check_channels({"rgb": "model", "flow": "flow_model"}[name], name, models[name])
    places = {(weight.device, weight.dtype) for weight in (next(m.parameters()) for m in models.values())}
    if len(places) > 1:
        said = " and ".join(f"{device} in {dtype}" for device, dtype in places)
        raise ValueError(f"model and flow_model must be on one device and in one dtype, got {said}")
    return models


@contextmanager
def _batch_norm_eps(model: nn.Module, eps: float | None) -> Iterator[None]:
    """Batch norms have this eps inside, or with None their own; each gets its own back."""
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm3d) and eps is not None]
    before = [norm.eps for norm in norms]
    try:
        for norm in norms:
            norm.eps = eps or norm.eps
        yield
    finally:
        for norm, own in zip(norms, before, strict=True):
            norm.eps = own
