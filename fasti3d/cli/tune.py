"""``fasti3d tune``: measures and stores the fastest kernel configurations on this machine's GPU."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from fasti3d.choices import check_device
from fasti3d.cli import output
from fasti3d.cli.options import checked, to_device, to_shape

if TYPE_CHECKING:
    from fasti3d.inspect.tune import Result

_DTYPES = ("float16", "bfloat16", "float32")
# Min width of the table, even if the terminal or pipe is narrower.
_WIDTH = 150
_SHAPES = ["1,3,64,224,224", "8,3,64,224,224"]


def tune(
    shape: Annotated[
        list[str] | None,
        typer.Option(
            metavar="N,C,T,H,W",
            help="Clips to tune for; may be given several times.",
            show_default=" and ".join(_SHAPES),
        ),
    ] = None,
    dtype: Annotated[str, typer.Option(help="Of the clips: float16, bfloat16 or float32.")] = "float16",
    device: Annotated[
        str, typer.Option(help="auto, cuda or cuda:N.", callback=checked(check_device))
    ] = "auto",
    warm: Annotated[
        bool,
        typer.Option(
            "--warm",
            help="Only compile the kernels of these clips, side by side, so that first calls are quick.",
        ),
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            help="The table to write; by default that in the cache, which is always used.",
        ),
    ] = None,
) -> None:
    """Measure the kernel configurations of every convolution on this GPU, and store the fastest.

    Each is checked against plain PyTorch before it is timed. Where a kernel over slabs may run, it is
    measured too, and the faster of both is used. This takes some minutes, mostly for compiling. Ctrl-C keeps
    the results so far; earlier results for other clips, with the same releases of torch and triton, stay in
    the table. Nothing else should run on the GPU meanwhile.
    """
    if dtype not in _DTYPES:
        raise typer.BadParameter(f"must be one of {', '.join(_DTYPES)}, got {dtype!r}", param_hint="--dtype")
    shapes = [to_shape(text) for text in shape or _SHAPES]
    import torch

    from fasti3d.inspect.tune import to_table
    from fasti3d.inspect.tune import tune as measure
    from fasti3d.inspect.tune import warm as compile_beside
    from fasti3d.ops.conv3d_bn_relu.tables import gpu, user_path
    from fasti3d.utils.files import write_atomically

    where = to_device(device)
    if where.type != "cuda":
        output.fail("there is no GPU to tune for: torch finds none, or --device is cpu")
    if warm:
        try:
            done = compile_beside(shapes, getattr(torch, dtype), where)
        except ValueError as error:
            output.fail(error)
        there = done.kernels - done.compiled
        output.out.print(f"{done.compiled} kernels compiled in {done.seconds:.1f} s, {there} were there")
        return
    its = gpu(where)
    path = out or user_path(its)
    if path is None:
        output.fail("the cache folder is unknown without platformdirs: give --out a file")
    results: list[Result] = []
    failure: BaseException | None = None
    try:
        with output.progress_bar(f"tuning for {its.name}") as advance:
            for result in measure(shapes, getattr(torch, dtype), where, progress=advance):
                results.append(result)
    except ValueError as error:
        output.fail(error)
    except (KeyboardInterrupt, RuntimeError) as error:
        failure = error
    _print(results)
    if results:
        table = to_table(results, its, getattr(torch, dtype), path)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, table.dumps().encode())
        except OSError as error:
            output.fail(f"{path}: {error.strerror or error}: give --out a file that can be written")
        written = f"{len(table.all_entries)} configurations in {path}"
    else:
        written = "nothing was measured, and nothing written"
    output.out.print(Text(output.printable(written)), soft_wrap=True)
    if isinstance(failure, KeyboardInterrupt):
        raise failure
    if failure:
        output.fail(failure)


def _print(results: list[Result]) -> None:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for column in ("layer", "writes", "configuration"):
        table.add_column(column, no_wrap=True)
    for column in ("us", "TFLOP/s", "gain"):
        table.add_column(column, justify="right", no_wrap=True)
    for result in results:
        problem = result.problem
        size = (problem.batch, problem.out_channels, *problem.size)
        cells = [result.layer, "x".join(map(str, size))]
        for it in result.right:
            numbers = (f"{it.microseconds:.1f}", f"{it.tflops:.0f}", f"{it.gain:.2f}x")
            table.add_row(*map(Text, (*cells, it.short, *numbers)))
            cells = ["", ""]
        if not result.right:
            table.add_row(*map(Text, (*cells, "none is right", "", "", "")))
    if results:
        Console(highlight=False, width=max(output.out.width, _WIDTH)).print(table)
    for result in results:
        for trial in result.trials:
            if isinstance(trial.found, str):
                output.complain("warning", f"{result.layer}, {trial.config.short}: {trial.found}")
