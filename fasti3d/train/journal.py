"""What a run writes for people: log.csv, curve.png, and TensorBoard's files where it is installed."""

from __future__ import annotations

import csv
import importlib.util
import io
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from fasti3d.train.run_folder import RunFolder
from fasti3d.utils.files import write_atomically
from fasti3d.utils.plain_files import open_partial

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# A row has the columns of a step, or the last ones of an evaluation.
COLUMNS = (
    "step",
    "epoch",
    "lr",
    "loss",
    "accuracy",
    "grad_norm",
    "data_seconds",
    "compute_seconds",
    "validation_accuracy",
)
_TRAIN, _VALIDATION, _FAINT = "#0072B2", "#D55E00", "#757575"
# Points of the smoothed line of a long run.
_POINTS = 200


class Journal:
    """Appends rows to ``log.csv`` and draws them.

    Args:
        folder: of the run.
        step: the steps that are kept of a log that is there; later ones are of a run that was killed.
        evaluated: the same of evaluations.
    """

    def __init__(self, folder: RunFolder, step: int, evaluated: int) -> None:
        self._folder = folder
        self._rows = [
            row
            for row in read_log(folder.log)
            if row["step"] <= (evaluated if row.get("validation_accuracy") is not None else step)
        ]
        write_atomically(folder.log, _table(self._rows, header=True))
        self._file: IO[bytes] = open_partial(folder.log, keep=True)
        self._board = _board(folder.path / "tensorboard", step)

    def add(self, **values: Any) -> None:
        """Append a row."""
        self._rows.append(values)
        self._file.write(_table([values], header=False))
        self._file.flush()
        if self._board is not None:
            for name, value in values.items():
                if name != "step" and value is not None:
                    self._board.add_scalar(name, value, values["step"])

    def draw(self, title: str) -> None:
        """Draw ``curve.png``."""
        data = io.BytesIO()
        _picture(self._rows, title).savefig(data, format="png")
        write_atomically(self._folder.curve, data.getvalue())

    def close(self) -> None:
        """Close the files."""
        self._file.close()
        if self._board is not None:
            self._board.close()


def read_log(path: Path) -> list[dict[str, float]]:
    """Return the whole rows of a log, of which a kill may have cut the last."""
    try:
        text = path.read_text("utf-8")
    except (FileNotFoundError, UnicodeDecodeError):
        return []
    rows = []
    whole = text[: text.rfind("\n") + 1]
    for row in csv.DictReader(io.StringIO(whole)):
        try:
            rows.append({name: float(value) for name, value in row.items() if value})
        except (ValueError, TypeError):
            continue
    return [row for row in rows if "step" in row]


def _table(rows: list[dict[str, Any]], *, header: bool) -> bytes:
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    if header:
        writer.writeheader()
    for row in rows:
        writer.writerow({name: f"{value:.9g}" for name, value in row.items() if value is not None})
    return text.getvalue().encode()


def _board(folder: Path, step: int) -> Any:
    if importlib.util.find_spec("tensorboard") is None:
        return None
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(folder), purge_step=step + 1)


def _picture(rows: list[dict[str, Any]], title: str) -> Figure:
    # Straight to the canvas: pyplot would choose a window system and keep the figure alive.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 6), dpi=120, facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    above, below = figure.subplots(2, 1, sharex=True)
    taken = [row for row in rows if row.get("loss") is not None]
    tested = [row for row in rows if row.get("validation_accuracy") is not None]
    for axes, name in ((above, "loss"), (below, "accuracy")):
        steps, values = _smooth([row["step"] for row in taken], [row[name] for row in taken])
        axes.plot(steps, values, color=_TRAIN, lw=1.5, label="training clips")
        axes.set_ylabel(name, color=_FAINT)
        axes.grid(color="#E6E6E6", lw=0.8)
        axes.tick_params(labelcolor=_FAINT, color=_FAINT)
        axes.spines[["top", "right"]].set_visible(False)
    if tested:
        below.plot(
            [row["step"] for row in tested],
            [row["validation_accuracy"] for row in tested],
            "o-",
            color=_VALIDATION,
            ms=4,
            lw=1.5,
            label="validation, one clip per video",
        )
    below.set_ylim(0, 1.02)
    below.set_xlabel("step", color=_FAINT)
    below.legend(frameon=False, fontsize="small")
    above.set_title(title, loc="left", fontsize="medium")
    return figure


def _smooth(steps: list[float], values: list[float]) -> tuple[list[float], list[float]]:
    """Means over equal parts, so that a long run has a readable line."""
    size = max(1, len(steps) // _POINTS)
    starts = range(0, len(steps) - size + 1, size)
    return (
        [sum(steps[i : i + size]) / size for i in starts],
        [sum(values[i : i + size]) / size for i in starts],
    )
