"""The picture of a classification: the classes over time, above a filmstrip of the video."""

from __future__ import annotations

import io
import textwrap
import warnings
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from fasti3d.classification.result import Classification
from fasti3d.utils.files import write_atomically
from fasti3d.utils.naming import quoted
from fasti3d.utils.targets import check_target

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe & Ito's palette, which people with any colour vision tell apart; its yellow and sky blue
# are too close to others or too pale for a line on white.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00")
_INK = "#2B2B2B"
_FAINT = "#757575"
_GRID = "#E6E6E6"

# A class that never gets this likely would only be a line along the floor.
_NOTABLE = 0.05
# More windows than this are averaged in bins, as the picture has no room for them.
_MAX_POINTS = 200

# The page, in inches: the plot, the filmstrip below it, a column of class names to the right.
_WIDTH, _HEIGHT = 11.0, 4.5
_LEFT, _RIGHT, _TOP, _BOTTOM = 0.7, 2.85, 0.55, 0.6
_STRIP, _GAP = 0.83, 0.1
_LINE = 0.175
_LABEL_CHARACTERS = 27
_TITLE_CHARACTERS = 70

_TIME_STEPS = (0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 43200)
_MAX_TICKS = 10


def format_time(seconds: float) -> str:
    """Format seconds as m:ss, or h:mm:ss from an hour on.

    Example:
        >>> format_time(75.4), format_time(3601)
        ('1:15', '1:00:01')
    """
    minutes, s = divmod(round(seconds), 60)
    hours, m = divmod(minutes, 60)
    return f"{hours}:{m:02}:{s:02}" if hours else f"{m}:{s:02}"


def draw_timeline(result: Classification, path: str | PathLike[str], *, classes: int = 5) -> None:
    """Draw the most likely classes over time, above a filmstrip that shares the time axis.

    The classes are those with the highest mean probability over the windows, without those that never reach
    5 %. A window's probability stands for the time nearer to its middle than to its neighbours'; if there are
    more windows than the picture has room for, neighbours are averaged. The file appears whole or not at all.

    Args:
        result: What ``fasti3d.classify`` returned.
        path: The picture; its suffix is the format: .png, .svg or .pdf.
        classes: The maximum number of classes drawn, 1 to 5 (the colours that are easily told apart).

    Raises:
        ValueError: The format is another, or the number of classes is out of range.
        OSError: The picture cannot be written.

    Example:
        >>> draw_timeline(fasti3d.classify("demo.mp4"), "timeline.png")  # doctest: +SKIP
    """
    target = check_target(path)
    if not 1 <= classes <= len(_COLOURS):
        raise ValueError(f"classes must be between 1 and {len(_COLOURS)}, got {classes}")
    _save(_picture(result, classes), target)


def _picture(result: Classification, classes: int) -> Figure:
    # Straight to the canvas: pyplot would choose a window system and keep the figure alive.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(_WIDTH, _HEIGHT), dpi=150, facecolor="white")
    FigureCanvasAgg(figure)
    plot_bottom = _BOTTOM + _STRIP + _GAP
    plot = _axes(figure, plot_bottom, _HEIGHT - _TOP - plot_bottom)
    strip = _axes(figure, _BOTTOM, _STRIP)
    _draw_classes(figure, plot, result, classes)
    _draw_film(strip, result)
    _draw_time(plot, strip, result)
    _draw_title(figure, result)
    return figure


def _axes(figure: Figure, bottom: float, height: float) -> Axes:
    """Axes over the picture's width but for the column of names; inches from the bottom."""
    width = _WIDTH - _LEFT - _RIGHT
    return figure.add_axes((_LEFT / _WIDTH, bottom / _HEIGHT, width / _WIDTH, height / _HEIGHT))


def _text(figure: Figure, x: float, y: float, text: str, **style: Any) -> None:
    """Text at (x, y) inches, hanging from its top; a $ in it is a dollar."""
    figure.text(x / _WIDTH, y / _HEIGHT, text, va="top", parse_math=False, **style)


def _draw_classes(figure: Figure, axes: Axes, result: Classification, classes: int) -> None:
    probabilities = result.probabilities()
    shares = result.shares()
    peaks = probabilities.amax(dim=0)
    ranked = probabilities.mean(dim=0).argsort(descending=True)[:classes].tolist()
    shown = [i for i in ranked if peaks[i] >= _NOTABLE] or ranked[:1]

    bins = torch.arange(len(shares)).tensor_split(min(len(shares), _MAX_POINTS))
    edges = [shares[int(members[0])].start for members in bins] + [_extent(result)[1]]
    y = _HEIGHT - _TOP
    x = _WIDTH - _RIGHT + 0.2
    for rank, index in enumerate(shown):
        colour = _COLOURS[rank]
        heights = [probabilities[members, index].mean().item() for members in bins]
        # The likeliest class lies on top, so that its line is whole.
        depth = 3 - rank / 10
        axes.stairs(heights, edges, fill=True, color=colour, alpha=0.13, lw=0, zorder=depth - 1)
        width = 2.2 if len(bins) < 60 else 1.4
        axes.stairs(heights, edges, baseline=None, color=colour, lw=width, zorder=depth, clip_on=False)

        lines = textwrap.wrap(result.labels[index], _LABEL_CHARACTERS, max_lines=2, placeholder="…")
        _text(figure, x, y + 0.01, "\u25a0", color=colour, fontsize=13)
        _text(figure, x + 0.22, y, "\n".join(lines), color=_INK, fontsize=10.5, linespacing=1.15)
        y -= _LINE * len(lines)
        _text(figure, x + 0.22, y, f"up to {peaks[index].item():.2f}", color=_FAINT, fontsize=9)
        y -= _LINE + 0.1

    axes.set_ylim(0, 1)
    axes.set_yticks([0, 0.25, 0.5, 0.75, 1], ["0", "0.25", "0.5", "0.75", "1"])
    axes.set_ylabel("probability", color=_FAINT, fontsize=10)
    axes.tick_params(axis="both", length=0, labelsize=9.5, labelcolor=_FAINT)
    axes.grid(axis="y", color=_GRID, lw=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color("#BBBBBB")


def _draw_film(axes: Axes, result: Classification) -> None:
    """Square frames side by side, each the one nearest to the middle of the time it covers."""
    start, end = _extent(result)
    frames = round((_WIDTH - _LEFT - _RIGHT) / _STRIP)
    length = (end - start) / frames
    for i in range(frames):
        left = start + i * length
        nearest = min(result.film, key=lambda picture: abs(picture.time - left - length / 2))
        axes.imshow(
            nearest.image.numpy(),
            extent=(left, left + length, 0, 1),
            aspect="auto",
            interpolation="antialiased",
        )
        if i:
            axes.axvline(left, color="white", lw=2)
    axes.set_ylim(0, 1)
    axes.set_yticks([])
    axes.spines[:].set_visible(False)


def _draw_time(plot: Axes, strip: Axes, result: Classification) -> None:
    start, end = _extent(result)
    step = next((s for s in _TIME_STEPS if (end - start) / s <= _MAX_TICKS), _TIME_STEPS[-1])
    first = -int(-start // step)
    ticks = [i * step for i in range(first, int(end / step + 1e-6) + 1)]
    for axes in (plot, strip):
        axes.set_xlim(start, end)
        axes.set_xticks(ticks)
    plot.tick_params(axis="x", labelbottom=False)
    plot.grid(axis="x", color=_GRID, lw=0.8)
    long = end >= 60
    strip.set_xticklabels([format_time(t) if long else f"{t:g} s" for t in ticks])
    strip.tick_params(axis="x", length=3, color="#BBBBBB", labelsize=9.5, labelcolor=_FAINT)


def _draw_title(figure: Figure, result: Classification) -> None:
    name = quoted(result.path.name)
    if len(name) > _TITLE_CHARACTERS:
        name = name[: _TITLE_CHARACTERS - 1] + "…"
    _text(figure, _LEFT, _HEIGHT - 0.17, name, color=_INK, fontsize=12, weight="bold")


def _extent(result: Classification) -> tuple[float, float]:
    """From when to when, in seconds; a video of one frame, whose length is not known, shows as 0.1 s."""
    start, end = result.spans[0].start, max(span.end for span in result.spans)
    return start, end if end > start else start + _TIME_STEPS[0]


def _save(figure: Figure, target: Path) -> None:
    data = io.BytesIO()
    with warnings.catch_warnings():
        # A file name in a script that the font lacks draws boxes; the user can see that.
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        figure.savefig(data, format=target.suffix[1:].lower())
    write_atomically(target, data.getvalue())
