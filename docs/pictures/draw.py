"""Draws the pictures of the site, each for a light and a dark page: ``python docs/pictures/draw.py``.

What they show of plans is computed here, and times are read from the committed records.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import matplotlib
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Rectangle

import fasti3d
from fasti3d.engine.describe.inception import graph_of
from fasti3d.engine.plan import Plan
from fasti3d.ops.conv3d_bn_relu.winograd import minimal_filter

FOLDER = Path(__file__).parent
CLIP = (1, 3, 64, 224, 224)
RESULTS = FOLDER.parents[1] / "benchmarks" / "results"


class Colors(NamedTuple):
    """Of one kind of page: lines and text, and the fills of boxes."""

    ink: str
    plain: str
    fast: str
    memory: str


THEMES = {
    "light": Colors("#303030", "#e4e7ee", "#b9d8c2", "#c5cdf2"),
    "dark": Colors("#d8d8d8", "#3d4250", "#2f5d41", "#3f4a8a"),
}


def box(ax: Axes, x: float, y: float, text: str, fill: str, colors: Colors, width: float = 1.7) -> None:
    """A box of one line or two around a point."""
    shape = FancyBboxPatch(
        (x - width / 2, y - 0.3),
        width,
        0.6,
        boxstyle="round,pad=0.02",
        facecolor=fill,
        edgecolor=colors.ink,
        linewidth=0.8,
    )
    ax.add_patch(shape)
    ax.text(x, y, text, ha="center", va="center", fontsize=9, color=colors.ink)


def arrow(ax: Axes, start: tuple[float, float], end: tuple[float, float], colors: Colors) -> None:
    """From one point to another."""
    ax.add_patch(
        FancyArrowPatch(
            start,
            end,
            arrowstyle="-|>",
            mutation_scale=9,
            color=colors.ink,
            linewidth=0.8,
            shrinkA=0,
            shrinkB=0,
        )
    )


def mixed(ax: Axes, colors: Colors) -> None:
    """A Mixed block as its modules say, and as it runs."""
    for left, title in ((0.0, "as written"), (9.25, "as it runs on a CPU")):
        ax.text(left + 3.7, 5.3, title, ha="center", fontsize=11, color=colors.ink)
    columns = [0.9, 2.8, 4.7, 6.6]
    for x in columns:
        arrow(ax, (3.7, 4.35), (x, 3.95), colors)
        arrow(ax, (x, 0.65), (3.7, 0.3), colors)
    box(ax, 3.7, 4.65, "input", colors.memory, colors)
    for x, names in zip(
        columns, (["1x1x1"], ["1x1x1", "3x3x3"], ["1x1x1", "3x3x3"], ["max-pool", "1x1x1"]), strict=True
    ):
        parts = [part for name in names for part in ([name] if name == "max-pool" else [name, "norm, ReLU"])]
        for i, part in enumerate(parts):
            box(ax, x, 3.65 - 0.9 * i, part, colors.plain, colors)
            if i:
                arrow(ax, (x, 3.65 - 0.9 * i + 0.6), (x, 3.65 - 0.9 * i + 0.32), colors)
        bottom = 3.65 - 0.9 * (len(parts) - 1)
        if bottom > 0.95:
            ax.plot([x, x], [bottom - 0.32, 0.65], color=colors.ink, linewidth=0.8)
    box(ax, 3.7, 0.0, "concatenate (copies all)", colors.plain, colors, 4.2)
    box(ax, 12.95, 4.65, "input", colors.memory, colors)
    right = [10.1, 12.0, 13.9, 15.8]
    ways = (["1x1x1"], ["1x1x1", "3x3x3"], ["1x1x1", "3x3x3"], ["max-pool,\n1x1x1"])
    for i, (x, names) in enumerate(zip(right, ways, strict=True)):
        arrow(ax, (12.95, 4.35), (x, 3.62), colors)
        for row, name in enumerate(names):
            box(ax, x, 3.3 - 1.5 * row, name, colors.fast, colors)
        if len(names) == 2:
            arrow(ax, (x, 2.98), (x, 2.12), colors)
        arrow(ax, (x, 3.3 - 1.5 * (len(names) - 1) - 0.32), (x, 0.32), colors)
        part = Rectangle(
            (x - 0.95, -0.3), 1.9, 0.6, facecolor=colors.memory, edgecolor=colors.ink, linewidth=0.8
        )
        ax.add_patch(part)
        ax.text(x, 0, f"b{i}", ha="center", va="center", fontsize=9, color=colors.ink)
    ax.text(
        12.95, -0.75, "each writes into its slice of the output", ha="center", fontsize=9, color=colors.ink
    )
    ax.set(xlim=(-0.2, 16.8), ylim=(-1.0, 5.6))


def winograd(ax: Axes, colors: Colors) -> None:
    """Four outputs of three taps along time: the products of both ways."""
    found = minimal_filter(4, 3)
    outputs, products = found.outputs.shape
    frames = outputs + 3 - 1
    for left, title in ((0.0, f"direct: {outputs * 3} products"), (9.5, f"Winograd: {products} products")):
        ax.text(left + 3.5, 4.1, title, ha="center", fontsize=11, color=colors.ink)
        for i in range(frames):
            box(ax, left + 1.2 * i + 0.5, 3.2, f"x{i}", colors.memory, colors, 0.9)
        for i in range(outputs):
            box(ax, left + 1.2 * i + 1.7, 0.0, f"y{i}", colors.memory, colors, 0.9)
    for i in range(outputs):
        for tap in range(3):
            arrow(ax, (1.2 * (i + tap) + 0.5, 2.88), (1.2 * i + 1.7, 0.32), colors)
    for i in range(products):
        x = 9.5 + 1.2 * i + 0.5
        box(ax, x, 1.6, f"m{i}", colors.fast, colors, 0.9)
        arrow(ax, (x, 2.88), (x, 1.92), colors)
    for i in range(outputs):
        arrow(ax, (9.5 + 1.2 * i + 1.7, 1.28), (9.5 + 1.2 * i + 1.7, 0.32), colors)
    for y, text in ((2.4, "sums of\nframes"), (0.8, "sums of\nproducts")):
        ax.text(16.75, y, text, va="center", fontsize=9, color=colors.ink)
    ax.set(xlim=(-0.2, 18.4), ylim=(-0.5, 4.5))


def arena(ax: Axes, colors: Colors) -> None:
    """Where each map of a pass lies, in the order of the steps."""
    model = fasti3d.I3D().eval()
    layout = Plan(graph_of(model), torch.float32, torch.device("cpu")).layout(CLIP, ["Logits"])
    dropped = {value: i for i, placed in enumerate(layout.steps) for value in placed.last}
    for i, placed in enumerate(layout.steps):
        for value, view in placed.written.items():
            nbytes = 4 * torch.Size(view.shape).numel()
            begin, end = 4 * view.offset / 1e6, dropped.get(value, i)
            ax.add_patch(
                Rectangle(
                    (i, begin),
                    end - i + 1,
                    nbytes / 1e6,
                    facecolor=colors.memory,
                    edgecolor=colors.ink,
                    linewidth=0.6,
                )
            )
    ax.axhline(layout.nbytes / 1e6, color=colors.ink, linewidth=0.8, linestyle="--")
    ax.set(
        xlim=(0, len(layout.steps)),
        ylim=(0, layout.nbytes / 1e6 * 1.05),
        xlabel="step",
        ylabel="MB in the block",
    )


def rewrites(ax: Axes, colors: Colors) -> None:
    """What is read and written after each rewrite of the graph."""
    report = fasti3d.plan(fasti3d.I3D().eval(), CLIP)
    names = [found.name for found in report.rewrites]
    sizes = [4 * found.values / 1e6 for found in report.rewrites]
    ax.barh(
        names,
        sizes,
        color=[colors.plain, *[colors.fast] * (len(names) - 1)],
        edgecolor=colors.ink,
        linewidth=0.8,
    )
    for i, (found, size) in enumerate(zip(report.rewrites, sizes, strict=True)):
        ax.text(size, i, f" {size:,.0f} MB, {found.nodes} nodes", va="center", fontsize=9, color=colors.ink)
    ax.invert_yaxis()
    ax.set(xlim=(0, 1.45 * max(sizes)), xlabel="MB read and written by a pass in float32")


def tvl1(ax: Axes, colors: Colors) -> None:
    """The loops of TV-L1."""
    params = fasti3d.TVL1Params()
    sides = [round(256 * params.scale_step**i) for i in range(params.nscales)]
    left = 0.0
    for i, side in enumerate(reversed(sides)):
        height = side / 130
        shape = Rectangle(
            (left, 0), height * 4 / 3, height, facecolor=colors.memory, edgecolor=colors.ink, linewidth=0.8
        )
        ax.add_patch(shape)
        ax.text(left, -0.3, f"{round(side * 4 / 3)}x{side}", fontsize=9, color=colors.ink)
        if i:
            arrow(ax, (left - 0.75, 0.4), (left - 0.08, 0.4), colors)
        left += height * 4 / 3 + 0.8
    ax.text(
        0,
        2.45,
        "coarse to fine: the flow of a level, enlarged, begins the next",
        fontsize=10,
        color=colors.ink,
    )
    loops = (
        f"{params.warps} times per level: warp the second frame",
        f"up to {params.outer_iterations} times: median of the flow",
        f"up to {params.inner_iterations} times: data, then smoothness",
        "until the flow moves less than epsilon",
    )
    for i, text in enumerate(loops):
        ax.text(left + 0.5 + 0.35 * i, 2.0 - 0.62 * i, text, fontsize=10, va="center", color=colors.ink)
        ax.plot([left + 0.3 + 0.35 * i] * 2, [2.2 - 0.62 * i, -0.2], color=colors.ink, linewidth=0.8)
    ax.set(xlim=(-0.2, left + 6.8), ylim=(-0.5, 2.7))


# The groups of bars: what they are called, the record, and the dtype in it.
MEASURED = (
    ("float32, AVX2 (ONNX Runtime: AVX-512)", "xeon-avx2-2-threads-0.2.0-forward", "float32"),
    ("float32, AVX-512", "xeon-amx-2-threads-0.2.0-forward", "float32"),
    ("bfloat16, AMX", "xeon-amx-2-threads-0.2.0-forward", "bfloat16"),
)
PEERS = {
    "fasti3d": "fasti3d",
    "OpenVINO": "OpenVINO",
    "ONNX Runtime": "ONNX Runtime",
    "reference, channels_last_3d": "PyTorch, channels_last_3d",
    "reference": "PyTorch as the ports write it",
}


def speed(ax: Axes, colors: Colors) -> None:
    """Times of one clip, by peer, for each instruction set that there is a record of."""
    y, ticks = 0.0, {}
    for title, record, dtype in MEASURED:
        case = f"1x3x64x224x224 {dtype} cpu"
        text = (RESULTS / f"{record}.json").read_text(encoding="utf-8")
        found = [b for b in json.loads(text)["benchmarks"] if b["extra_info"].get("case") == case]
        seconds = {b["extra_info"]["candidate"]: b["stats"]["median"] for b in found}
        ax.annotate(title, (0, y), (4, 0), textcoords="offset points", va="center", color=colors.ink)
        for candidate, name in PEERS.items():
            if candidate not in seconds:
                continue
            y += 1
            ticks[y] = name
            time = seconds[candidate]
            fill = colors.fast if candidate == "fasti3d" else colors.memory
            ax.barh(y, time, color=fill, edgecolor=colors.ink, linewidth=0.6)
            label = {"va": "center", "fontsize": 9, "color": colors.ink}
            ax.annotate(f"{time:.2f} s", (time, y), (4, 0), textcoords="offset points", **label)
        y += 1.3
    ax.set_yticks(list(ticks), list(ticks.values()))
    ax.invert_yaxis()
    ax.margins(x=0.12)
    ax.set_xlabel("seconds for one 64-frame clip, two CPU cores")


class Picture(NamedTuple):
    """What to draw, how large in inches, and whether it has axes."""

    draw: Callable[[Axes, Colors], None]
    size: tuple[float, float]
    axes: bool = False


PICTURES = {
    "mixed": Picture(mixed, (9.6, 3.8)),
    "winograd": Picture(winograd, (9.6, 2.9)),
    "arena": Picture(arena, (8.0, 3.2), axes=True),
    "rewrites": Picture(rewrites, (8.0, 2.8), axes=True),
    "tvl1": Picture(tvl1, (9.6, 2.2)),
    "speed": Picture(speed, (8.0, 4.2), axes=True),
}


def main() -> None:
    """Draw all of them."""
    matplotlib.rcParams.update({"svg.hashsalt": "fasti3d", "svg.fonttype": "none"})
    for name, picture in PICTURES.items():
        for theme, colors in THEMES.items():
            figure = Figure(figsize=picture.size, layout="constrained")
            ax = figure.add_subplot()
            picture.draw(ax, colors)
            if picture.axes:
                ax.patch.set_alpha(0)
                ax.tick_params(colors=colors.ink, labelsize=9)
                for label in (ax.xaxis.label, ax.yaxis.label):
                    label.set_color(colors.ink)
                for side, spine in ax.spines.items():
                    spine.set_visible(side in ("left", "bottom"))
                    spine.set_color(colors.ink)
            else:
                ax.set_axis_off()
            figure.savefig(FOLDER / f"{name}-{theme}.svg", transparent=True, metadata={"Date": None})


if __name__ == "__main__":
    main()
