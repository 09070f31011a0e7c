"""How the verbs speak: results on stdout, all else on stderr."""

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
    """Text for a terminal: bytes of a file name that are no UTF-8, and control characters, become marks."""
    clean = os.fsencode(str(text)).decode(errors="replace")
    return "".join(c if c.isprintable() or c in "\n\t" else "\ufffd" for c in clean)


def complain(kind: str, message: object) -> None:
    """One line on stderr: ``error: ...`` or ``warning: ...``."""
    style = {"error": "bold red", "warning": "bold yellow"}[kind]
    err.print(Text.assemble((f"{kind}: ", style), printable(message)), soft_wrap=True)


@contextmanager
def stopping() -> Iterator[None]:
    """Ends with exit code 1, and says so in one line, where inside memory, descriptors or disk ran out."""
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
    """Says what went wrong and ends with exit code 1."""
    complain("error", message)
    raise typer.Exit(1)


class Advance(Protocol):
    """Moves a bar to ``done`` of ``total``; the total, once known, stays."""

    def __call__(self, done: float, total: float | None = None, /) -> None: ...


@contextmanager
def progress_bar(title: str) -> Iterator[Advance | None]:
    """A bar on stderr from its first move to the end of the block; None if that is no terminal."""
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
