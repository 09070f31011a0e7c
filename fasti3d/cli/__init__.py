"""The command line: one file per verb, which parses, calls the library and prints.

Verbs import the library inside of their functions, so that ``--help`` and a wrong option do not wait for
torch.
"""

from __future__ import annotations

import os
import sys
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from fasti3d.cli import output
from fasti3d.cli.classify import classify
from fasti3d.cli.dataset import app as dataset
from fasti3d.cli.demo import demo
from fasti3d.cli.doctor import doctor
from fasti3d.cli.evaluate import evaluate
from fasti3d.cli.export import export
from fasti3d.cli.extract import Command, extract
from fasti3d.cli.finetune import finetune
from fasti3d.cli.flow import flow
from fasti3d.cli.fvd import fvd
from fasti3d.cli.plan import plan
from fasti3d.cli.tune import tune
from fasti3d.cli.weights import app as weights
from fasti3d.utils.environment import SettingError
from fasti3d.version import __version__


class _Verbs(TyperGroup):
    """The verbs, any of which may find the machine short of memory, descriptors or disk."""

    def invoke(self, ctx: Any) -> Any:
        with output.stopping():
            return super().invoke(ctx)


app = typer.Typer(
    cls=_Verbs,
    name="fasti3d",
    help="The I3D video network: says what people do in a video.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command()(classify)
app.command()(demo)
app.command()(doctor)
app.command()(evaluate)
app.command()(export)
app.command(cls=Command)(extract)
app.command()(finetune)
app.command()(flow)
app.command()(fvd)
app.command()(plan)
app.command()(tune)
app.add_typer(dataset, name="dataset")
app.add_typer(weights, name="weights")


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"fasti3d {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_print_version, is_eager=True)
    ] = False,
) -> None: ...


def main() -> None:
    """Run the command line and exit: 0 done, 1 something failed, 2 wrong usage, 130 interrupted."""
    try:
        try:
            app(prog_name="fasti3d")
        finally:
            sys.stdout.flush()
    except SettingError as error:
        output.complain("error", error)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        # The reader of the pipe is gone. Python flushes stdout once more at exit, which then needs a target.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
