"""Fréchet Video Distance as a metric that is updated batch by batch."""

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

# With fewer clips per side the score depends more on their number than on the videos.
FEW_CLIPS = 256

_NAMES = {True: "real", False: "generated"}


class FrechetVideoDistance:
    """Fréchet Video Distance (FVD): how far generated clips are from real ones, lower is closer.

    The distance between Gaussians fitted to I3D's 400 time-averaged Kinetics logits of the clips on both
    sides. Clips come in batches of any size and order; only their float64 means and covariances are kept, so
    memory does not grow with their number::

        metric = fasti3d.FrechetVideoDistance(layout="NTHWC")
        for clips in real_batches:
            metric.update(clips, real=True)
        for clips in generated_batches:
            metric.update(clips, real=False)
        print(metric.compute())

    In a training loop, ``reset(real=False)`` keeps the real side. Under torch.distributed each process
    updates with its own clips, and ``compute`` returns the score of all clips in every process.

    Args:
        preset: the variant, which defines the scaling to 224x224 and the covariance: ``"tf"`` (Google's, the
            original), ``"stylegan-v"``, ``"videogpt"`` or ``"cd-fvd"``. Scores of different presets are not
            comparable.
        weights: as for ``fasti3d.weights.load``. Published scores are those of ``"kinetics400-rgb"``.
        layout: the axes of the clips: ``"NTHWC"``, ``"NCTHW"`` or ``"NTCHW"``.
        value_range: black and white of floating-point clips, for example (0, 1), (-1, 1) or (0, 255);
            required for them. uint8 is 0 to 255.
        device: of the network: auto, cpu, cuda or cuda:N.
        dtype: of the network: float32, bfloat16 or float16. Published scores are in float32.
        batch: clips per forward pass; None takes as many as make 64 frames on a CPU, 512 on a GPU.
        keep_features: keep each clip's logits (3 KB per clip), which ``bootstrap``, ``curve`` and
            ``extrapolate`` need.
        sync: whether scores include the clips of all processes.

    Raises:
        ValueError: an argument is out of range, or the weights do not take RGB.
        fasti3d.weights.WeightsError: the weights cannot be downloaded or read.

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
        """Add clips to the real or the generated side.

        Args:
            clips: in the metric's layout, with 3 channels, at least 9 frames and any frame size; uint8, or
                floating point in the metric's value range. On any device.
            real: whether to add them to the real side.

        Raises:
            TypeError: neither a tensor nor a NumPy array.
            ValueError: another layout, dtype or range, values that are not finite, or a number of frames
                or kind of values (uint8 or floating point) that differs from that of earlier clips.
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
        """Return the score as a float64 tensor without axes.

        Raises:
            ValueError: fewer than 2 clips on a side.

        Warns:
            UserWarning: fewer than 256 clips on a side, or frame sizes that differ between the sides.
        """
        real, generated = self._complete()
        for text in self._doubts(real, generated):
            warnings.warn(text, UserWarning, stacklevel=2)
        return torch.tensor(self._score(real, generated), dtype=torch.float64)

    def curve(self, *, points: int = resampling.POINTS, seed: int = 0) -> list[resampling.Point]:
        """Return the scores of random subsets of the clips, from a tenth of them to all: see ``extrapolate``.

        Raises:
            ValueError: as for ``extrapolate``.
        """
        return resampling.curve(*self._complete(), self._score, points=points, seed=seed)

    def extrapolate(self, *, points: int = resampling.POINTS, seed: int = 0) -> float:
        """Estimate the score of infinitely many clips: the end of a line through the scores over 1 / clips.

        The score of N clips is too high by about a constant over N, which depends on the videos. The estimate
        removes most of it: up to a third of the excess of 256 clips remains, and up to a tenth of that of
        2,048. The line is fitted to ``curve`` from half of the clips on. Sides without features are whole.

        Args:
            points: the number of subsets, at least 5.
            seed: of their choice.

        Raises:
            ValueError: features that were not kept, fewer than 8 clips on a side, or too few points.

        Source: Chong & Forsyth, "Effectively Unbiased FID and Inception Score" (CVPR 2020).
        """
        return resampling.extrapolated(self.curve(points=points, seed=seed))

    def bootstrap(
        self, resamples: int = 200, *, confidence: float = 0.95, seed: int = 0
    ) -> tuple[float, float]:
        """Estimate the interval of the score of as many other clips of the same kind.

        It is the spread of the scores of clips drawn with replacement, centered on the score: the bias of
        drawing some clips twice is removed.

        Args:
            resamples: the number of draws.
            confidence: the fraction of the scores inside of the interval.
            seed: of the draws.

        Raises:
            ValueError: features that were not kept, fewer than 8 clips on a side, or an argument out of
                range.
        """
        return resampling.bootstrap(
            *self._complete(), self._score, resamples=resamples, confidence=confidence, seed=seed
        )

    def reset(self, *, real: bool = True) -> None:
        """Remove all clips; ``real=False`` keeps the real ones."""
        empty = Side.empty(self._embedding.width, keep=self._keep)
        kept = empty if real else self._sides[True]
        self._sides = {True: kept, False: empty}
        if not kept.count:
            self._frames, self._kind = None, None

    def merge(self, other: FrechetVideoDistance) -> None:
        """Add the clips of another metric, for example of another process.

        Raises:
            ValueError: a metric of another preset, other weights, or other clips.
        """
        self._admit(other._header())
        self._sides = {real: side.merged(other._sides[real]) for real, side in self._sides.items()}

    def state_dict(self) -> dict[str, Any]:
        """Return the state as tensors and plain values, which ``torch.save`` writes."""
        sides = {_NAMES[real]: side.state() for real, side in self._sides.items()}
        return self._header() | sides

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Replace the clips by those of a state.

        Raises:
            ValueError: not such a state, or that of a metric with another preset or other weights; the metric
                is unchanged.
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
        """Write one side to an .npz file atomically, for ``load_statistics`` and the command line.

        Under torch.distributed with ``sync``, all processes must call it, each with its own path.

        Raises:
            ValueError: fewer than 2 clips on that side, or a path that does not end in .npz.
            OSError: a place that cannot be written.
        """
        side = self._all(real)
        self._check_count(side, real)
        saved.write(path, side, self._header())

    def load_statistics(self, path: str | PathLike[str], *, real: bool = True) -> None:
        """Add the clips of a file that ``save_statistics`` wrote to one side.

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
        """Return everything needed to understand and repeat the score, in JSON's types.

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
        """Return the number of clips of ``frames`` frames per forward pass."""
        return self._embedding.batch_size(frames)

    def check_frames(self, frames: int, values: Values | None = None) -> None:
        """Raise the ValueError that ``update`` would for clips of this length and kind."""
        check_frames(frames)
        self._check_alike(frames, values)

    def _score(self, real: Side, generated: Side) -> float:
        return frechet_distance(real.statistics, generated.statistics, unbiased=self.preset.unbiased)

    def _header(self) -> dict[str, Any]:
        """What two states must share to be merged; None if there are no clips yet."""
        return {
            "preset": self.preset.name,
            "weights": self._embedding.weights["sha256"],
            "frames": self._frames,
            "kind": self._kind,
        }

    def _admit(self, header: Mapping[str, Any]) -> None:
        """Raise unless clips with this header may join the present ones; the first ones set the kind."""
        self._check_origin(header)
        if header["frames"] is not None:
            self._check_alike(header["frames"], header["kind"])
            self._frames, self._kind = header["frames"], header["kind"]

    def _check_origin(self, header: Mapping[str, Any]) -> None:
        for name in ("preset", "weights"):
            own = self._header()[name]
            if header.get(name) != own:
                raise ValueError(
                    f"{name} of these statistics is {header.get(name)!r}, of this metric {own!r}, and a "
                    "score needs one: choose that one, or compute the statistics again"
                )

    def _check_width(self, side: Side) -> None:
        width, own = len(side.statistics.mean), self._embedding.width
        if width != own:
            raise ValueError(f"these statistics are of {width} logits, and these weights give {own}")

    def _check_alike(self, frames: int, kind: str | None) -> None:
        if self._frames not in (None, frames):
            raise ValueError(
                f"clips must have {self._frames} frames, as the present ones, got {frames}: scores of "
                f"different lengths are not comparable, so take {self._frames}"
            )
        if kind is not None and self._kind not in (None, kind):
            raise ValueError(
                f"clips must be {self._kind}, as the present ones, got {kind}: rounding to 8 bits alone "
                "changes the score, so round both sides or neither"
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
        """Sentences about why the score may mislead."""
        doubts = []
        if (few := min(real.count, generated.count)) < FEW_CLIPS:
            doubts.append(
                f"FVD of {real.count} real and {generated.count} generated clips: below {FEW_CLIPS} the "
                f"score depends more on the number than on the videos; {few} are only comparable with {few}"
            )
        if set(real.sizes) != set(generated.sizes):
            sizes = [_listed(side) for side in (real, generated)]
            doubts.append(
                f"frames differ in size, {sizes[0]} on the real side and {sizes[1]} on the generated one: "
                "all are scaled to 224x224, but sharpness changes the score"
            )
        return doubts


def _listed(side: Side) -> str:
    sizes = [f"{height}x{width}" for (height, width), _ in side.sizes.most_common()]
    return ", ".join(sizes[:3]) + (f" and {len(sizes) - 3} more" if len(sizes) > 3 else "")


def _described(side: Side) -> dict[str, Any]:
    sizes = {f"{height}x{width}": count for (height, width), count in side.sizes.most_common()}
    return {"clips": side.count, "sizes": sizes}
