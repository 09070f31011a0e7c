"""From a video file to the classes of its actions: windows, batches, logits, result.

A video is read as overlapping windows of frames at a constant rate; each window's logits are kept, and their
mean is the video's. With the flow stream, the optical flow between a window's frames is computed on the way,
and the logits are the sum of the streams'. Reading, flow and the networks overlap. Only a window's logits and
a few frames for the filmstrip outlive it, so the length of a video does not matter.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from functools import reduce
from os import PathLike
from pathlib import Path
from threading import Event
from typing import cast

import torch
from torch import Tensor, nn

from fasti3d import video
from fasti3d.backbone import I3D_NAME, Backbone
from fasti3d.choices import AUTO, FlowPreset, Streams, check_preset, check_streams
from fasti3d.classification.film import Film
from fasti3d.classification.result import Classification, Span
from fasti3d.flow.checks import BOUND, check_flow_from
from fasti3d.flow.encoding import to_flow_clip
from fasti3d.flow.folder import FolderFlow, check_flow_count, flow_folder
from fasti3d.flow.params import PRESETS, TVL1Params
from fasti3d.flow.window_flow import FlowWindow, PairFlow, SolvedFlow, with_flow
from fasti3d.i3d import I3D
from fasti3d.limits import check_arguments
from fasti3d.models import (
    BATCH,
    DEFAULT_WEIGHTS,
    Model,
    VideoNetwork,
    backbone_of,
    evaluating,
    load_streams,
    network_clip,
    place,
    preprocessing_of,
)
from fasti3d.network import MIN_FLOW_FRAMES
from fasti3d.preprocessing import record
from fasti3d.runtime.upload import upload
from fasti3d.two_stream import TwoStreamI3D
from fasti3d.utils.naming import quoted
from fasti3d.utils.prefetch import READ_AHEAD, batched, read_ahead
from fasti3d.utils.warnings import recorded_warnings
from fasti3d.video.read import read_sized
from fasti3d.video.windows import covering_windows

# The filmstrip keeps at least this many frames of a long video, and fewer than twice as many.
_MIN_FILM_FRAMES = 32


def labels_of(models: dict[str, VideoNetwork]) -> tuple[str, ...] | None:
    """Return the names of the classes of one or two streams' networks, if they have any.

    Raises:
        ValueError: The networks have different classes.
    """
    if len(models) > 1:
        return TwoStreamI3D(**cast("dict[str, I3D]", models)).labels
    return next(iter(models.values())).labels


def classify(
    path: str | PathLike[str],
    *,
    model: Model = DEFAULT_WEIGHTS,
    flow_model: Model | None = None,
    streams: Streams = "rgb",
    flow_preset: FlowPreset = "readme",
    tvl1_params: TVL1Params = PRESETS["i3d"],
    flow_from: str | PathLike[str] | None = None,
    flow_bound: float = BOUND,
    network: str = I3D_NAME,
    variant: str | None = None,
    non_local: str | None = None,
    window: int | None = None,
    stride: int | None = None,
    fps: float | str | None = AUTO,
    device: str = "auto",
    dtype: str = "auto",
    batch: int | None = None,
    strict: bool = False,
    progress: Callable[[int], None] | None = None,
) -> Classification:
    """Classify the actions in a video.

    Args:
        path: A video file, or a folder of images.
        model: An RGB I3D or an ``I3DResNet``, which keeps its device and dtype; or the name or path of
            weights, or a function that gives a network; those of I3D are loaded while the video is read.
            Unused if ``streams`` is ``"flow"``.
        flow_model: The same for the flow stream; required unless ``streams`` is ``"rgb"``.
        streams: ``"rgb"``, ``"flow"``, or ``"both"``, whose logits are summed.
        flow_preset, tvl1_params: How frames become flow, as for ``TwoStreamI3D.forward_frames``.
        flow_from: A folder of ``flow.FlowFolder``s, one named as each video without its suffix, read instead
            of computing flow; extracted at the same ``fps``, short side 256.
        flow_bound: The motion in pixels at which they were clipped.
        network, variant, non_local: Which network the weights are of, as in ``ExtractionSettings``.
        window: Frames per window, for I3D at least 9, with flow 10; of a network that takes every n-th frame
            all of them count. None is what it was trained on: I3D 64.
        stride: Frames from one window to the next; None is half a window.
        fps: Frames sampled per second, by time stamps; None takes every frame, ``"auto"`` the network's rate:
            I3D 25.
        device, dtype: For weights given by name or path.
        batch: Windows per forward pass; None is 8 on a GPU and 1 on a CPU.
        strict: Raise an error instead of a warning for a file that breaks off.
        progress: Called after each batch with the number of frames done.

    Raises:
        ValueError: An argument is out of range, or the networks do not fit their streams or each other.
        fasti3d.video.VideoError: The video, or its flow, cannot be read.
        fasti3d.weights.WeightsError: Weights cannot be downloaded or read.
        FloatingPointError: The logits are not finite, as float16 gives with some weights.
        MemoryError, torch.OutOfMemoryError, OSError: Memory or file descriptors ran out.

    Warns:
        fasti3d.video.VideoWarning: The file is odd but gives frames; also in ``warnings`` of the result.

    Example:
        >>> fasti3d.classify("demo.mp4").top(1)[0].label  # doctest: +SKIP
        'arm wrestling'
    """
    check_streams(streams, flow_model)
    flowing = streams != "rgb"
    backbone = backbone_of(model) if network == I3D_NAME else Backbone(network, variant, non_local)
    if flowing and backbone.family != "i3d":
        raise ValueError(f"streams must be rgb for {backbone.network}, which takes frames, got {streams!r}")
    given: dict[str, Model | None] = {"rgb": model, "flow": flow_model}
    row = backbone.preprocessing
    if backbone.family != "i3d":  # whose weights say how the video is read
        loaded = load_streams(given, ["rgb"], backbone=backbone, device=device, dtype=dtype)
        given |= loaded
        row = preprocessing_of(loaded["rgb"])
    step = row.step
    window = row.frames * step if window is None else window
    stride = max(window // 2, 1) if stride is None else stride
    rate = row.fps if isinstance(fps, str) and fps == AUTO else fps
    if isinstance(rate, str):
        raise ValueError(f"fps must be a number, None or 'auto', got {rate!r}")
    least = MIN_FLOW_FRAMES if flowing else (backbone.min_frames - 1) * step + 1
    if window < least:
        raise ValueError(
            f"window must be at least {least} frames, the shortest clip that {backbone.network} takes"
            f"{' with flow' if flowing else ''}, got {window}"
        )
    for name, value in (("stride", stride), ("batch", batch)):
        if value is not None and value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    check_arguments(rate, None, None)
    check_preset(flow_preset)
    check_flow_from(flow_from, flow_bound, flowing=flowing, preset=flow_preset, params=tvl1_params)
    folder = None
    if flow_from is not None:
        folder = flow_folder(flow_from, path, flow_bound)
        check_flow_count(folder, Path(path), rate)
    names = [name for name in ("rgb", "flow") if streams in (name, "both")]
    film = Film(_MIN_FILM_FRAMES)
    spans: list[Span] = []
    frames = 0
    pictures = read_sized(path, row.size, None if flowing else row.crop, fps=rate, strict=strict)
    windows = covering_windows(Path(path), pictures, window, stride, least)
    with (
        recorded_warnings(video.VideoWarning) as odd,
        closing(read_ahead(windows, READ_AHEAD)) as read,
        ExitStack() as started,
    ):
        # While the first windows are read.
        models = load_streams(given, names, backbone=backbone, device=device, dtype=dtype)
        labels = labels_of(models)
        where, precision = place(models[names[0]])
        rows: dict[str, list[Tensor]] = {name: [] for name in models}
        start = time.perf_counter()
        made: Iterator[video.Window] = read
        if flowing:
            pairs = FolderFlow(folder, where) if folder else SolvedFlow(flow_preset, tvl1_params, where)
            made = started.enter_context(_with_flow_ahead(read, pairs))
        started.enter_context(evaluating(nn.ModuleDict(models)))
        started.enter_context(torch.no_grad())
        for group in batched(made, batch or BATCH.get(where.type, 1)):
            for name, stream_model in models.items():
                clips = _CLIPS[name](group, where, step)
                clip = network_clip(stream_model, clips, row.normalization)
                rows[name].append(stream_model(clip).float().cpu())
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
    logits = _summed(by_stream)
    if not logits.isfinite().all():
        raise FloatingPointError(
            f"{quoted(path)}: the logits are not finite in {precision}: use dtype float32"
        )
    return Classification(
        path=Path(path),
        fps=rate,
        frames=frames,
        spans=tuple(spans),
        logits=logits,
        labels=labels or tuple(f"class {i}" for i in range(logits.shape[1])),
        warnings=tuple(odd),
        device=where,
        dtype=precision,
        seconds=seconds,
        film=film.frames(),
        streams=by_stream,
        flow_from=None if folder is None else folder.path,
        flow_bound=None if folder is None else folder.bound,
        network=backbone.says,
        preprocessing=record(
            row,
            normalization=row.normalization,
            fps=rate,
            frames=-(-window // step),
            step=step,
            crops=["center"],
            crop=row.crop,
        ),
    )


@contextmanager
def _with_flow_ahead(windows: Iterator[video.Window], pairs: PairFlow) -> Iterator[Iterator[video.Window]]:
    """The windows with their flow, which is made ahead in a thread."""
    stop = Event()
    with closing(read_ahead(with_flow(windows, pairs, stop), READ_AHEAD)) as made:
        try:
            yield made
        finally:
            stop.set()  # first, so that closing does not wait for unused flow


def _summed(streams: dict[str, Tensor]) -> Tensor:
    """The sum of the streams' logits, (windows, classes)."""
    if len({logits.shape[1] for logits in streams.values()}) > 1:
        found = " and ".join(f"{name} {logits.shape[1]}" for name, logits in streams.items())
        raise ValueError(f"both streams must have the same classes, but got {found}")
    return reduce(torch.add, streams.values())


def _rgb_clips(group: list[video.Window], device: torch.device, step: int) -> Tensor:
    """uint8 (N, 3, T, H, W) of every ``step``-th frame on the device."""
    return upload(torch.stack([item.frames[::step] for item in group]), device).permute(0, 4, 1, 2, 3)


def _flow_clips(group: list[video.Window], device: torch.device, step: int) -> Tensor:
    """(N, 2, T, H, W) in [-1, 1], of flow that is on the device."""
    windows = cast("list[FlowWindow]", group)
    return to_flow_clip(torch.stack([item.flow for item in windows]))


_CLIPS = {"rgb": _rgb_clips, "flow": _flow_clips}


def _span(window: video.Window) -> Span:
    """From the first frame's time to the end of the last one's display."""
    times = sorted(set(window.times))
    frame = (times[-1] - times[0]) / (len(times) - 1) if len(times) > 1 else 0.0
    return Span(times[0], times[-1] + frame)
