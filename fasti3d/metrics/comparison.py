"""Compares two sets of videos: the score, its confidence interval, and a receipt."""

from __future__ import annotations

import statistics
import warnings
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import asdict, dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any

import torch

from fasti3d.metrics import resampling
from fasti3d.metrics.choice import Clip, Skipped
from fasti3d.metrics.clips import Values
from fasti3d.metrics.limits import check_frames
from fasti3d.metrics.metric import FEW_CLIPS, FrechetVideoDistance
from fasti3d.metrics.sources import Given, SavedSource, Source, TensorSource, open_source
from fasti3d.utils.hashing import sha256
from fasti3d.utils.prefetch import read_ahead
from fasti3d.utils.targets import check_statistics
from fasti3d.utils.warnings import recorded_warnings
from fasti3d.weights import Spec

# Max skipped videos of a side that are warned of one by one.
_SHOWN = 20

# Max bytes of clips in one call of the metric.
_MAX_BYTES = 128 << 20

# Rates as close as 29.97 and 30 frames per second count as equal.
_SAME_RATE = 0.01


@dataclass(frozen=True)
class FVDResult:
    """The result of a comparison.

    Attributes:
        score: the Fréchet Video Distance.
        interval: the 95 % interval of the score of as many other clips; None if not requested, or with too
            few clips.
        infinite: the estimated score of infinitely many clips; None likewise.
        curve: scores of subsets of the clips, the last one of all; empty likewise.
        receipt: everything needed to understand and repeat the score, in JSON's types.
    """

    score: float
    interval: tuple[float, float] | None
    infinite: float | None
    curve: tuple[resampling.Point, ...]
    receipt: dict[str, Any] = field(repr=False)


@dataclass
class _Account:
    """What was read of one side."""

    chosen: list[dict[str, Any]] = field(default_factory=list)
    skipped: list[dict[str, str]] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)
    lengths: list[int] = field(default_factory=list)


def fvd(
    real: Given,
    generated: Given,
    *,
    frames: int = 16,
    preset: str = "tf",
    weights: Spec = "kinetics400-rgb",
    clips: int | None = None,
    seed: int = 0,
    fps: float | None = None,
    layout: str = "NTHWC",
    value_range: tuple[float, float] | None = None,
    device: str = "auto",
    dtype: str = "float32",
    batch: int | None = None,
    strict: bool = False,
    bootstrap: int = 0,
    extrapolate: bool = False,
    curve: bool = False,
    save_stats: str | PathLike[str] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> FVDResult:
    """Compute the Fréchet Video Distance between real and generated videos, in bounded memory.

    Args:
        real, generated: a folder of videos or of folders of images (mixed or nested), an .npy or .npz file of
            one array of clips, statistics that ``save_stats`` wrote, or clips in memory: a NumPy array or a
            tensor of 5 axes, uint8 or floating point.
        frames: consecutive frames per clip, at least 9.
        preset, weights: as for ``FrechetVideoDistance``.
        clips: the number on each side; None takes one per video, and all of an array.
        seed: of the choice of clips and subsets, the same on any machine.
        fps: frames per second to sample from video files, by time stamps; None takes every frame. Folders of
            images are not resampled.
        layout, value_range: of arrays and tensors, as for ``FrechetVideoDistance``.
        device, dtype, batch: as for ``FrechetVideoDistance``.
        strict: raise an error for a damaged or short video, which is otherwise skipped with a warning.
        bootstrap: resamples for the interval, about 200; 0 for none.
        extrapolate: whether to estimate the score of infinitely many clips.
        curve: whether to compute the scores of subsets of the clips.
        save_stats: an .npz file to write the real side's statistics to.
        progress: called with the number of clips done and in total.

    Raises:
        TypeError: a side that is neither a path nor an array or tensor.
        ValueError: an argument is out of range, a side has fewer than 2 clips, the sides differ in the kind
            of clips, or saved statistics do not fit.
        OSError: a file cannot be read or written.
        fasti3d.video.VideoError: a video is damaged or short, if strict.
        fasti3d.weights.WeightsError: the weights cannot be downloaded or read.

    Warns:
        UserWarning: something is unusual; the receipt has it too.

    Example:
        >>> fasti3d.fvd(real, generated, layout="NTCHW", value_range=(0, 1)).score  # doctest: +SKIP
    """
    check_frames(frames)
    for name, value in (("clips", clips), ("bootstrap", bootstrap or None)):
        if value is not None and value < 2:
            raise ValueError(f"{name} must be at least 2, got {value}")
    sides = {"real": real, "generated": generated}
    sources = {
        name: open_source(given, name=name, layout=layout, fps=fps, strict=strict)
        for name, given in sides.items()
    }
    paths = {name: name if isinstance(sources[name], TensorSource) else str(sides[name]) for name in sides}
    if save_stats is not None:
        check_statistics(save_stats)
        if isinstance(sources["real"], SavedSource):
            raise ValueError(
                f"{paths['real']} holds saved statistics already: save_stats would only copy them"
            )
    read = {name: source for name, source in sources.items() if not isinstance(source, SavedSource)}
    for name, unread in read.items():
        unread.check(frames, clips)
        _check_side(paths[name], unread.expected(clips), unread.values, value_range)
    if len({source.values for source in read.values()}) > 1:
        raise ValueError(
            "clips must be uint8 on both sides or on neither, as rounding to 8 bits alone moves the score, "
            f"but {paths['real']} holds {read['real'].values} and {paths['generated']} "
            f"{read['generated'].values}"
        )
    metric = FrechetVideoDistance(
        preset,
        weights,
        value_range=value_range,
        device=device,
        dtype=dtype,
        batch=batch,
        keep_features=True,
        sync=False,
    )
    bar = _Progress(progress, sum(source.expected(clips) for source in read.values()))
    accounts: dict[str, _Account] = {}
    with recorded_warnings(UserWarning) as odd:
        # Saved statistics first, so that clips that do not fit them are refused before any work.
        for name, source in sources.items():
            if isinstance(source, SavedSource):
                metric.load_statistics(source.path, real=name == "real")
        metric.check_frames(frames)
        for unread in read.values():
            metric.check_frames(frames, unread.values)
        for name, unread in read.items():
            items = unread.clips(frames, clips, seed)
            accounts[name] = _read(metric, name == "real", paths[name], items, metric.batch_size(frames), bar)
            _check_count(paths[name], accounts[name], frames)
            if name == "real" and save_stats is not None:
                metric.save_statistics(save_stats)
        for name, account in accounts.items():
            for item in account.skipped[:_SHOWN]:
                warnings.warn(
                    f"{name}: {item['name']} {item['reason']}; it is left out", UserWarning, stacklevel=2
                )
            if (more := len(account.skipped) - _SHOWN) > 0:
                warnings.warn(
                    f"{name}: {more} more videos are left out; the receipt lists them all",
                    UserWarning,
                    stacklevel=2,
                )
        receipt = metric.receipt()
        counts = {name: receipt[name]["clips"] for name in sources}
        for text in [*receipt["warnings"], *_differences(counts, accounts)]:
            warnings.warn(text, UserWarning, stacklevel=2)
        interval, points = None, []
        try:
            interval = metric.bootstrap(bootstrap, seed=seed) if bootstrap else None
            points = metric.curve(seed=seed) if extrapolate or curve else []
        except ValueError as error:
            # Too few clips, or statistics without features: the score is still valid.
            warnings.warn(f"no interval, curve or extrapolation: {error}", UserWarning, stacklevel=2)
        infinite = resampling.extrapolated(points) if extrapolate and points else None
    for name, source in sources.items():
        receipt[name] |= _described(paths[name], source, accounts.get(name))
    receipt |= {
        "seed": seed,
        "clips": clips,
        "fps": fps,
        "interval": None
        if interval is None
        else {"confidence": 0.95, "resamples": bootstrap, "ends": interval},
        "infinite_clips": infinite,
        "curve": [asdict(point) for point in points],
        "warnings": list(dict.fromkeys(odd)),
    }
    return FVDResult(receipt["score"], interval, infinite, tuple(points), receipt)


def _check_side(path: str, max_clips: int, values: Values, value_range: tuple[float, float] | None) -> None:
    """Raise a ValueError for a side of too few clips, or of floats without a range."""
    if max_clips < 2:
        raise ValueError(
            f"{path} gives at most {max_clips} clip{'s' * (max_clips != 1)}, but at least 2 are needed: add "
            "to it, or ask for more clips per video"
        )
    if values == "float" and value_range is None:
        raise ValueError(
            f"{path} holds floating point, whose range is not known: say value_range (on the command line "
            "--range), which is 0,1 or -1,1 or 0,255"
        )


def _read(
    metric: FrechetVideoDistance,
    real: bool,
    path: str,
    clips: Iterator[Clip | Skipped],
    batch: int,
    done: Callable[[int], None],
) -> _Account:
    """Give clips to one side of the metric, in batches of one frame size."""
    account = _Account()
    group: list[Clip] = []

    def flush() -> None:
        if group:
            try:
                metric.update(torch.stack([clip.frames for clip in group]), real)
            except (ValueError, FloatingPointError) as error:
                names = f"{group[0].name} to {group[-1].name}" if len(group) > 1 else group[0].name
                raise type(error)(f"{path}, clips {names}: {error}") from error
            done(len(group))
            group.clear()

    with closing(read_ahead(clips, 1)) as ahead:
        for item in ahead:
            if isinstance(item, Skipped):
                account.skipped.append(asdict(item))
                continue
            if group and group[0].frames.shape != item.frames.shape:
                flush()
            group.append(item)
            if len(group) == batch or len(group) * item.frames.nbytes >= _MAX_BYTES:
                flush()
            account.chosen.append({"name": item.name, "start": item.start})
            account.lengths.append(item.length)
            if item.rate is not None:
                account.rates.append(item.rate)
        flush()
    return account


def _check_count(path: str, account: _Account, frames: int) -> None:
    """Raise a ValueError for a side of too few clips, with the reason."""
    if len(account.chosen) < 2:
        why = "".join(f"; {item['name']} {item['reason']}" for item in account.skipped[:3])
        raise ValueError(
            f"{path} gives {len(account.chosen)} clips of {frames} frames, but at least 2 are needed, and "
            f"{FEW_CLIPS} are recommended{why}"
        )


class _Progress:
    """Adds up clips and tells the caller."""

    def __init__(self, report: Callable[[int, int], None] | None, total: int) -> None:
        self._report = report
        self._total = total
        self._done = 0

    def __call__(self, clips: int) -> None:
        self._done += clips
        if self._report is not None:
            self._report(self._done, self._total)


def _differences(counts: dict[str, int], accounts: dict[str, _Account]) -> list[str]:
    """Sentences about how the sides differ in number, rate and length."""
    texts = []
    if counts["real"] != counts["generated"]:
        texts.append(
            f"there are {counts['real']} real and {counts['generated']} generated clips: the same number "
            "on both sides compares best with other scores"
        )
    if len(accounts) < 2:
        return texts
    real, generated = accounts["real"], accounts["generated"]
    if real.rates and generated.rates:
        rates = [statistics.median(account.rates) for account in (real, generated)]
        if abs(rates[0] - rates[1]) > _SAME_RATE * max(rates):
            texts.append(
                f"real clips have {rates[0]:.4g} frames per second and generated ones {rates[1]:.4g}: motion "
                "of another speed changes the score; sample both at one rate (fps)"
            )
    if real.lengths and generated.lengths:
        lengths = [statistics.median(account.lengths) for account in (real, generated)]
        if lengths[0] != lengths[1]:
            texts.append(
                f"real videos have {lengths[0]:g} frames and generated ones {lengths[1]:g} (medians): "
                "clips are from random places of each"
            )
    return texts


def _described(path: str, source: Source, account: _Account | None) -> dict[str, Any]:
    """The origin of the clips of a side."""
    where: dict[str, Any] = {"path": path, "kind": source.kind}
    if isinstance(source, TensorSource):
        where |= {"path": None} | source.description
    if account is None:
        return where | {"sha256": sha256(Path(path))}
    where["frames_of_videos"] = [min(account.lengths), max(account.lengths)]
    where["frame_rates"] = [min(account.rates), max(account.rates)] if account.rates else None
    return where | {"chosen": account.chosen, "skipped": account.skipped}
