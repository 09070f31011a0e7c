"""The reference of the command line, made of the commands themselves."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from typing import Any

import typer
from typer.core import TyperGroup

from fasti3d.cli import app


def markdown() -> str:
    """The page: a section per verb, with its usage, what it says of itself, and its arguments and options."""
    intro = (
        "# Command line\n\n"
        "`fasti3d VERB --help` prints the same. Exit codes are 0 for done, 1 for something that failed, 2 "
        "for a wrong call and 130 for an interrupted one. `python -m fasti3d` is the same command.\n\n"
    )
    return intro + "\n".join(_section(path, command) for path, command in verbs())


def verbs() -> list[tuple[str, Any]]:
    """Every verb, ``weights list`` among them, with its command."""
    return list(_leaves("fasti3d", typer.main.get_command(app)))


def _leaves(path: str, command: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(command, TyperGroup):
        for name, inner in sorted(command.commands.items()):
            yield from _leaves(f"{path} {name}", inner)
    else:
        yield path, command


def _section(path: str, command: Any) -> str:
    context = typer.Context(command, info_name=path)
    usage = " ".join([path, *command.collect_usage_pieces(context)])
    parts = [
        f"## {path.removeprefix('fasti3d ')}\n",
        f"```text\n{usage}\n```\n",
        inspect.cleandoc(command.help) + "\n",
    ]
    for parameter in command.params:
        if record := parameter.get_help_record(context):
            parts.append(_entry(*record))
    return "\n".join(parts)


def _entry(names: str, text: str) -> str:
    """A definition: the names, then what it does and its default, which the help has at its end."""
    names = re.sub(r"^\* *", "", names).strip()
    told = re.match(r"(?P<help>.*?)\s*(?:\[(?P<extra>(?:default: .*|required))\])?$", text, re.DOTALL)
    extra = (told["extra"] or "").removeprefix("default: ")
    if extra:
        extra = "Required." if extra == "required" else f"Default: {extra.strip('()')}."
    return f"`{names}`\n:   {told['help']} {extra}\n"
