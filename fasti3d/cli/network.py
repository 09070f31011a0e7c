"""Networks that a command line names: a module to import, and what in it makes one."""

from __future__ import annotations

import importlib
import os
import sys
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from torch import nn

METAVAR = "MODULE:FACTORY"


def to_network(text: str, option: str) -> nn.Module:
    """The network that a function without arguments returns, in eval mode, by ``package.module:function``.

    The module is imported as Python imports it, and from the current folder too.
    """
    name, colon, attribute = text.partition(":")
    if not (name and colon and attribute):
        raise typer.BadParameter(
            f"must be {METAVAR}, as my_networks:make_r50, got {text!r}", param_hint=option
        )
    sys.path.insert(0, os.getcwd())
    try:
        factory = importlib.import_module(name)
        for part in attribute.split("."):
            factory = getattr(factory, part)
    except (ImportError, AttributeError) as error:
        raise typer.BadParameter(f"{text!r} cannot be imported: {error}", param_hint=option) from None
    finally:
        del sys.path[0]
    from torch import nn

    made = factory if isinstance(factory, nn.Module) else factory()  # type: ignore[operator]
    if not isinstance(made, nn.Module):
        raise typer.BadParameter(
            f"{text!r} must return a torch.nn.Module, got {type(made).__name__}", param_hint=option
        )
    return made.eval()
