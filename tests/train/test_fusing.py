"""Two streams joined by the videos' names, and three splits beside the paper's."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from scores_making import make_scores

from fasti3d.train.evaluation import EvaluationError, Scores, fuse, grouped, table
from fasti3d.train.evaluation.fusing import PAPER

NAN = [math.nan, math.nan]


def reordered(scores: Scores, order: list[int]) -> Scores:
    return replace(
        scores,
        keys=tuple(scores.keys[i] for i in order),
        labels=scores.labels[order],
        logits=scores.logits[order],
        failed=tuple(scores.failed[i] for i in order),
    )


def test_joined_by_name_with_means_over_views() -> None:
    rgb = make_scores([[[1, 0], [3, 0]], [[0, 2], [0, 4]], [[5, 5], [5, 5]]], [0, 1, 0])
    flow = make_scores([[0.5, 1], [7, 0], [0, 10]], [0, 1, 0], stream="flow")
    both = fuse(rgb, reordered(flow, [2, 0, 1]))
    assert both.keys == rgb.keys
    assert both.header["stream"] == "rgb+flow"
    assert both.logits[:, 0].tolist() == [[2.5, 1], [7, 3], [5, 15]]
    assert fuse(flow, rgb).header["stream"] == "rgb+flow"
    weighted = fuse(flow, rgb, flow_weight=2.0)
    assert weighted.logits[:, 0].tolist() == [[3, 2], [14, 3], [5, 25]]


def test_probabilities() -> None:
    rgb = make_scores([[[0, math.log(3)], [0, 0]]], [0])
    flow = make_scores([[math.log(4), 0]], [0], stream="flow")
    both = fuse(rgb, flow, fusion="probabilities", flow_weight=3.0)
    # rgb: (1/4 + 1/2) / 2 and the rest; flow: 4/5 and 1/5.
    expected = (np.array([3 / 8, 5 / 8]) + 3 * np.array([0.8, 0.2])) / 4
    assert np.exp(both.logits[0, 0]) == pytest.approx(expected, rel=1e-6)
    certain = make_scores([[0, 1e4]], [0], stream="flow")
    assert np.isfinite(fuse(certain, certain, fusion="probabilities").logits).all()


def test_a_video_that_failed_in_one_stream_has_failed() -> None:
    rgb = make_scores([[1, 0], NAN], [0, 1], failed=("", "is broken"))
    flow = make_scores([NAN, NAN], [0, 1], stream="flow", failed=("holds no flow", "is broken"))
    both = fuse(rgb, flow)
    assert both.failed == ("holds no flow", "is broken")
    assert np.isnan(both.logits).all()


def test_scores_that_do_not_go_together() -> None:
    rgb = make_scores([[1, 0], [0, 1], [0, 1]], [0, 1, 1])
    for other, said in (
        (
            make_scores([[1, 0], [0, 1]], [0, 1], keys=("a", "x")),
            "3 in the first and 2 in the second, 2 of them only in the first and 1 only in the second, such "
            "as b, x",
        ),
        (make_scores([[1, 0]] * 3, [0, 1, 0]), "different labels for 1 videos, such as c"),
        (make_scores([[1, 0, 0]] * 3, [0, 1, 1]), "different classes, 2 and 3"),
        (
            replace(make_scores([[1, 0]] * 3, [0, 1, 1]), classes=("class 0", "klass")),
            "class 1 is 'class 1' and 'klass'",
        ),
        (make_scores([[1, 0]] * 3, [0, 1, 1], split=2), "ucf101 split 1, test and ucf101 split 2, test"),
        (make_scores([[1, 0]] * 3, [0, 1, 1], dataset="hmdb51"), "hmdb51 split 1"),
    ):
        with pytest.raises(EvaluationError, match="the scores") as caught:
            fuse(rgb, other)
        assert said in str(caught.value)
    for weight in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match="must be above 0"):
            fuse(rgb, make_scores([[1, 0]] * 3, [0, 1, 1], stream="flow"), flow_weight=weight)
    with pytest.raises(ValueError, match="of one flow stream"):
        fuse(rgb, rgb, flow_weight=2.0)
    with pytest.raises(ValueError, match="fusion must be one of"):
        fuse(rgb, rgb, fusion="product")


def test_three_splits_are_averaged_and_not_pooled() -> None:
    right, wrong = [1.0, 0.0], [0.0, 1.0]
    rgb = [
        make_scores([right, right, right, wrong], [0] * 4, split=1),
        make_scores([right, wrong], [0] * 2, split=2),
        make_scores([right], [0], split=3),
    ]
    flow = [
        make_scores([[3.0, 0.0]] * len(one.keys), [0] * len(one.keys), stream="flow", split=i + 1)
        for i, one in enumerate(rgb)
    ]
    found = table(grouped([*flow, *rgb]))
    assert found.splits == (1, 2, 3)
    assert found.top1 == {"flow": (1, 1, 1), "rgb": (0.75, 0.5, 1.0), "rgb+flow": (1, 1, 1)}
    assert found.mean("rgb") == 0.75
    assert found.paper["ImageNet + Kinetics"] == {"rgb": 95.6, "flow": 96.7, "rgb+flow": 98.0}
    assert PAPER["hmdb51"]["Kinetics"] == {"rgb": 74.3, "flow": 77.3, "rgb+flow": 80.9}
    assert table(grouped(rgb[::-1])).top1 == {"rgb": (0.75, 0.5, 1.0)}


@pytest.mark.parametrize(
    "splits",
    [
        [(1, "rgb")],
        [(1, "rgb"), (2, "flow")],
        [(1, "rgb"), (1, "flow"), (1, "flow")],
        [(1, "rgb"), (2, "rgb"), (3, "flow")],
        [(1, "rgb"), (1, "flow"), (2, "rgb"), (3, "rgb")],
    ],
)
def test_files_that_are_neither_a_pair_nor_three_splits(splits: list[tuple[int, str]]) -> None:
    scores = [make_scores([[1, 0]], [0], split=split, stream=stream) for split, stream in splits]
    with pytest.raises(EvaluationError, match="two streams of one split"):
        grouped(scores)


def test_a_table_needs_labels() -> None:
    scores = [make_scores([[1, 0]], [-1], split=split) for split in (1, 2, 3)]
    with pytest.raises(EvaluationError, match="no labels"):
        table(grouped(scores))
