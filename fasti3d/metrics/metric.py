"""Fréchet Video Distance as a metric that clips are given to as they come."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from os import PathLike
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from fasti3d.metrics import resampling, saved
from fasti3d.metrics.clips import ClipFormat, Values
from fasti3d.metrics.distance import frechet_distance
from fasti3d.metrics.embedding import Embedding
from fasti3d.metrics.limits import check_frames
from fasti3d.metrics.presets import find_preset
from fasti3d.metrics.receipt import versions
from fasti3d.metrics.reduction import distributed, reduced
from fasti3d.metrics.side import Side
from fasti3d.weights import Spec

# With fewer clips a side the score is more its number than the videos.
FEW_CLIPS = 256

_NAMES = {True: "real", False: "generated"}


class FrechetVideoDistance:
    """Fréchet Video Distance (FVD): how far generated clips are from real ones, lower is closer.

    The distance between Gaussians fitted to I3D's 400 time-averaged Kinetics logits of the clips on both
    sides. Clips are given in batches of any size; what is kept of them are float64 means and
    covariances, so that memory does not grow with their number, and neither order nor batches matter::

        metric = fasti3d.FrechetVideoDistance(layout="NTHWC")
        for clips in real_batches:
            metric.update(clips, real=True)
        for clips in generated_batches:
            metric.update(clips, real=False)
        print(metric.compute())

    In a training loop, ``reset(real=False)`` keeps the real side. Under torch.distributed each process gives
    its own clips, and ``compute`` returns, in every process, the score of all of them.

    Args:
        preset: whose variant, which says how frames become 224x224 and how the covariance is meant:
            ``"tf"`` (Google's, the original), ``"stylegan-v"``, ``"videogpt"`` or ``"cd-fvd"``. Scores of
            different presets do not compare.
        weights: as for ``fasti3d.weights.load``. Published scores are those of ``"kinetics400-rgb"``.
        layout: the axes of the clips: ``"NTHWC"``, ``"NCTHW"`` or ``"NTCHW"``.
        value_range: black and white of floating-point clips, as (0, 1), (-1, 1) or (0, 255); needed for
            them. uint8 is 0 to 255.
        device: auto, cpu, cuda or cuda:N: where the network runs.
        dtype: float32, bfloat16 or float16: in what it runs. Published scores are in float32.
        batch: clips in one forward pass; None takes as many as make 64 frames on a CPU, 512 on a GPU.
        keep_features: keep each clip's logits (3 KB a clip), which ``bootstrap``, ``curve`` and
            ``extrapolate`` need.
        sync: whether ``compute`` and what else gives a score include the clips of all processes.

    Raises:
        ValueError: an argument out of range, or weights that take no RGB.
        fasti3d.weights.WeightsError: weights that cannot be had or read.

    Source: Unterthiner et al., "Towards Accurate Generative Models of Video" (2018), and google-research's
    frechet_video_distance.
    """

    def __init__(
        self,
        preset: str = "tf",
        weights: Spec = "kinetics400-rgb",
        *,
        layout: str = "NTHWC",
        value_range: tuple[float, float] | None = None,
        device: str = "auto",
        dtype: str = "float32",
        batch: int | None = None,
        keep_features: bool = False,
        sync: bool = True,
    ) -> None:
        self.preset = find_preset(preset)
        self._format = ClipFormat(layout, value_range)
        self._embedding = Embedding(self.preset, weights, device=device, dtype=dtype, batch=batch)
        self._keep = keep_features
        self._sync = sync
        self._sides: dict[bool, Side] = {}
        self._frames: int | None = None
        self._kind: str | None = None
        self.reset()

    def update(self, clips: NDArray[Any] | Tensor, real: bool) -> None:
        """Adds clips to the real side or to the generated one.

        Args:
            clips: in the layout that was said, 3 channels, at least 9 frames and any size of picture;
                uint8, or floating point in the range that was said. On any device.
            real: to which side.

        Raises:
            TypeError: neither a tensor nor a NumPy array.
            ValueError: another layout, dtype or range, values that are not finite, or a number of frames
                or kind of values (whole or floating) that differs from that of the clips before.
            FloatingPointError: features that are not finite, as float16 can give with some weights.
        """
        if real not in (True, False):
            raise ValueError(f"real must be True or False, got {real!r}")
        x = self._format.check(clips)
        kind = "uint8" if x.dtype == torch.uint8 else "float"
        self._check_alike(int(x.shape[1]), kind)
        features = self._embedding(x, *self._format.limits(x.dtype))
        self._frames, self._kind = int(x.shape[1]), kind
        size = (int(x.shape[3]), int(x.shape[4]))
        real = bool(real)  # of a tensor too
        self._sides[real] = self._sides[real].merged(Side.of(features, size, keep=self._keep))

    def compute(self) -> Tensor:
        """The score: float64, without axes.

        Raises:
            ValueError: fewer than 2 clips on a side.

        Warns:
            UserWarning: fewer than 256 clips on a side, or sides whose pictures differ in size.
        """
        real, generated = self._complete()
        for text in self._doubts(real, generated):
            warnings.warn(text, UserWarning, stacklevel=2)
        return torch.tensor(self._score(real, generated), dtype=torch.float64)

    def curve(self, *, points: int = resampling.POINTS, seed: int = 0) -> list[resampling.Point]:
        """The scores of random subsets of the clips, from a tenth of them to all: see ``extrapolate``.

        Raises:
            ValueError: as for ``extrapolate``.
        """
        return resampling.curve(*self._complete(), self._score, points=points, seed=seed)

    def extrapolate(self, *, points: int = resampling.POINTS, seed: int = 0) -> float:
        """The score of infinitely many clips: where a line through the scores over 1 / clips ends.

        The score of N clips is too high by about a constant over N, and the constant depends on the
        videos: this takes most of it out. Of the excess of 256 clips a third may stay, of that of 2,048
        a tenth. The line goes through ``curve`` from half of the clips on. Sides whose features are not
        known are taken as they are.

        Args:
            points: how many subsets, at least 5.
            seed: of their choice.

        Raises:
            ValueError: features that were not kept, fewer than 8 clips on a side, or too few points.

        Source: Chong & Forsyth, "Effectively Unbiased FID and Inception Score" (CVPR 2020).
        """
        return resampling.extrapolated(self.curve(points=points, seed=seed))

    def bootstrap(
        self, resamples: int = 200, *, confidence: float = 0.95, seed: int = 0
    ) -> tuple[float, float]:
        """The interval in which the score of as many other clips of the same kind would fall.

        The spread of scores of clips drawn with replacement, about the score. Their own bias, which is
        that of having seen some clips twice, is taken off.

        Args:
            resamples: how often clips are drawn anew.
            confidence: the interval's share of the scores.
            seed: of the draws.

        Raises:
            ValueError: features that were not kept, fewer than 8 clips on a side, or an argument out of
                range.
        """
        return resampling.bootstrap(
            *self._complete(), self._score, resamples=resamples, confidence=confidence, seed=seed
        )

    def reset(self, *, real: bool = True) -> None:
        """Forgets all clips; ``real=False`` keeps the real ones, which need not be given again."""
        empty = Side.empty(self._embedding.width, keep=self._keep)
        kept = empty if real else self._sides[True]
        self._sides = {True: kept, False: empty}
        if not kept.count:
            self._frames, self._kind = None, None

    def merge(self, other: FrechetVideoDistance) -> None:
        """Adds the clips that another metric was given, as another process or part of a job.

        Raises:
            ValueError: a metric of another preset, other weights, or other clips.
        """
        self._admit(other._header())
        self._sides = {real: side.merged(other._sides[real]) for real, side in self._sides.items()}

    def state_dict(self) -> dict[str, Any]:
        """What ``load_state_dict`` takes: tensors and plain values, which ``torch.save`` writes."""
        sides = {_NAMES[real]: side.state() for real, side in self._sides.items()}
        return self._header() | sides

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes the clips of a state in the place of those that are there.

        Raises:
            ValueError: no such state, or that of a metric of another preset or other weights; nothing has
                been changed then.
        """
        if missing := {*self._header(), *_NAMES.values()} - state.keys():
            raise ValueError(f"state must be what state_dict() gave, but lacks {', '.join(sorted(missing))}")
        sides = {real: Side.from_state(state[name]) for real, name in _NAMES.items()}
        saved.check_header({name: state[name] for name in self._header()})
        self._check_origin(state)
        for side in sides.values():
            self._check_width(side)
        self._sides = sides
        self._frames, self._kind = state["frames"], state["kind"]

    def save_statistics(self, path: str | PathLike[str], *, real: bool = True) -> None:
        """Writes one side to an .npz file, whole or not at all, for ``load_statistics`` and the command line.

        Under torch.distributed, unless sync is off, all processes must call it, each with a path of its own.

        Raises:
            ValueError: fewer than 2 clips on that side, or a path that does not end in .npz.
            OSError: a place that cannot be written.
        """
        side = self._all(real)
        self._check_count(side, real)
        saved.write(path, side, self._header())

    def load_statistics(self, path: str | PathLike[str], *, real: bool = True) -> None:
        """Adds the clips of a file that ``save_statistics`` wrote to one side.

        Raises:
            ValueError: no such file, or one of another preset, other weights or other clips.
            OSError: a file that cannot be read.
        """
        side, header = saved.read(path)
        try:
            self._check_width(side)
            self._admit(header)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None
        self._sides[real] = self._sides[real].merged(side)

    def receipt(self) -> dict[str, Any]:
        """What a score needs to be understood and repeated, in JSON's types.

        Raises:
            ValueError: fewer than 2 clips on a side.
        """
        real, generated = self._complete()
        return {
            "metric": "FVD",
            "score": self._score(real, generated),
            "preset": self.preset.name,
            "covariance": "unbiased (N - 1)" if self.preset.unbiased else "biased (N)",
            "bn_eps": self.preset.bn_eps,
            "features": "time-averaged logits",
            "weights": dict(self._embedding.weights),
            "frames": self._frames,
            "values": self._kind,
            "real": _described(real),
            "generated": _described(generated),
            "device": str(self._embedding.device),
            "dtype": str(self._embedding.dtype).removeprefix("torch."),
            "versions": versions(),
            "warnings": self._doubts(real, generated),
        }

    def batch_size(self, frames: int) -> int:
        """How many clips of so many frames go through the network at once."""
        return self._embedding.batch_size(frames)

    def check_frames(self, frames: int, values: Values | None = None) -> None:
        """Raises the ValueError that ``update`` would for clips of so many frames, and of such values."""
        check_frames(frames)
        self._check_alike(frames, values)

    def _score(self, real: Side, generated: Side) -> float:
        return frechet_distance(real.statistics, generated.statistics, unbiased=self.preset.unbiased)

    def _header(self) -> dict[str, Any]:
        """What two states must have in common to belong together; None where there is no clip yet."""
        return {
            "preset": self.preset.name,
            "weights": self._embedding.weights["sha256"],
            "frames": self._frames,
            "kind": self._kind,
        }

    def _admit(self, header: Mapping[str, Any]) -> None:
        """Raises unless clips of that header may join those that are there; the first ones set the kind."""
        self._check_origin(header)
        if header["frames"] is not None:
            self._check_alike(header["frames"], header["kind"])
            self._frames, self._kind = header["frames"], header["kind"]

    def _check_origin(self, header: Mapping[str, Any]) -> None:
        for name in ("preset", "weights"):
            own = self._header()[name]
            if header.get(name) != own:
                raise ValueError(
                    f"{name} of these statistics is {header.get(name)!r}, of this metric {own!r}, and scores "
                    "need one: choose that one, or compute the statistics anew"
                )

    def _check_width(self, side: Side) -> None:
        width, own = len(side.statistics.mean), self._embedding.width
        if width != own:
            raise ValueError(f"these statistics are of {width} logits, and these weights give {own}")

    def _check_alike(self, frames: int, kind: str | None) -> None:
        if self._frames not in (None, frames):
            raise ValueError(
                f"clips must have {self._frames} frames, as those that are there, got {frames}: scores of "
                f"different lengths do not compare, so take {self._frames}"
            )
        if kind is not None and self._kind not in (None, kind):
            raise ValueError(
                f"clips must be {self._kind}, as those that are there, got {kind}: rounding to 8 bits "
                "alone moves the score, so round both sides or neither"
            )

    def _all(self, real: bool) -> Side:
        side = self._sides[real]
        return reduced(side, (self._frames, self._kind)) if self._sync and distributed() else side

    def _complete(self) -> tuple[Side, Side]:
        sides = self._all(True), self._all(False)
        for side, real in zip(sides, (True, False), strict=True):
            self._check_count(side, real)
        return sides

    def _check_count(self, side: Side, real: bool) -> None:
        if side.count < 2:
            raise ValueError(
                f"{_NAMES[real]} clips must be at least 2 for a covariance, got {side.count}: give more with "
                f"update(clips, real={real})"
            )

    def _doubts(self, real: Side, generated: Side) -> list[str]:
        """In words, why the score may mislead."""
        doubts = []
        if (few := min(real.count, generated.count)) < FEW_CLIPS:
            doubts.append(
                f"FVD of {real.count} real and {generated.count} generated clips: below {FEW_CLIPS} the "
                f"score depends more on the number than on the videos; {few} compare only with {few}"
            )
        if set(real.sizes) != set(generated.sizes):
            sizes = [_listed(side) for side in (real, generated)]
            doubts.append(
                f"pictures differ in size, {sizes[0]} on the real side and {sizes[1]} on the generated one: "
                "all are scaled to 224x224, but sharpness moves the score"
            )
        return doubts


def _listed(side: Side) -> str:
    sizes = [f"{height}x{width}" for (height, width), _ in side.sizes.most_common()]
    return ", ".join(sizes[:3]) + (f" and {len(sizes) - 3} more" if len(sizes) > 3 else "")


def _described(side: Side) -> dict[str, Any]:
    sizes = {f"{height}x{width}": count for (height, width), count in side.sizes.most_common()}
    return {"clips": side.count, "sizes": sizes}
