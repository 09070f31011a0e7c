"""Accuracies, their interval and the confusion matrix, against numbers made by hand."""

from __future__ import annotations

import csv
import math
from pathlib import Path

import numpy as np
import pytest

from fasti3d.train.evaluation import measure, wilson, write_report
from fasti3d.train.evaluation.confusion import draw_confusion
from fasti3d.train.evaluation.metrics import ranking

NAN = [math.nan] * 7
# Seven classes, of which class 3 has no videos; the fourth video failed.
SCORES = np.array(
    [
        [9, 1, 2, 3, 4, 5, 6],  # class 0: right
        [1, 9, 2, 3, 4, 5, 6],  # class 0: its rank is 7, outside of the five
        [9, 5, 2, 3, 4, 1, 6],  # class 1: third
        NAN,  # class 1: failed
        [0, 1, 2, 3, 4, 9, 6],  # class 5: right
        [5, 5, 5, 5, 5, 5, 5],  # class 5: a tie, where it is sixth
        [5, 5, 5, 5, 5, 5, 5],  # class 4: a tie, where it is fifth
    ]
)
LABELS = np.array([0, 0, 1, 1, 5, 5, 4])


def test_numbers_made_by_hand() -> None:
    found = measure(SCORES, LABELS)
    assert found is not None
    assert (found.videos, found.failed, found.top) == (7, 1, 5)
    assert found.right == 2
    assert found.right_in_top == 4
    assert found.top1 == 2 / 7
    assert found.top5 == 4 / 7
    # Classes 0, 1, 4 and 5 have videos: 1/2, 0/2, 0/1 and 1/2.
    assert found.mean_class == pytest.approx((0.5 + 0 + 0 + 0.5) / 4, abs=0)
    assert found.classes_with_videos == 4
    assert found.per_class.tolist() == [[2, 1], [2, 0], [0, 0], [0, 0], [1, 0], [2, 1], [0, 0]]
    expected = np.zeros((7, 7), int)
    for label, taken in ((0, 0), (0, 1), (1, 0), (5, 5), (5, 0), (4, 0)):
        expected[label, taken] += 1
    assert found.confusion.tolist() == expected.tolist()
    assert found.confusions(2) == [(0, 1, 1), (1, 0, 1)]
    assert len(found.confusions(99)) == 4


def test_failed_videos_are_left_out_only_if_asked() -> None:
    found = measure(SCORES, LABELS, ignore_errors=True)
    assert found is not None
    assert (found.videos, found.failed, found.right) == (6, 0, 2)
    assert found.per_class[1].tolist() == [1, 0]


def test_ties_go_to_the_lower_index() -> None:
    assert ranking(np.array([[1.0, 3.0, 3.0, 0.0], [2.0, 2.0, 2.0, 2.0]])).tolist() == [
        [1, 2, 0, 3],
        [0, 1, 2, 3],
    ]


def test_few_classes_and_lists_without_labels() -> None:
    found = measure(np.array([[0.0, 1.0, 2.0]]), np.array([0]))
    assert found is not None
    assert (found.top, found.top1, found.top5) == (3, 0.0, 1.0)
    assert measure(np.zeros((2, 3)), np.array([-1, -1])) is None
    some = measure(np.array([[1.0, 0.0], [1.0, 0.0]]), np.array([-1, 0]))
    assert some is not None
    assert (some.videos, some.top1) == (1, 1.0)
    assert measure(np.full((2, 3), np.nan), np.array([0, 1]), ignore_errors=True) is None


@pytest.mark.parametrize(
    ("right", "count", "low", "high"),
    [
        # Roots of (p - s)^2 = z^2 p (1 - p) / n, solved apart.
        (95, 100, 0.888250, 0.978456),
        (0, 10, 0.0, 0.277533),
        (10, 10, 0.722467, 1.0),
        (1, 1, 0.206549, 1.0),
    ],
)
def test_wilson(right: int, count: int, low: float, high: float) -> None:
    assert wilson(right, count) == pytest.approx((low, high), abs=1e-6)
    z, share = 1.959963984540054, right / count
    for limit in wilson(right, count):
        assert (limit - share) ** 2 == pytest.approx(z * z * limit * (1 - limit) / count, abs=1e-12)


def test_the_files_of_a_report(tmp_path: Path) -> None:
    found = measure(SCORES, LABELS)
    assert found is not None
    names = ("zero", 'one, "quoted"', "two", "three $x_1$", "four", "five", "six")
    table, matrix, picture = write_report(tmp_path / "rgb.split1.npz", names, found)
    assert table.name == "rgb.split1.classes.csv"
    rows = list(csv.DictReader(table.open(newline="")))
    assert [row["class"] for row in rows] == [names[i] for i in (1, 4, 0, 5, 2, 3, 6)]
    assert rows[0] == {
        "class": names[1],
        "videos": "2",
        "right": "0",
        "accuracy": "0.000000",
        "mostly_taken_for": "zero",
        "times": "1",
    }
    assert rows[-1]["accuracy"] == rows[-1]["mostly_taken_for"] == ""
    assert np.load(matrix).tolist() == found.confusion.tolist()
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_pictures_of_many_classes_have_no_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from matplotlib.axes import Axes

    drawn: list[str] = []
    ticks: list[int] = []
    text, set_yticks = Axes.text, Axes.set_yticks

    def recorded(self: Axes, x: float, y: float, s: str, **more: object) -> object:
        drawn.append(s)
        return text(self, x, y, s, **more)

    def counted(self: Axes, places: range, *more: object, **style: object) -> object:
        ticks.append(len(places))
        return set_yticks(self, places, *more, **style)

    monkeypatch.setattr(Axes, "text", recorded)
    monkeypatch.setattr(Axes, "set_yticks", counted)
    for classes in (60, 61, 400):
        counts = np.eye(classes, dtype=np.int64) * 3
        draw_confusion(counts, tuple(f"class {i}" for i in range(classes)), tmp_path / "picture.png")
    assert drawn == ["3"] * 60
    assert [count for count in ticks if count] == [60, 31, 58]
