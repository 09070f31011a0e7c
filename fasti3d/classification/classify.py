"""From a video file to the classes of its actions: windows, batches, logits, result.

A video is read as overlapping windows of frames at a constant rate; each window's logits are kept,
and their mean is the video's. With the flow stream, the optical flow between a window's frames is
computed on the way, and the logits are the sum of the streams'. Reading, flow and the networks
overlap, and nothing of a window but its logits and a few frames for the filmstrip outlives it, so
the length of a video does not matter.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from functools import reduce
from itertools import pairwise
from os import PathLike
from pathlib import Path
from threading import Event
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from fasti3d import network, video, weights
from fasti3d.choices import FlowPreset, Streams, check_preset, check_streams
from fasti3d.flow.checks import BOUND, check_flow_from
from fasti3d.flow.encoding import to_flow_clip
from fasti3d.flow.folder import FolderFlow, check_flow_count, flow_folder
from fasti3d.flow.params import PRESETS, TVL1Params
from fasti3d.flow.stream import CROP
from fasti3d.flow.window_flow import FlowWindow, PairFlow, SolvedFlow, with_flow
from fasti3d.i3d import I3D, clip_for
from fasti3d.limits import check_arguments
from fasti3d.runtime.devices import resolve_device, resolve_dtype
from fasti3d.runtime.upload import upload
from fasti3d.two_stream import TwoStreamI3D, check_channels
from fasti3d.utils.naming import quoted
from fasti3d.utils.prefetch import READ_AHEAD, batched, read_ahead
from fasti3d.utils.warnings import recorded_warnings

DEFAULT_WEIGHTS = "kinetics400-rgb"

# Windows in one forward pass. A GPU needs several to be busy; a CPU is busy with one, and a second
# would only cost memory.
BATCH = {"cuda": 8, "cpu": 1}
# The filmstrip keeps at least this many frames of a long video, and fewer than twice as many.
_FILM_FRAMES = 32


@dataclass(frozen=True)
class Score:
    """One class of a ranking. ``probability`` is in [0, 1] over all classes."""

    label: str
    index: int
    probability: float
    logit: float


class Span(NamedTuple):
    """From ``start`` to ``end``, in seconds of presentation time."""

    start: float
    end: float


@dataclass(frozen=True)
class Segment:
    """A stretch of the video (in seconds) with one most likely class, and its mean probability there."""

    start: float
    end: float
    label: str
    index: int
    probability: float


class Picture(NamedTuple):
    """A frame of the video as the network saw it: uint8 (H, W, 3) at ``time`` seconds."""

    time: float
    image: Tensor


@dataclass(frozen=True)
class Classification:
    """What the network says about one video.

    Attributes:
        path: the video.
        fps: rate at which frames were sampled (frames/s); None is the video's own rate.
        frames: distinct frames sampled.
        spans: the stretch of time each window covers, in order; they overlap where stride < window.
        logits: float32 (windows, classes), on the CPU; with two streams the sum of theirs.
        labels: a name for each class.
        warnings: what was odd about the file, e.g. that it breaks off in the middle.
        device, dtype: where and in which precision the network ran.
        seconds: wall-clock time from opening the file to the last logits.
        film: frames spread over the whole video, for a filmstrip.
        streams: each stream's own logits, like ``logits``, by its name: ``rgb``, ``flow`` or both.
        flow_from, flow_bound: the folder that the video's flow was read from, and the motion in pixels that
            was cut off at in it; None where it was computed.
    """

    path: Path
    fps: float | None
    frames: int
    spans: tuple[Span, ...]
    logits: Tensor
    labels: tuple[str, ...]
    warnings: tuple[str, ...]
    device: torch.device
    dtype: torch.dtype
    seconds: float
    film: tuple[Picture, ...]
    streams: dict[str, Tensor] = field(default_factory=dict)
    flow_from: Path | None = None
    flow_bound: float | None = None

    @property
    def frames_per_second(self) -> float:
        """Sampled frames for each second of wall-clock time, decoding included."""
        return self.frames / self.seconds

    def top(self, k: int = 5) -> tuple[Score, ...]:
        """The k most likely classes of the whole video: softmax of the mean of the windows' logits."""
        return self._rank(self.logits.mean(dim=0), k)

    def window_top(self, window: int, k: int = 5) -> tuple[Score, ...]:
        """The k most likely classes of one window."""
        return self._rank(self.logits[window], k)

    def stream_top(self, stream: str, k: int = 5) -> tuple[Score, ...]:
        """The k most likely classes of the whole video by one stream alone, a name in ``streams``."""
        return self._rank(self.streams[stream].mean(dim=0), k)

    def probabilities(self) -> Tensor:
        """Softmax of each window's logits: float32 (windows, classes)."""
        return self.logits.softmax(dim=1)

    def shares(self) -> tuple[Span, ...]:
        """The stretch of time each window speaks for when windows share frames.

        Neighbours meet halfway between their middles, so the stretches tile the video.
        """
        middles = [(span.start + span.end) / 2 for span in self.spans]
        between = [(a + b) / 2 for a, b in pairwise(middles)]
        edges = [self.spans[0].start, *between, self.spans[-1].end]
        return tuple(Span(a, b) for a, b in pairwise(edges))

    def segments(self) -> tuple[Segment, ...]:
        """What happens when: neighbouring windows with the same most likely class, merged."""
        probabilities = self.probabilities()
        best = probabilities.argmax(dim=1).tolist()
        shares = self.shares()
        segments = []
        first = 0
        for i in range(1, len(best) + 1):
            if i == len(best) or best[i] != best[first]:
                index = best[first]
                mean = probabilities[first:i, index].mean().item()
                segments.append(
                    Segment(shares[first].start, shares[i - 1].end, self.labels[index], index, mean)
                )
                first = i
        return tuple(segments)

    def _rank(self, logits: Tensor, k: int) -> tuple[Score, ...]:
        if k < 1:
            raise ValueError(f"k must be at least 1, got {k}")
        probabilities = logits.softmax(dim=0)
        order = logits.argsort(descending=True)[:k].tolist()
        return tuple(Score(self.labels[i], i, probabilities[i].item(), logits[i].item()) for i in order)


def load_model(
    source: str | PathLike[str] = DEFAULT_WEIGHTS, *, device: str = "auto", dtype: str = "auto"
) -> I3D:
    """An I3D in eval mode with the weights of ``source``, on ``device`` and in ``dtype``.

    Args:
        source: a name of ``fasti3d.weights.registry()`` or the path of a checkpoint.
        device: as ``resolve_device`` takes it.
        dtype: as ``resolve_dtype`` takes it.

    Raises:
        ValueError: an unknown device or dtype.
        fasti3d.weights.WeightsError: weights that cannot be had or read.
    """
    place = resolve_device(device)
    precision = resolve_dtype(dtype, place)
    checkpoint = weights.load(source)
    model = I3D(checkpoint.num_classes, checkpoint.in_channels)
    weights.load_into(model, checkpoint)
    return model.to(place, precision).eval()


def check_models(models: dict[str, I3D]) -> tuple[str, ...] | None:
    """The names of the classes of one or two streams' networks, where they have any.

    Raises:
        ValueError: networks that cannot be these streams, or not together.
    """
    for stream, model in models.items():
        check_channels({"rgb": "model", "flow": "flow_model"}[stream], stream, model)
    places = [next(model.parameters()) for model in models.values()]
    if len({(place.device, place.dtype) for place in places}) > 1:
        raise ValueError(
            "model and flow_model must be on one device and in one dtype, got "
            + " and ".join(f"{place.device} in {place.dtype}" for place in places)
        )
    first = next(iter(models.values()))
    return TwoStreamI3D(**models).labels if len(models) > 1 else first.labels


def classify(
    path: str | PathLike[str],
    *,
    model: I3D | str | PathLike[str] = DEFAULT_WEIGHTS,
    flow_model: I3D | str | PathLike[str] | None = None,
    streams: Streams = "rgb",
    flow_preset: FlowPreset = "readme",
    tvl1_params: TVL1Params = PRESETS["i3d"],
    flow_from: str | PathLike[str] | None = None,
    flow_bound: float = BOUND,
    window: int = 64,
    stride: int = 32,
    fps: float | None = 25.0,
    device: str = "auto",
    dtype: str = "auto",
    batch: int | None = None,
    strict: bool = False,
    progress: Callable[[int], None] | None = None,
) -> Classification:
    """Says what people do in a video.

    Args:
        path: a video file, or a folder of images.
        model: an RGB I3D, which runs where and in the dtype it is, in eval mode for the time; or what
            ``load_model`` takes, loaded onto ``device`` and in ``dtype``. Loading costs a second: give
            a model when there are several videos. Not looked at where ``streams`` is ``"flow"``.
        flow_model: the same for the flow stream; needed unless ``streams`` is ``"rgb"``.
        streams: ``"rgb"``, ``"flow"``, or ``"both"``, whose logits are summed. A window of N frames has N-1
            flows, which are computed where the flow network is.
        flow_preset: how frames become flow, as for ``TwoStreamI3D.forward_frames``; the frames' short
            side is 256 pixels.
        tvl1_params: those of TV-L1.
        flow_from: a folder of folders of flow, as denseflow, TSN's tools and ``fasti3d flow --layout
            denseflow`` write them (``flow.FlowFolder``), to be read instead of computed: that of ``path`` has
            its name, of a file without the suffix. Its frames were those of the video at ``fps``, with a
            short side of 256; the number of flows tells, N-1 or N for N frames sampled.
        flow_bound: with ``flow_from`` the motion in pixels that was cut off at.
        window: frames in a window, at least 9 (the shortest clip the network's head accepts), or 10
            with flow.
        stride: frames from one window's start to the next one's.
        fps: frames a second to sample, by time stamps; None takes every frame of the video. One of a
            lower rate has frames repeated, between which nothing moves: give the flow stream None then.
        device, dtype: for weights given by name or path; a model has its own.
        batch: windows in one forward pass; None takes 8 on a GPU and 1 on a CPU.
        strict: a file that breaks in the middle is an error instead of a warning.
        progress: called after each batch with the number of frames done.

    Raises:
        ValueError: an argument out of range, flow without a model for it, a model that does not take
            its stream's channels, or two models of different classes, devices or dtypes.
        fasti3d.video.VideoError: a file that cannot be read, or flow that is missing, broken or of other
            frames.
        fasti3d.weights.WeightsError: weights that cannot be had or read.
        FloatingPointError: logits that are not finite, as float16 can give with some weights.

        MemoryError, torch.OutOfMemoryError, OSError: memory or descriptors ran out.

    Warns:
        fasti3d.video.VideoWarning: a file that is odd but gives frames; also in ``warnings``.
    """
    check_streams(streams, flow_model)
    flowing = streams != "rgb"
    least = network.MIN_FLOW_FRAMES if flowing else network.MIN_FRAMES
    if window < least:
        raise ValueError(
            f"window must be at least {least} frames, the shortest clip I3D takes"
            f"{' with flow' if flowing else ''}, got {window}"
        )
    for name, value in (("stride", stride), ("batch", batch)):
        if value is not None and value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    check_arguments(fps, None, None)
    check_preset(flow_preset)
    check_flow_from(flow_from, flow_bound, flowing=flowing, preset=flow_preset, params=tvl1_params)
    folder = None
    if flow_from is not None:
        folder = flow_folder(flow_from, path, flow_bound)
        check_flow_count(folder, Path(path), fps)
    sources = {"rgb": model, "flow": flow_model}
    models = {
        name: source if isinstance(source, I3D) else load_model(source, device=device, dtype=dtype)
        for name, source in sources.items()
        if streams in (name, "both") and source is not None
    }
    labels = check_models(models)
    weight = next(next(iter(models.values())).parameters())
    batch = batch or BATCH.get(weight.device.type, 1)

    film = _Film(_FILM_FRAMES)
    spans: list[Span] = []
    rows: dict[str, list[Tensor]] = {name: [] for name in models}
    frames = 0
    start = time.perf_counter()
    with (
        recorded_warnings(video.VideoWarning) as odd,
        evaluating(nn.ModuleDict(models)),
        torch.no_grad(),
        ExitStack() as threads,
    ):
        crop = None if flowing else CROP
        source = video.windows(path, window=window, stride=stride, fps=fps, crop=crop, strict=strict)
        ahead = threads.enter_context(closing(read_ahead(source, READ_AHEAD)))
        if flowing:
            stop = Event()
            if folder is None:
                pairs: PairFlow = SolvedFlow(flow_preset, tvl1_params, weight.device)
            else:
                pairs = FolderFlow(folder, weight.device)
            flows = with_flow(ahead, pairs, stop)
            ahead = threads.enter_context(closing(read_ahead(flows, READ_AHEAD)))
            threads.callback(stop.set)  # first of all, so that nobody waits for flow that nobody wants
        for group in batched(ahead, batch):
            for name, stream_model in models.items():
                clips = _CLIPS[name](group, weight.device)
                rows[name].append(stream_model(clip_for(stream_model, clips)).float().cpu())
            for item in group:
                spans.append(_span(item))
                frames = item.start + len(set(item.times))
                film.add(item)
            if progress is not None:
                progress(frames)
    if folder is not None:
        folder.check_frames(frames)
    seconds = time.perf_counter() - start
    by_stream = {name: torch.cat(parts) for name, parts in rows.items()}
    if len({len(parts[0]) for parts in by_stream.values()}) > 1:
        found = " and ".join(f"{name} {parts.shape[1]}" for name, parts in by_stream.items())
        raise ValueError(f"both streams must have the same classes, but got {found}")
    logits = reduce(torch.add, by_stream.values())
    if not logits.isfinite().all():
        raise FloatingPointError(
            f"{quoted(path)}: the logits are not finite in {weight.dtype}: use dtype float32"
        )
    return Classification(
        path=Path(path),
        fps=fps,
        frames=frames,
        spans=tuple(spans),
        logits=logits,
        labels=labels or tuple(f"class {i}" for i in range(logits.shape[1])),
        warnings=tuple(odd),
        device=weight.device,
        dtype=weight.dtype,
        seconds=seconds,
        film=film.pictures(),
        streams=by_stream,
        flow_from=None if folder is None else folder.path,
        flow_bound=None if folder is None else folder.bound,
    )


def _rgb_clips(group: list[video.Window], device: torch.device) -> Tensor:
    """Bytes in the order of the frames', which the network scales, where it is."""
    return upload(torch.stack([item.frames for item in group]), device).permute(0, 4, 1, 2, 3)


def _flow_clips(group: list[video.Window], device: torch.device) -> Tensor:
    windows = cast("list[FlowWindow]", group)
    return to_flow_clip(torch.stack([item.flow for item in windows]))  # which is on the device


_CLIPS = {"rgb": _rgb_clips, "flow": _flow_clips}


def _span(window: video.Window) -> Span:
    """First frame's time to the end of the last one's display."""
    times = sorted(set(window.times))
    frame = (times[-1] - times[0]) / (len(times) - 1) if len(times) > 1 else 0.0
    return Span(times[0], times[-1] + frame)


class _Film:
    """A bounded number of frames, evenly spread over a stream whose length is not known before its end."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._step = 1
        self._kept: list[tuple[int, Picture]] = []

    def add(self, window: video.Window) -> None:
        last = self._kept[-1][0] if self._kept else -1
        for offset, moment in enumerate(window.times):
            index = window.start + offset
            if index <= last or index % self._step:
                continue
            # A copy: a view would keep the whole window.
            self._kept.append((index, Picture(moment, window.frames[offset].clone())))
            if len(self._kept) == 2 * self._limit:
                self._step *= 2
                self._kept = [(i, picture) for i, picture in self._kept if i % self._step == 0]

    def pictures(self) -> tuple[Picture, ...]:
        return tuple(picture for _, picture in self._kept)


@contextmanager
def evaluating(model: torch.nn.Module) -> Iterator[None]:
    """Eval mode inside; each submodule gets its own mode back."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True
