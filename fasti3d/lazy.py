"""Packages whose names load their modules when first used."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping
from typing import Any


def lazily(
    package: str, homes: Mapping[str, str | None], then: Callable[[], None] = lambda: None
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """``__getattr__`` and ``__dir__`` of a package.

    ``homes``: the module of each name, None where the name is itself a module of the package. ``then`` is
    called after each load.
    """
    names = vars(sys.modules[package])

    def load(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        home = homes[name]
        module = importlib.import_module(home or f"{package}.{name}")
        then()
        names[name] = getattr(module, name) if home else module
        return names[name]

    return load, lambda: sorted({*names, *homes})
