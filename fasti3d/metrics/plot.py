"""Plots the score of a comparison against the number of clips."""

from __future__ import annotations

import io
from os import PathLike
from typing import TYPE_CHECKING

from fasti3d.metrics.comparison import FVDResult
from fasti3d.utils.files import write_atomically
from fasti3d.utils.targets import check_target

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_LINE, _LIMIT = "#0072B2", "#D55E00"
_FAINT = "#757575"


def draw_curve(result: FVDResult, path: str | PathLike[str]) -> None:
    """Draw the scores of subsets of the clips, with the interval and the extrapolation if known.

    The file is written atomically.

    Args:
        result: of ``fvd(..., curve=True)``.
        path: the file; its suffix gives the format: .png, .svg or .pdf.

    Raises:
        ValueError: another format, or a result without a curve.
        OSError: a place that cannot be written.
    """
    target = check_target(path)
    if not result.curve:
        raise ValueError("the result has no curve to draw: pass curve=True, with at least 8 clips per side")
    data = io.BytesIO()
    _picture(result).savefig(data, format=target.suffix[1:].lower())
    write_atomically(target, data.getvalue())


def _picture(result: FVDResult) -> Figure:
    # Straight to the canvas: pyplot would choose a window system and keep the figure alive.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), dpi=150, facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    last = result.curve[-1]
    side = "real" if result.curve[0].generated == last.generated else "generated"
    clips = [getattr(point, side) for point in result.curve]
    axes.plot(clips, [point.score for point in result.curve], "o-", color=_LINE, ms=4, lw=1.5)
    axes.annotate(
        f"{result.score:.2f}",
        (clips[-1], result.score),
        xytext=(8, 0),
        textcoords="offset points",
        va="center",
    )
    if result.interval is not None:
        low, high = result.interval
        axes.plot([clips[-1]] * 2, [low, high], color=_LINE, lw=5, alpha=0.3, solid_capstyle="butt")
    if result.infinite is not None:
        axes.axhline(result.infinite, color=_LIMIT, lw=1.2, ls="--")
        axes.annotate(
            f"infinitely many clips: about {result.infinite:.2f}",
            (0.01, result.infinite),
            xycoords=("axes fraction", "data"),
            xytext=(0, 4),
            textcoords="offset points",
            color=_LIMIT,
        )
    axes.set_xlim(0, 1.1 * clips[-1])
    axes.set_xlabel(f"{side} clips", color=_FAINT)
    axes.set_ylabel("FVD", color=_FAINT)
    receipt = result.receipt
    axes.set_title(
        f"FVD, preset {receipt['preset']}, {receipt['frames']} frames", loc="left", fontsize="medium"
    )
    axes.tick_params(labelcolor=_FAINT, color=_FAINT)
    axes.grid(color="#E6E6E6", lw=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    return figure
