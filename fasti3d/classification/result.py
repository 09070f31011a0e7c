"""What the network says about one video: scores, windows, segments."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from fasti3d.backbone import I3D_NAME
from fasti3d.classification.film import FilmFrame
from fasti3d.utils.parsing import Json


@dataclass(frozen=True)
class Score:
    """One class of a ranking; ``probability`` is in [0, 1], over all classes."""

    label: str
    index: int
    probability: float
    logit: float


class Span(NamedTuple):
    """A stretch of presentation time from ``start`` to ``end``, in seconds."""

    start: float
    end: float


@dataclass(frozen=True)
class Segment:
    """A stretch of the video, in seconds, with one most likely class, and its mean probability there."""

    start: float
    end: float
    label: str
    index: int
    probability: float


@dataclass(frozen=True)
class Classification:
    """The result of ``fasti3d.classify`` for one video.

    Attributes:
        path: The video.
        fps: Frames sampled per second; None is the video's own rate.
        frames: The number of distinct frames sampled.
        spans: The stretch of time that each window covers, in order; they overlap if stride < window.
        logits: float32 (windows, classes), on the CPU; with two streams, the sum of theirs.
        labels: A name per class.
        warnings: What was odd about the file, such as that it breaks off in the middle.
        device, dtype: Where and in which precision the network ran.
        seconds: Wall-clock time from opening the file to the last logits.
        film: Frames spread over the whole video, for a filmstrip.
        streams: Each stream's own logits, like ``logits``, by its name: ``rgb``, ``flow`` or both.
        flow_from, flow_bound: The folder from which the video's flow was read, and the motion in pixels at
            which it was clipped; None if flow was computed.
        network: The network that ran, in words.
        preprocessing: How its clips were prepared, in JSON's types.
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
    film: tuple[FilmFrame, ...]
    streams: dict[str, Tensor] = field(default_factory=dict)
    flow_from: Path | None = None
    flow_bound: float | None = None
    network: str = I3D_NAME
    preprocessing: Json = field(default_factory=dict)

    @property
    def frames_per_second(self) -> float:
        """Sampled frames per second of wall-clock time, decoding included."""
        return self.frames / self.seconds

    def top(self, k: int = 5) -> tuple[Score, ...]:
        """Return the k most likely classes of the video: the softmax of the mean of the windows' logits.

        Raises:
            ValueError: ``k`` is below 1.
        """
        return self._rank(self.logits.mean(dim=0), k)

    def window_top(self, window: int, k: int = 5) -> tuple[Score, ...]:
        """Return the k most likely classes of one window."""
        return self._rank(self.logits[window], k)

    def stream_top(self, stream: str, k: int = 5) -> tuple[Score, ...]:
        """Return the k most likely classes of the video by one stream alone, a name in ``streams``."""
        return self._rank(self.streams[stream].mean(dim=0), k)

    def probabilities(self) -> Tensor:
        """Return the softmax of each window's logits, float32 (windows, classes)."""
        return self.logits.softmax(dim=1)

    def shares(self) -> tuple[Span, ...]:
        """Return the stretch of time that each window stands for, though windows may share frames.

        Neighbours meet halfway between their middles, so the stretches tile the video.
        """
        middles = [(span.start + span.end) / 2 for span in self.spans]
        between = [(a + b) / 2 for a, b in pairwise(middles)]
        edges = [self.spans[0].start, *between, self.spans[-1].end]
        return tuple(Span(a, b) for a, b in pairwise(edges))

    def segments(self) -> tuple[Segment, ...]:
        """Return what happens when: neighbouring windows with the same most likely class, merged."""
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
