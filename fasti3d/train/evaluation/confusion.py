"""The picture of a confusion matrix."""

from __future__ import annotations

import io
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fasti3d.utils.files import write_atomically

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# With more classes than this, numbers in the cells could not be read, and labels would overlap.
_MAX_NUMBERED = 60
_MAX_LABEL = 28
_DARK = 0.55
# Inches per class of a numbered matrix, of the matrix at least and at most, and of the labels around it.
_CELL, _MIN_SIDE, _MAX_SIDE, _MARGIN = 0.3, 3.0, 16.0, 2.4


def draw_confusion(counts: NDArray[np.int64], classes: tuple[str, ...], path: Path) -> None:
    """Draw a confusion matrix, each row divided by its sum; the picture appears whole or not at all.

    Up to 60 classes have their counts in the cells and all names beside them, more have every n-th name.

    Args:
        counts: (classes, classes), rows are true classes.
        classes: Their names.
        path: The .png.

    Raises:
        OSError: It cannot be written.
    """
    # Straight to the canvas: pyplot would choose a window system and keep the figure alive.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    side = min(max(_CELL * len(classes), _MIN_SIDE), _MAX_SIDE)
    size = side + _MARGIN
    figure = Figure(figsize=(size, size), dpi=100, facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.add_axes((_MARGIN * 0.9 / size, _MARGIN * 0.9 / size, side / size, side / size))
    sums = counts.sum(axis=1, keepdims=True)
    shares = np.divide(counts, sums, out=np.zeros(counts.shape), where=sums > 0)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, interpolation="nearest")
    _label(axes, classes)
    if len(classes) <= _MAX_NUMBERED:
        _number(axes, counts, shares)
    data = io.BytesIO()
    with warnings.catch_warnings():
        # A name in a script that the font lacks draws boxes; the user can see that.
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        figure.savefig(data, format="png", metadata={"Software": None})
    write_atomically(path, data.getvalue())


def _label(axes: Axes, classes: tuple[str, ...]) -> None:
    step = -(-len(classes) // _MAX_NUMBERED)
    places = range(0, len(classes), step)
    names = [
        classes[i] if len(classes[i]) <= _MAX_LABEL else classes[i][: _MAX_LABEL - 1] + "…" for i in places
    ]
    axes.set_xticks(places, names, rotation=90, fontsize=7, parse_math=False)
    axes.set_yticks(places, names, fontsize=7, parse_math=False)
    axes.set_xlabel("taken for", fontsize=9)
    axes.set_ylabel("class", fontsize=9)
    axes.tick_params(length=2)


def _number(axes: Axes, counts: NDArray[np.int64], shares: NDArray[np.float64]) -> None:
    for i, j in np.argwhere(counts):
        color = "white" if shares[i, j] > _DARK else "black"
        axes.text(j, i, str(counts[i, j]), ha="center", va="center", fontsize=7, color=color)
