"""Two streams together, and three splits together: scores joined by the videos' names."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import get_args

import numpy as np

from fasti3d.choices import Fusion, check_choice
from fasti3d.train.evaluation.errors import EvaluationError
from fasti3d.train.evaluation.metrics import Metrics, measure
from fasti3d.train.evaluation.scores import FORMAT, Scores
from fasti3d.utils.naming import quoted
from fasti3d.utils.parsing import Json

TWO_STREAM = "rgb+flow"
# The paper's table 5: top-1 in percent, the mean of three splits.
_ROWS = ("rgb", "flow", TWO_STREAM)
PAPER: dict[str, dict[str, dict[str, float]]] = {
    "ucf101": {
        "ImageNet + Kinetics": dict(zip(_ROWS, (95.6, 96.7, 98.0), strict=True)),
        "Kinetics": dict(zip(_ROWS, (95.1, 96.5, 97.8), strict=True)),
    },
    "hmdb51": {
        "ImageNet + Kinetics": dict(zip(_ROWS, (74.8, 77.1, 80.7), strict=True)),
        "Kinetics": dict(zip(_ROWS, (74.3, 77.3, 80.9), strict=True)),
    },
}
_SPLITS = 3
# Probabilities are kept by their logarithms, and zero has none.
_SMALLEST = 1e-37


def fuse(first: Scores, second: Scores, *, fusion: str = "logits", flow_weight: float = 1.0) -> Scores:
    """Join the scores of two streams by the videos' names.

    Args:
        first, second: Of the same videos, in any order.
        fusion: ``"logits"``, the sum of the streams' logits, each the mean over its views; or
            ``"probabilities"``, the mean of their probabilities, whose logarithms are kept.
        flow_weight: What the flow stream counts, where the other counts 1.

    Returns:
        Scores of one view, in the order of the first. A video that failed in either stream has failed.

    Raises:
        EvaluationError: They are of different videos, labels or classes; it says how many.
        ValueError: An argument is out of range, or a weight is given and there is no flow.

    Example:
        >>> both = fuse(read_scores("rgb.npz"), read_scores("flow.npz"))  # doctest: +SKIP
        >>> measure(both.averaged(), both.labels).top1  # doctest: +SKIP
        0.98
    """
    check_fusion(fusion, flow_weight)
    streams = [scores.header["stream"] for scores in (first, second)]
    if flow_weight != 1.0 and streams.count("flow") != 1:
        raise ValueError(f"flow_weight is of one flow stream, and these are {streams[0]} and {streams[1]}")
    rows = _matching(first, second)
    weights = [flow_weight if stream == "flow" else 1.0 for stream in streams]
    kind = Scores.averaged if fusion == "logits" else Scores.probabilities
    parts = [kind(first), kind(second)[rows]]
    sums = weights[0] * parts[0] + weights[1] * parts[1]
    if fusion == "probabilities":
        sums = np.log(np.maximum(sums / sum(weights), _SMALLEST))
    reasons = zip(first.failed, (second.failed[row] for row in rows), strict=True)
    return Scores(
        header=_header(first, second, fusion, flow_weight),
        classes=first.classes,
        keys=first.keys,
        labels=first.labels,
        logits=sums.astype(np.float32)[:, None],
        failed=tuple("; ".join(dict.fromkeys(filter(None, pair))) for pair in reasons),
        missing=first.missing,
    )


def check_fusion(fusion: str, flow_weight: float) -> None:
    """Raise a ValueError for an unknown way to fuse, or a weight that is not above 0."""
    check_choice("fusion", fusion, get_args(Fusion))
    if not 0 < flow_weight < float("inf"):
        raise ValueError(f"flow_weight must be above 0, got {flow_weight}")


def _header(first: Scores, second: Scores, fusion: str, flow_weight: float) -> Json:
    """What the fused scores are of."""
    return {
        "format": FORMAT,
        "dataset": first.header["dataset"],
        "stream": "+".join(sorted((s.header["stream"] for s in (first, second)), reverse=True)),
        "views": "+".join(dict.fromkeys(scores.header["views"] for scores in (first, second))),
        "weights": "+".join(scores.header["weights"] for scores in (first, second)),
        "settings": {"fusion": fusion, "flow_weight": flow_weight},
        "versions": first.header["versions"],
    }


def _matching(first: Scores, second: Scores) -> list[int]:
    """The row of the second for each of the first."""
    if first.title != second.title:
        raise EvaluationError(
            f"the scores are of different data sets, {first.title} and {second.title}: give those of one"
        )
    if first.classes != second.classes:
        raise EvaluationError(
            f"the scores are of different classes, {len(first.classes)} and {len(second.classes)}"
            f"{_first_difference(first.classes, second.classes)}: give those of one list"
        )
    rows = {key: row for row, key in enumerate(second.keys)}
    own = [key for key in first.keys if key not in rows]
    other = [key for key in second.keys if key not in set(first.keys)]
    if own or other:
        examples = ", ".join(quoted(key) for key in (*own[:1], *other[:1]))
        raise EvaluationError(
            f"the scores are of different videos: {len(first.keys)} in the first and {len(second.keys)} in "
            f"the second, {len(own)} of them only in the first and {len(other)} only in the second, such as "
            f"{examples}: score the same videos with both"
        )
    order = [rows[key] for key in first.keys]
    unlike = np.flatnonzero(first.labels != second.labels[order])
    if len(unlike):
        raise EvaluationError(
            f"the scores have different labels for {len(unlike)} videos, such as "
            f"{quoted(first.keys[unlike[0]])}: score both with one list"
        )
    return order


def _first_difference(mine: Sequence[str], theirs: Sequence[str]) -> str:
    pairs = enumerate(zip(mine, theirs, strict=False))
    return next((f" (class {i} is {a!r} and {b!r})" for i, (a, b) in pairs if a != b), "")


@dataclass(frozen=True)
class SplitTable:
    """Accuracies of three splits, as in the paper's table 5.

    Attributes:
        dataset: its name.
        splits: their numbers.
        top1: of each row, ``rgb``, ``flow`` and ``rgb+flow`` where they are there, the share of videos that
            are right in each split, 0 to 1.
        paper: the paper's rows in percent, by what the network was trained on before, if it has any.
        views: of the scores.
    """

    dataset: str
    splits: tuple[int, ...]
    top1: dict[str, tuple[float, ...]]
    paper: dict[str, dict[str, float]]
    views: tuple[str, ...]

    def mean(self, row: str) -> float:
        """The mean of the splits' accuracies, which are not pooled: their test lists differ in length."""
        return sum(self.top1[row]) / len(self.splits)


def grouped(scores: Sequence[Scores]) -> dict[int | None, list[Scores]]:
    """Return scores by split: two streams of one, or one or two streams of each of three.

    Raises:
        EvaluationError: They are not that.
    """
    by_split: defaultdict[int | None, list[Scores]] = defaultdict(list)
    for one in scores:
        by_split[one.header["dataset"]["split"]].append(one)
    sizes = {len(group) for group in by_split.values()}
    names = {(one.header["dataset"]["name"], one.header["dataset"]["subset"]) for one in scores}
    streams = {tuple(sorted(one.header["stream"] for one in group)) for group in by_split.values()}
    is_pair = len(by_split) == 1 and sizes == {2}
    are_splits = len(by_split) == _SPLITS and sizes in ({1}, {2}) and len(streams) == 1
    if len(names) > 1 or not (is_pair or are_splits):
        found = "; ".join(f"{one.title} {one.header['stream']}" for one in scores)
        raise EvaluationError(
            f"two streams of one split, or one or two streams of each of three, are needed, got {found}"
        )
    return dict(sorted(by_split.items(), key=lambda item: item[0] or 0))


def table(
    groups: dict[int | None, list[Scores]],
    *,
    fusion: str = "logits",
    flow_weight: float = 1.0,
    ignore_errors: bool = False,
) -> SplitTable:
    """Return the accuracies of three splits beside the paper's.

    Args:
        groups: What ``grouped`` returned for three splits.
        fusion, flow_weight: As for ``fuse``.
        ignore_errors: As for ``measure``.

    Raises:
        EvaluationError: As ``fuse``, or a split has no labels.
    """
    rows: defaultdict[str, list[float]] = defaultdict(list)
    for group in groups.values():
        for one in group:
            rows[one.header["stream"]].append(_metrics(one, ignore_errors).top1)
        if len(group) > 1:
            both = fuse(*group, fusion=fusion, flow_weight=flow_weight)
            rows[both.header["stream"]].append(_metrics(both, ignore_errors).top1)
    name = next(iter(groups.values()))[0].header["dataset"]["name"]
    views = dict.fromkeys(one.header["views"] for group in groups.values() for one in group)
    return SplitTable(
        dataset=name,
        splits=tuple(split or 0 for split in groups),
        top1={row: tuple(values) for row, values in rows.items()},
        paper=PAPER.get(name, {}),
        views=tuple(views),
    )


def _metrics(scores: Scores, ignore_errors: bool) -> Metrics:
    found = measure(scores.averaged(), scores.labels, ignore_errors=ignore_errors)
    if found is None:
        raise EvaluationError(f"the scores of {scores.title} have no labels, of which accuracy is told")
    return found
