"""Turns a pytest-benchmark record into Markdown tables and, with --plot, --flow-plot and --gpu-plot, charts.

``python benchmarks/report.py RECORD.json [--output REPORT.md] [--plot CHART.png] [--flow-plot CHART.png]
[--gpu-plot CHART.png]``
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import torch

from fasti3d.inspect.plan_report import report_plan
from fasti3d.inspect.roofline import CHIPS

Row = dict[str, Any]
Columns = dict[str, Callable[[Row], str]]

NOTE = (
    "Times are medians. The ratio is the candidate's time over fasti3d's, run in turns in one process: "
    "median (least to most) over the rounds; above 1, fasti3d is faster. Every candidate's result was "
    "checked before it was timed. MB are 10^6 bytes of peak memory in the first and in a later pass."
)


def seconds(value: float) -> str:
    """A time with three significant digits, in s or ms."""
    return f"{value:.2f} s" if value >= 1 else f"{value * 1e3:.3g} ms"


def _time(row: Row) -> str:
    return seconds(row["stats"]["median"])


def _ratio(name: str) -> Callable[[Row], str]:
    def ratio(row: Row) -> str:
        info = row["extra_info"]
        if name not in info:
            return ""
        return f"{info[name]:.2f} ({info[f'{name}_min']:.2f} to {info[f'{name}_max']:.2f})"

    return ratio


def _number(name: str, form: str) -> Callable[[Row], str]:
    def number(row: Row) -> str:
        info = row["extra_info"]
        return format(info[name], form) if name in info else ""

    return number


def _scaled(giga: float, form: str, unit: str) -> str:
    return f"{giga / 1e3:.4g} T{unit}" if giga >= 1e4 else f"{giga:{form}} G{unit}"


def _rate(row: Row) -> str:
    info = row["extra_info"]
    rates = []
    if "gflop_per_s" in info:
        rates.append(_scaled(info["gflop_per_s"], ".0f", "FLOP/s"))
    if "gb_per_s" in info:
        rates.append(_scaled(info["gb_per_s"], ".1f", "B/s"))
    return ", ".join(rates)


def _memory(row: Row) -> str:
    info = row["extra_info"]
    return f"{info['peak_mb']:.0f} / {info['later_peak_mb']:.0f}" if "peak_mb" in info else ""


def _device_time(name: str) -> Callable[[Row], str]:
    def time(row: Row) -> str:
        info = row["extra_info"]
        return f"{1e6 * info[name]:.1f} us" if name in info else ""

    return time


def _text(name: str) -> Callable[[Row], str]:
    return lambda row: str(row["extra_info"].get(name, ""))


def _pair_time(row: Row) -> str:
    return seconds(1 / row["extra_info"]["pairs_per_s"])


class Section(NamedTuple):
    """A table of the report, with a note on it and the columns that it may have."""

    heading: str
    columns: Columns
    note: str = ""


_PASS: Columns = {"time": _time, "ratio": _ratio("ratio"), "rate": _rate, "MB": _memory}
_DEVICE: Columns = {
    "time": _device_time("device_seconds"),
    "least": _device_time("floor_seconds"),
    "rate": _rate,
    "% of the product's": _number("matmul_percent", ".0f"),
    "% of the copy's": _number("copy_percent", ".0f"),
}
_ITERATIONS: Columns = {"Gpixel-iterations/s": _number("gpixel_iterations_per_s", ".2f")}
_CLIPS: Columns = {
    "time": _time,
    "clips/s": _number("clips_per_s", ".4g"),
    "ratio": _ratio("ratio"),
    "rate": _rate,
    "device MB": _number("device_mb", ".0f"),
}
_PARTS = ("grey", "TV-L1", "crop and pack", "RGB network", "flow network")
_PAIRS: Columns = {"pairs": _number("pairs", "d"), "pairs/s": _number("pairs_per_s", ".4g")}

# By how the groups of their benchmarks begin.
SECTIONS = {
    "I3D": Section(
        "I3D forward",
        _PASS | {"device MB": _number("device_mb", ".0f")},
        "On a GPU every pass is waited for. Device MB: what torch's allocator holds for a pass beyond one "
        "copy of the weights and the clip.",
    ),
    "ResNet": Section(
        "I3D-ResNet forward",
        {"time": _time, "ratio": _ratio("ratio"), "rate": _rate, "MB": _number("working_mb", ".0f")},
        "MB: peak memory of a later pass, with what plans keep from pass to pass.",
    ),
    "training step": Section(
        "Training steps",
        _PASS | {"kept MB": _number("kept_mb", ".0f"), "MB": _number("peak_mb", ".0f")},
        "Forward, loss and backward of a batch. Kept MB: what autograd keeps for the backward pass; MB: peak "
        "resident memory of a step. Gradients are checked against those of float64.",
    ),
    "GPU training": Section(
        "Training steps on a GPU",
        _PASS | {"device MB": _number("device_mb", ".0f"), "fasti3d's share": _number("memory_share", ".2f")},
        "Forward, loss, backward and SGD with momentum, bfloat16 autocast. Device MB: peak beyond weights, "
        "optimizer and clips, and fasti3d's as a share of it.",
    ),
    "gpu_ceilings": Section(
        "What the GPU reaches",
        {"rate": _rate},
        "A product of random matrices, and a copy, read and written: what the shares below are of.",
    ),
    "gpu_step": Section(
        "The plan's steps on a GPU, one by one",
        _DEVICE,
        "Medians of CUDA graphs of many runs, by the GPU's clock; what fits the second-level cache is there. "
        "The least time is that of the arithmetic at the product's rate or of the bytes at the copy's, "
        "whichever is more.",
    ),
    "gpu_layer": Section(
        "The network's convolutions on a GPU, one by one",
        _DEVICE,
        "float16, channels-last, with bias and ReLU; times and least times as above.",
    ),
    "gpu_question": Section(
        "Other ways to compute convolutions on a GPU",
        {"verdict": _text("verdict")} | _DEVICE,
        "float16; each result checked ten times in poisoned memory against float32 sums.",
    ),
    "max_pool3d_same": Section("max_pool3d_same", _PASS),
    "conv3d": Section("conv3d + bias + ReLU", _PASS),
    "depthwise_conv3d": Section("Depthwise conv3d + bias + ReLU", _PASS),
    "conv3d_training": Section("The passes of convolutions in training", _PASS),
    "mixed_block": Section("Mixed blocks on a GPU, from CUDA graphs", _PASS),
    "frames": Section(
        "I3D on decoded frames",
        _PASS,
        "uint8 frames lie on the device; the ratio is over a pass that takes them as they are.",
    ),
    "i3d_head": Section(
        "The head: average, classifier, mean over time", _PASS, "On a GPU the time of a CUDA graph's replay."
    ),
    "fuse": Section(
        "fasti3d.fuse on other networks",
        _PASS | {"MB": _number("working_mb", ".0f")},
        "The networks of benchmarks/fuse_networks.py with random weights, one clip per pass. MB are those "
        "that a pass needs beyond the weights.",
    ),
    "dense": Section(
        "Dense features",
        _PASS,
        "One feature of 1024 values for every 8 frames of a video, random weights. Chunks and one pass give "
        "the same features; windows of 16 frames, which see nothing around them, give others.",
    ),
    "extract": Section(
        "Feature extraction",
        _PASS | {"% reading": _number("reading_percent", ".1f")},
        "From a video's file to those of its features, RGB stream, random weights. The percentage is the "
        "processor's time for decoding and scaling alone, of that for all of it. MB are those of a video of "
        "512 frames.",
    ),
    "FVD": Section(
        "Fréchet Video Distance",
        {"time": _time, "ratio": _ratio("ratio"), "rate": _rate, "MB": _number("peak_mb", ".0f")},
        "From 8-bit clips to the score. MB: peak memory beyond the weights, of 32 clips per side, which "
        "fasti3d gets in batches of 16 and the others at once.",
    ),
    "embedding": Section(
        "Fréchet Video Distance: clips a second",
        _CLIPS,
        "One side, from 8-bit clips on the device to the mean and covariance of their features on the host, "
        "random weights. Device MB: peak beyond the clips and the weights.",
    ),
    "two-stream": Section(
        "Frames to two-stream logits",
        _CLIPS | {f"% {part}": _number(f"percent_{part}", ".1f") for part in _PARTS},
        "From uint8 frames on the device, of which the networks see 224x224, to the summed logits; random "
        "weights. The shares are those of the parts one after the other: grey frames for TV-L1, TV-L1, its "
        "flow cropped and packed for the network, both networks. Device MB: peak beyond frames and weights.",
    ),
    "TV-L1 clip": Section(
        "TV-L1 on the CPU",
        _PAIRS
        | {"ratio, all at once": _ratio("ratio_batch"), "ratio, one at a time": _ratio("ratio_single")}
        | _ITERATIONS
        | {"MB": _memory},
        "Consecutive pairs of a clip, default parameters, as many threads for OpenCV as for fasti3d. The "
        "ratios are the candidate's time for all its pairs over fasti3d's for the same pairs, given all at "
        "once (least to most of its runs) or one at a time (least to most of a pair).",
    ),
    "TV-L1 iterations": Section(
        "TV-L1: iterations alone, and what bounds them",
        _ITERATIONS | {"rate": _rate},
        "An iteration takes 59 operations a pixel, one division and two roots among them, and reads and "
        "writes 64 bytes. To give the reference's bits it fuses no multiplication with an addition, as "
        "the matrix product does throughout. The sum a + 2 b goes over as many bytes as the "
        "iterations of one pair.",
    ),
    "TV-L1 GPU": Section(
        "TV-L1 on the GPU",
        {"time": _time}
        | _PAIRS
        | {"ratio, one at a time": _ratio("ratio_single")}
        | _ITERATIONS
        | {"device MB": _number("device_mb", ".0f")},
        "Frames and flow stay on the GPU. The time is that of one call, of one pair where a ratio is given.",
    ),
    "TV-L1 accuracy": Section(
        "TV-L1: accuracy and time",
        {
            "endpoint error": _number("endpoint_error", ".3f"),
            "time a pair": _pair_time,
            "ratio, one at a time": _ratio("ratio_single"),
        },
        "Mean endpoint error in pixels over all pixels of all pairs, given one at a time. The ratio is over "
        "fasti3d's preset i3d.",
    ),
    "TV-L1 shift": Section(
        "TV-L1: how large a motion is found",
        {"endpoint error": _number("endpoint_error", ".3f")},
        "Mean endpoint error in pixels between two views of an image of FlyingChairs, one beside the other.",
    ),
}


def table(rows: Iterable[Row], columns: Columns = _PASS) -> str:
    """One Markdown row a benchmark; columns that no benchmark fills are left out."""
    header = ["case", "", *columns]
    lines: list[list[str]] = []
    previous = None
    for row in rows:
        info = row["extra_info"]
        case = info["case"] if info["case"] != previous else ""
        lines.append([case, info["candidate"], *(cell(row) for cell in columns.values())])
        previous = info["case"]
    kept = [i for i in range(len(header)) if any(line[i] for line in lines)]
    texts = ["| " + " | ".join(line[i] for i in kept) + " |" for line in (header, *lines)]
    return "\n".join([texts[0], "|" + "---|" * len(kept), *texts[1:]])


def machine(record: Row) -> str:
    """The machine and the versions in one line."""
    info = record["machine_info"]
    ours = info["fasti3d"]
    parts = [info["cpu"].get("brand_raw", info["machine"]), f"{ours['threads']} threads"]
    parts += [
        f"{name} {ours[name]}"
        for name in (
            *("isa", "gpu", "torch", "cuda", "cudnn", "triton"),
            *("openvino", "onnxruntime", "opencv", "scikit-image"),
        )
        if ours.get(name)
    ]
    if ours.get("tuned"):
        parts.append(f"{ours['tuned']} tuned configurations")
    if clocks := ours.get("clocks"):
        parts.append(f"driver {clocks['driver_version']}")
        parts.append(f"{clocks['clocks.sm']} and memory {clocks['clocks.mem']} in use")
    commit = record["commit_info"]
    parts.append(
        f"commit {commit['id'][:10]}{' with changes' if commit['dirty'] else ''}, {record['datetime'][:10]}"
    )
    return ", ".join(parts)


def roofline(record: Row) -> list[str]:
    """The least times of the forward passes of a record on some GPUs, as Markdown."""
    cases = {row["extra_info"]["case"] for row in record["benchmarks"] if row["group"].startswith("I3D")}
    shapes = {case.split()[0]: [int(size) for size in case.split()[0].split("x")] for case in sorted(cases)}
    if not shapes:
        return []
    header = ["case", "GFLOP", "MB moved", *(chip.name for chip in CHIPS)]
    lines = [header, ["---"] * len(header)]
    for name, shape in shapes.items():
        plan = report_plan(shape, torch.bfloat16, torch.device("cpu"))
        moved = 2 * sum(step.values for step in plan.steps) / 1e6
        floors = [f"{1e3 * plan.floor_seconds(chip):.2f} ms" for chip in CHIPS]
        lines.append([name, f"{plan.flop / 1e9:.0f}", f"{moved:.0f}", *floors])
    return [
        "## Roofline",
        "The least times of a forward pass in half precision, step by step of the plan (`fasti3d plan`), by "
        "the published peaks of arithmetic and of memory: no measurement.",
        "\n".join("| " + " | ".join(line) + " |" for line in lines),
    ]


def report(record: Row) -> str:
    """The whole record as Markdown."""
    parts = [machine(record), NOTE]
    for key, section in SECTIONS.items():
        if rows := [row for row in record["benchmarks"] if row["group"].startswith(key)]:
            parts += [f"## {section.heading}", *filter(None, [section.note]), table(rows, section.columns)]
    parts += roofline(record)
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
    plt = _pyplot()
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
    _save(figure, path)


def plot_flow(record: Row, path: Path) -> None:
    """Draws the endpoint error of TV-L1 against its time: presets, peers, and a curve a setting varied.

    Raises:
        ValueError: the record holds no accuracy of TV-L1.
    """
    points: dict[str, tuple[float, float]] = {}
    curves: dict[tuple[str, str, float], list[tuple[float, float, float]]] = {}
    zero = None
    for row in record["benchmarks"]:
        if row["group"] != "TV-L1 accuracy":
            continue
        info = row["extra_info"]
        at = 1 / info["pairs_per_s"], info["endpoint_error"]
        if "field" in info:
            key = info["preset"], info["field"], info["default"]
            curves.setdefault(key, []).append((info["value"], *at))
        elif info["candidate"] == "zero flow":
            zero = info["endpoint_error"]
        else:
            points[info["candidate"]] = at
    if not points:
        raise ValueError("the record holds no accuracy of TV-L1 to plot")
    plt = _pyplot()
    figure, axes = plt.subplots(figsize=(9, 5), layout="constrained")
    for (preset, field, default), curve in curves.items():
        if f"fasti3d {preset}" in points:  # not where -k has left it out
            curve.append((default, *points[f"fasti3d {preset}"]))
        curve.sort()
        axes.plot(*list(zip(*curve, strict=True))[1:], ".-", alpha=0.6, label=f"{preset}, {field} varied")
        for value, time, error in curve:
            if value != default:
                where = {"xytext": (3, 3), "textcoords": "offset points"}
                axes.annotate(f"{value:g}", (time, error), fontsize=6, **where)
    for (name, at), marker in zip(points.items(), itertools.cycle("oD^sPX")):
        colour = "tab:orange" if name.startswith("fasti3d") else "tab:gray"
        axes.plot(*at, marker, color=colour, markersize=8, markeredgecolor="black", label=name)
    axes.set_xscale("log")
    axes.set_xlabel("time a pair, s")
    axes.set_ylabel("mean endpoint error, pixels")
    without = f"; {zero:.2f} without any flow" if zero is not None else ""
    axes.set_title(f"TV-L1 on FlyingChairs{without}", loc="left", fontsize="medium")
    figure.legend(loc="outside right center", fontsize="small", frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    _save(figure, path)


def plot_gpu(record: Row, path: Path) -> None:
    """Draws the plan's steps with their least times, and the convolutions' shares of a product's rate.

    Raises:
        ValueError: the record holds no step and no convolution by the GPU's clock.
    """
    bars: dict[str, dict[str, list[tuple[str, float]]]] = {}
    for row in record["benchmarks"]:
        info = row["extra_info"]
        if "device_seconds" not in info:  # cut short
            continue
        if row["group"].startswith("gpu_step"):
            panel = bars.setdefault(f"Steps of the plan, {info['case']}: us", {})
            for name, field in (("measured", "device_seconds"), ("least", "floor_seconds")):
                panel.setdefault(name, []).append((info["candidate"], 1e6 * info[field]))
        elif row["group"].startswith("gpu_layer"):
            layer, _, batch = info["case"].rpartition(" batch ")
            panel = bars.setdefault(f"Convolutions, batch {batch}: % of a matrix product's rate", {})
            panel.setdefault(info["candidate"], []).append((layer, info["matmul_percent"]))
    if not bars:
        raise ValueError("the record holds no step or convolution by the GPU's clock to plot")
    plt = _pyplot()
    lengths = [len({name for lines in panel.values() for name, _ in lines}) for panel in bars.values()]
    figure, panels = plt.subplots(
        len(bars),
        squeeze=False,
        figsize=(9, 0.8 * len(bars) + 0.22 * sum(lengths)),
        height_ratios=lengths,
        layout="constrained",
    )
    for axes, (title, panel) in zip(panels[:, 0], bars.items(), strict=True):
        for (name, line), colour in zip(panel.items(), itertools.cycle(("tab:orange", "tab:gray"))):
            names, values = zip(*line, strict=True)
            thin = colour == "tab:gray"
            axes.barh(names, values, height=0.4 if thin else 0.8, color=colour, label=name)
        axes.invert_yaxis()
        axes.margins(y=0.01)
        axes.tick_params(axis="y", labelsize=6)
        axes.set_title(title, loc="left", fontsize="medium")
        axes.legend(fontsize="small", frameon=False)
        axes.spines[["top", "right"]].set_visible(False)
    _save(figure, path)


def _pyplot() -> Any:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    return plt


def _save(figure: Any, path: Path) -> None:
    temporary = path.with_suffix(f".{os.getpid()}{path.suffix}")
    figure.savefig(temporary, dpi=150)
    _pyplot().close(figure)
    os.replace(temporary, path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("record", type=Path, help="what pytest --benchmark-json wrote")
    parser.add_argument("--output", type=Path, help="where the Markdown goes; by default to standard output")
    parser.add_argument("--plot", type=Path, help="where a bar chart of the forward passes goes")
    parser.add_argument("--flow-plot", type=Path, help="where a chart of TV-L1's accuracy by time goes")
    parser.add_argument("--gpu-plot", type=Path, help="where a chart of steps and convolutions on a GPU goes")
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
    for draw, path in ((plot, args.plot), (plot_flow, args.flow_plot), (plot_gpu, args.gpu_plot)):
        if path:
            try:
                draw(record, path)
            except ValueError as error:
                sys.exit(f"no chart of {args.record}: {error}")


if __name__ == "__main__":
    main()
