"""The output of the verbs: results on stdout, everything else on stderr."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn, Protocol

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.text import Text

from fasti3d.utils.resources import is_resource_error

out = Console(highlight=False)
err = Console(stderr=True, highlight=False)


def printable(text: object) -> str:
    """Return text for a terminal: bytes that are not UTF-8 and control characters are replaced by a mark."""
    clean = os.fsencode(str(text)).decode(errors="replace")
    return "".join(c if c.isprintable() or c in "\n\t" else "\ufffd" for c in clean)


def complain(kind: str, message: object) -> None:
    """Print one line on stderr: ``error: ...`` or ``warning: ...``."""
    style = {"error": "bold red", "warning": "bold yellow"}[kind]
    err.print(Text.assemble((f"{kind}: ", style), printable(message)), soft_wrap=True)


@contextmanager
def stopping() -> Iterator[None]:
    """Exit with code 1 and one line on stderr if memory, file descriptors or disk run out inside."""
    try:
        yield
    except Exception as error:
        if isinstance(error, typer.Exit) or not is_resource_error(error):
            raise
        what = str(error).splitlines() or ["out of memory"]
        remedy = "use --device cpu, or a smaller --window or --resize; " if "CUDA" in what[0] else ""
        fail(
            f"stopped, as this machine ran out of memory, file descriptors or disk: {what[0]}. It is not the "
            f"video's fault: free some, {remedy}then run the same command again; what is finished stays"
        )


def fail(message: object) -> NoReturn:
    """Print an error and exit with code 1."""
    complain("error", message)
    raise typer.Exit(1)


@contextmanager
def leading_rank_speaks() -> Iterator[None]:
    """Inside, a process that torchrun started prints nothing, unless it is the first: all say the same."""
    if os.environ.get("RANK", "0") == "0":
        yield
        return
    out.quiet = err.quiet = True
    try:
        yield
    except typer.BadParameter:
        raise typer.Exit(2) from None
    finally:
        out.quiet = err.quiet = False


class Advance(Protocol):
    """Moves a bar to ``done`` of ``total``; the total, once known, stays."""

    def __call__(self, done: float, total: float | None = None, /) -> None: ...


@contextmanager
def progress_bar(title: str) -> Iterator[Advance | None]:
    """Show a bar on stderr from its first move to the end of the block; yield None without a terminal."""
    if not err.is_terminal:
        yield None
        return
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TaskProgressColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=err, transient=True) as bars:
        task = bars.add_task(printable(title), total=None, visible=False)

        def advance(done: float, total: float | None = None, /) -> None:
            bars.update(task, completed=done, total=total, visible=True)

        yield advance
