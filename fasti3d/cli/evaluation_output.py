"""What ``fasti3d evaluate`` prints: accuracies, what failed, and the table of three splits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from fasti3d.cli import output
from fasti3d.utils.naming import quoted

if TYPE_CHECKING:
    from fasti3d.train.evaluation import Metrics, Scores, SplitTable

_MAX_SHOWN = 3
_WORST = 5
_ROWS = {"rgb": "RGB", "flow": "flow", "rgb+flow": "two-stream"}


def print_report(
    scores: Scores,
    metrics: Metrics | None,
    out: Path | None,
    as_json: bool,
    remarks: tuple[str, ...] = (),
) -> None:
    """Print how well it went, and write the files beside the scores."""
    from fasti3d.train.evaluation.report import as_json as to_json
    from fasti3d.train.evaluation.report import write_report

    written = [] if out is None else [out]
    if out is not None and metrics is not None:
        try:
            written += write_report(out, scores.classes, metrics)
        except OSError as error:
            output.fail(error)
    warn_of_failures(scores)
    if as_json:
        print(json.dumps(to_json(scores, metrics)))
        return
    for text in remarks:
        output.out.print(Text(output.printable(text), style="dim"), soft_wrap=True)
    _print_metrics(scores, metrics)
    if written:
        names = ", ".join(quoted(path) for path in written)
        output.out.print(Text(output.printable(f"written: {names}"), style="dim"), soft_wrap=True)


def warn_of_failures(scores: Scores) -> None:
    """Warn of videos that are missing or failed: of each kind some, and how many there are."""
    failed = [f"{quoted(key)}: {why}" for key, why in zip(scores.keys, scores.failed, strict=True) if why]
    missing = [f"{quoted(key)}: is listed, and has no file" for key in scores.missing]
    for texts, kind in ((missing, "listed videos have no file"), (failed, "videos failed")):
        for text in texts[:_MAX_SHOWN]:
            output.complain("warning", text)
        if (more := len(texts) - _MAX_SHOWN) > 0:
            output.complain("warning", f"{more} more {kind}")


def _print_metrics(scores: Scores, metrics: Metrics | None) -> None:
    stream, settings = _ROWS.get(scores.header["stream"], scores.header["stream"]), scores.header["settings"]
    how = "mean of logits over time and views"
    if "fusion" in settings:
        how = f"sum of {settings['fusion']}, flow by {settings['flow_weight']:g}"
    output.out.print(
        Text(
            f"{output.printable(scores.title)}: {stream}, views {scores.header['views']}, {how}", style="bold"
        ),
        soft_wrap=True,
    )
    found = f"{len(scores.keys):,} of {scores.listed:,} listed videos found"
    failures = sum(map(bool, scores.failed))
    if metrics is None:
        output.out.print(
            f"{found}, {failures:,} failed; the list has no labels, so there is no accuracy", soft_wrap=True
        )
        return
    counted = "count as wrong" if metrics.failed == failures else "left out"
    low, high = metrics.interval
    failures_said = f", {failures:,} failed ({counted})" if failures else ""
    for line in (
        f"top-1 accuracy {metrics.top1:.2%} of {metrics.videos:,} videos (95 % interval {low:.2%} to "
        f"{high:.2%}); {found}{failures_said}",
        f"top-{metrics.top} accuracy {metrics.top5:.2%}",
        f"mean class accuracy {metrics.mean_class:.2%} over the {metrics.classes_with_videos} of "
        f"{len(scores.classes)} classes that have videos",
    ):
        output.out.print(line, soft_wrap=True)
    for i, j, count in metrics.confusions(_WORST):
        text = f"{scores.classes[i]} taken for {scores.classes[j]}: {count} of {metrics.per_class[i, 0]}"
        output.out.print(Text(output.printable(text), style="dim"), soft_wrap=True)


def print_table(found: SplitTable, as_json: bool) -> None:
    """Print the accuracies of three splits, with the paper's rows beside them."""
    means = {row: found.mean(row) for row in found.top1}
    if as_json:
        rows = {row: {"splits": list(values), "mean": means[row]} for row, values in found.top1.items()}
        print(
            json.dumps({"dataset": found.dataset, "splits": found.splits, "top1": rows, "paper": found.paper})
        )
        return
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), title_justify="left")
    table.add_column(found.dataset)
    for split in found.splits:
        table.add_column(f"split {split}", justify="right")
    table.add_column("mean", justify="right", style="bold")
    for before in found.paper:
        table.add_column(f"paper, {before}", justify="right")
    for row, values in found.top1.items():
        paper = [f"{rows[row]:.1f} %" for rows in found.paper.values() if row in rows]
        table.add_row(_ROWS.get(row, row), *(f"{value:.2%}" for value in values), f"{means[row]:.2%}", *paper)
    output.out.print(table)
    if found.paper:
        output.out.print(
            "paper: Carreira & Zisserman, arXiv 1705.07750v3, table 5, mean of three splits, all frames"
            + ("" if found.views == ("full",) else f"; here views {'+'.join(found.views)}"),
            style="dim",
            soft_wrap=True,
        )
