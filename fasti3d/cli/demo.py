"""``fasti3d demo``: classify one video, from downloading the weights to the picture."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from fasti3d.cli import output
from fasti3d.cli.classify import opener, print_table, run
from fasti3d.cli.options import Device, Dtype, option_errors
from fasti3d.utils.targets import check_target

_OUT = Path("demo/timeline.png")


def demo(
    video: Annotated[
        Path | None, typer.Argument(help="A video of yours instead of the sample clip.", show_default=False)
    ] = None,
    out: Annotated[Path, typer.Option(help="The picture: .png, .svg or .pdf.")] = _OUT,
    device: Device = "auto",
    dtype: Dtype = "auto",
) -> None:
    """Download weights and a sample clip, say what people do in it and when, and draw it.

    The weights (47 MB) and the clip (9 MB) are downloaded with pip once and kept in the cache.
    """
    with option_errors("--out"):
        if out == _OUT:
            out.parent.mkdir(exist_ok=True)
        check_target(out)
    from fasti3d.classification.sample_clip import sample_clip
    from fasti3d.classification.timeline import draw_timeline, format_time
    from fasti3d.weights import WeightsError

    model = opener("kinetics400-rgb", device, dtype)
    try:
        with output.progress_bar("downloading the sample clip") as advance:
            path = video or sample_clip(advance)
    except (WeightsError, OSError) as error:
        output.fail(error)
    result = run(path, model)
    if isinstance(result, str):
        output.fail(result)
    for text in result.warnings:
        output.complain("warning", text)

    print_table(result, path, 5)
    table = Table("when", "what", "probability", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for part in result.segments():
        when = f"{format_time(part.start)}-{format_time(part.end)}"
        table.add_row(when, Text(output.printable(part.label)), f"{part.probability:.2f}")
    output.out.print(table)
    try:
        draw_timeline(result, out)
    except OSError as error:
        output.fail(f"{out}: {error.strerror or error}")
    output.out.print(f"\n{output.printable(out)} shows it", markup=False, soft_wrap=True)
