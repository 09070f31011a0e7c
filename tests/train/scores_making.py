"""Scores without a network."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fasti3d.train.evaluation import Scores


def make_scores(
    logits: Sequence[Sequence[float]] | Sequence[Sequence[Sequence[float]]],
    labels: Sequence[int],
    *,
    keys: Sequence[str] = "abcdefghij",
    stream: str = "rgb",
    split: int | None = 1,
    dataset: str = "ucf101",
    failed: Sequence[str] = (),
    missing: Sequence[str] = (),
) -> Scores:
    """Scores of one view per video, (N, classes), or of several, (N, views, classes)."""
    values = np.array(logits, np.float32)
    values = values if values.ndim == 3 else values[:, None]
    count = len(values)
    header = {
        "format": 1,
        "dataset": {
            "name": dataset,
            "subset": "test",
            "split": split,
            "listed": count + len(missing),
            "digest": "0" * 64,
        },
        "stream": stream,
        "views": "full",
        "weights": stream * 8,
        "settings": {"dtype": "float32"},
        "versions": {"fasti3d": "0"},
    }
    return Scores(
        header=header,
        classes=tuple(f"class {i}" for i in range(values.shape[2])),
        keys=tuple(keys[:count]),
        labels=np.array(labels, np.int64),
        logits=values,
        failed=tuple(failed) or ("",) * count,
        missing=tuple(missing),
    )
