"""Turns a pytest-benchmark record into Markdown tables and, with --plot, a bar chart.

``python benchmarks/report.py RECORD.json [--output REPORT.md] [--plot CHART.png]``
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

Row = dict[str, Any]

# Sections of the report: the first word of a benchmark's group, and the heading.
SECTIONS = {
    "I3D": "I3D forward",
    "max_pool3d_same": "max_pool3d_same",
    "conv3d": "conv3d + bias + ReLU",
}
NOTE = (
    "Times are medians. The ratio is the candidate's time over fasti3d's, run in turns in one process: "
    "median (least to most) over the rounds; above 1, fasti3d is faster. Every candidate's result was "
    "checked before it was timed. MB are 10^6 bytes of peak memory in the first and in a later pass."
)


def seconds(value: float) -> str:
    """A time with three significant digits, in s or ms."""
    return f"{value:.2f} s" if value >= 1 else f"{value * 1e3:.3g} ms"


def _ratio(info: Row) -> str:
    if "ratio" not in info:
        return ""
    return f"{info['ratio']:.2f} ({info['ratio_min']:.2f} to {info['ratio_max']:.2f})"


def _rate(info: Row) -> str:
    if "gflop_per_s" in info:
        return f"{info['gflop_per_s']:.0f} GFLOP/s"
    return f"{info['gb_per_s']:.1f} GB/s" if "gb_per_s" in info else ""


def _memory(info: Row) -> str:
    return f"{info['peak_mb']:.0f} / {info['later_peak_mb']:.0f}" if "peak_mb" in info else ""


def table(rows: Iterable[Row]) -> str:
    """One Markdown row a benchmark; columns that no benchmark fills are left out."""
    columns: list[tuple[str, list[str]]] = [
        (name, []) for name in ("case", "", "time", "ratio", "rate", "MB")
    ]
    previous = None
    for row in rows:
        info = row["extra_info"]
        cells = (
            info["case"] if info["case"] != previous else "",
            info["candidate"],
            seconds(row["stats"]["median"]),
            _ratio(info),
            _rate(info),
            _memory(info),
        )
        previous = info["case"]
        for (_, column), cell in zip(columns, cells, strict=True):
            column.append(cell)
    kept = [(name, cells) for name, cells in columns if any(cells)]
    lines = ["| " + " | ".join(name for name, _ in kept) + " |", "|" + "---|" * len(kept)]
    lines += ["| " + " | ".join(cells) + " |" for cells in zip(*(cells for _, cells in kept), strict=True)]
    return "\n".join(lines)


def machine(record: Row) -> str:
    """The machine and the versions in one line."""
    info = record["machine_info"]
    ours = info["fasti3d"]
    parts = [info["cpu"].get("brand_raw", info["machine"]), f"{ours['threads']} threads"]
    parts += [
        f"{name} {ours[name]}"
        for name in ("isa", "gpu", "torch", "cuda", "cudnn", "triton", "openvino")
        if ours[name]
    ]
    commit = record["commit_info"]
    parts.append(
        f"commit {commit['id'][:10]}{' with changes' if commit['dirty'] else ''}, {record['datetime'][:10]}"
    )
    return ", ".join(parts)


def report(record: Row) -> str:
    """The whole record as Markdown."""
    parts = [machine(record), NOTE]
    for key, heading in SECTIONS.items():
        if rows := [row for row in record["benchmarks"] if row["group"].split()[0] == key]:
            parts += [f"## {heading}", table(rows)]
    for row in record["benchmarks"]:
        if row["group"] == "import":
            info = row["extra_info"]
            parts += [
                "## Import",
                f"`import fasti3d` takes {seconds(row['stats']['median'])}: {seconds(info['extra_seconds'])} "
                f"({seconds(info['extra_seconds_min'])} to {seconds(info['extra_seconds_max'])}) "
                f"more than `import torch` in turn.",
            ]
    return "\n\n".join(parts) + "\n"


def plot(record: Row, path: Path) -> None:
    """Draws the forward passes: one panel a case, one bar a candidate.

    Raises:
        ValueError: the record holds no forward pass.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    cases: dict[str, list[tuple[str, float]]] = {}
    for row in record["benchmarks"]:
        if row["group"].startswith("I3D"):
            info = row["extra_info"]
            cases.setdefault(info["case"], []).append((info["candidate"], row["stats"]["median"]))
    if not cases:
        raise ValueError("the record holds no I3D forward pass to plot")
    height = 0.6 * len(cases) + 0.32 * sum(map(len, cases.values()))
    figure, panels = plt.subplots(
        len(cases),
        squeeze=False,
        figsize=(8, height),
        height_ratios=[len(bars) for bars in cases.values()],
        layout="constrained",
    )
    for axes, (case, bars) in zip(panels[:, 0], cases.items(), strict=True):
        names, times = zip(*bars, strict=True)
        colours = ["tab:orange" if name == "fasti3d" else "tab:gray" for name in names]
        drawn = axes.barh(names, times, color=colours)
        axes.bar_label(drawn, [seconds(t) for t in times], padding=4)
        axes.set_xlim(right=1.15 * max(times))
        axes.invert_yaxis()
        axes.set_title(f"I3D forward {case}", loc="left", fontsize="medium")
        axes.set_xticks([])
        axes.spines[["top", "right", "bottom"]].set_visible(False)
    temporary = path.with_suffix(f".{os.getpid()}{path.suffix}")
    figure.savefig(temporary, dpi=150)
    plt.close(figure)
    os.replace(temporary, path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("record", type=Path, help="what pytest --benchmark-json wrote")
    parser.add_argument("--output", type=Path, help="where the Markdown goes; by default to standard output")
    parser.add_argument("--plot", type=Path, help="where a bar chart of the forward passes goes")
    args = parser.parse_args()
    try:
        record = json.loads(args.record.read_text())
    except (OSError, json.JSONDecodeError) as error:
        sys.exit(f"{args.record} is not a readable record: {error}")
    text = report(record)
    if args.output:
        temporary = args.output.with_suffix(f".{os.getpid()}.tmp")
        temporary.write_text(text)
        os.replace(temporary, args.output)
    else:
        print(text, end="")
    if args.plot:
        try:
            plot(record, args.plot)
        except ValueError as error:
            sys.exit(f"no chart of {args.record}: {error}")


if __name__ == "__main__":
    main()
