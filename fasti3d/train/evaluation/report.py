"""The files beside the scores: a table of the classes, the confusion matrix and its picture."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import numpy as np

from fasti3d.train.evaluation.confusion import draw_confusion
from fasti3d.train.evaluation.metrics import Metrics
from fasti3d.train.evaluation.scores import Scores
from fasti3d.utils.files import write_atomically
from fasti3d.utils.parsing import Json

_PAIRS = 10


def report_paths(scores_file: Path) -> tuple[Path, Path, Path]:
    """Return the files beside ``rgb.npz``: rgb.classes.csv, rgb.confusion.npy, rgb.confusion.png."""
    stem = scores_file.with_suffix("")
    return tuple(  # type: ignore[return-value]
        stem.with_name(stem.name + end) for end in (".classes.csv", ".confusion.npy", ".confusion.png")
    )


def write_report(scores_file: Path, classes: tuple[str, ...], metrics: Metrics) -> tuple[Path, Path, Path]:
    """Write the files beside a file of scores, each whole or not at all, and return their paths.

    The table has a row per class, from the lowest accuracy on: ``class``, ``videos``, ``right``,
    ``accuracy``, ``mostly_taken_for`` and ``times``; classes without videos come last and have no accuracy.
    The matrix is int64 (classes, classes): rows are true classes, columns predicted ones.

    Raises:
        OSError: A file cannot be written.
    """
    table, matrix, picture = report_paths(scores_file)
    write_atomically(table, _class_table(classes, metrics).encode("utf-8", "backslashreplace"))
    data = io.BytesIO()
    np.lib.format.write_array(data, metrics.confusion, allow_pickle=False)
    write_atomically(matrix, data.getvalue())
    draw_confusion(metrics.confusion, classes, picture)
    return table, matrix, picture


def _class_table(classes: tuple[str, ...], metrics: Metrics) -> str:
    wrong = metrics.confusion.copy()
    np.fill_diagonal(wrong, 0)
    rows = []
    for i, (videos, right) in enumerate(metrics.per_class.tolist()):
        taken = int(wrong[i].argmax())
        times = int(wrong[i, taken])
        accuracy = right / videos if videos else None
        rows.append((accuracy, i, (videos, right, classes[taken] if times else "", times or "")))
    text = io.StringIO(newline="")
    lines = csv.writer(text, lineterminator="\n")
    lines.writerow(("class", "videos", "right", "accuracy", "mostly_taken_for", "times"))
    for accuracy, i, (videos, right, taken_for, number) in sorted(
        rows, key=lambda row: (row[0] is None, row[0], row[1])
    ):
        shown = "" if accuracy is None else f"{accuracy:.6f}"
        lines.writerow((classes[i], videos, right, shown, taken_for, number))
    return text.getvalue()


def as_json(scores: Scores, metrics: Metrics | None) -> Json:
    """Return what a report says, in JSON's types; shares are 0 to 1, and None without labels."""
    failed = {key: reason for key, reason in zip(scores.keys, scores.failed, strict=True) if reason}
    found: Json = {
        "dataset": scores.header["dataset"],
        "stream": scores.header["stream"],
        "views": scores.header["views"],
        "weights": scores.header["weights"],
        "settings": scores.header["settings"],
        "listed": scores.listed,
        "found": len(scores.keys),
        "missing": list(scores.missing),
        "failed": failed,
        "labeled": int((scores.labels >= 0).sum()),
        "accuracy": None,
    }
    if metrics is None:
        return found
    return found | {
        "accuracy": {
            "videos": metrics.videos,
            "failed_as_wrong": metrics.failed,
            "top1": metrics.top1,
            "top5": metrics.top5,
            "top5_of": metrics.top,
            "interval95": list(metrics.interval),
            "mean_class": metrics.mean_class,
            "classes_with_videos": metrics.classes_with_videos,
            "classes": len(scores.classes),
            "worst_pairs": [
                {"class": scores.classes[i], "taken_for": scores.classes[j], "videos": count}
                for i, j, count in metrics.confusions(_PAIRS)
            ],
        }
    }
