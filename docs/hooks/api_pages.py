"""The pages of the API reference: one per public package, each public name once.

What is public is what CONTRIBUTING.md says: the names in ``__all__`` of the packages. So a new package or
name has its place here by itself. Nothing here needs mkdocs.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from typing import NamedTuple

import fasti3d

# Packages whose __all__ is for the library's own modules; what users call of them is in fasti3d.ops,
# fasti3d.train and the command line.
INTERNAL = ("fasti3d.ops.", "fasti3d.train.step", "fasti3d.flow.export")
# Modules that users import by their own name, which no __all__ lists.
BY_NAME = (
    "fasti3d.compat.hassony2",
    "fasti3d.compat.mmaction",
    "fasti3d.compat.pytorch_i3d",
    "fasti3d.metrics.torchmetrics",
)


class Page(NamedTuple):
    """The names of one module, ``fasti3d.flow`` say, that its page documents, and its public modules."""

    module: str
    names: tuple[str, ...]

    @property
    def path(self) -> str:
        """Of the page, below docs/."""
        return f"api/{self.module}.md"


def pages() -> list[Page]:
    """The pages in the order of the menu: the package, then its parts by name."""
    found = [Page(module, _own_names(module)) for module in ("fasti3d", *sorted(_modules()))]
    return [page for page in found if page.names]


def public_names() -> list[str]:
    """All of them, as ``fasti3d.flow.tvl1``, each where its page has it."""
    return [f"{page.module}.{name}" for page in pages() for name in page.names]


def markdown(page: Page) -> str:
    """The text of a page: the module's docstring, then every name in alphabetical order."""
    title = page.module
    head = f"---\ntitle: {title}\n---\n\n# `{title}`\n\n"
    doc = inspect.getdoc(importlib.import_module(page.module)) or ""
    parts = [head, doc.replace("``", "`").replace("::\n", ":\n"), "\n\n"]
    if page.module == "fasti3d":
        parts.append(_where_everything_is())
    parts += [f"::: {page.module}.{name}\n\n" for name in page.names]
    return "".join(parts)


def _modules() -> set[str]:
    """All documented modules below fasti3d."""
    packages = {
        info.name
        for info in pkgutil.walk_packages(fasti3d.__path__, "fasti3d.")
        if info.ispkg and not info.name.startswith(INTERNAL) and _listed(info.name)
    }
    modules = {f"fasti3d.{name}" for name in fasti3d.__all__ if inspect.ismodule(getattr(fasti3d, name))}
    return packages | modules | set(BY_NAME)


def _listed(module: str) -> list[str] | None:
    return getattr(importlib.import_module(module), "__all__", None)


def _names(module: str) -> list[str]:
    """The public names of a module that are no modules: its __all__, else what it defines."""
    names = vars(importlib.import_module(module))
    listed = _listed(module)
    if listed is None:
        listed = [
            name
            for name, value in names.items()
            if not name.startswith("_") and getattr(value, "__module__", None) == module
        ]
    values = {name: _value(module, name) for name in listed if name != "__version__"}
    return sorted((name for name, value in values.items() if not inspect.ismodule(value)), key=str.lower)


def _own_names(module: str) -> tuple[str, ...]:
    """Those of a module's names that no module below it documents."""
    below = {m for m in _modules() if m.startswith(f"{module}.")}
    elsewhere = {id(_value(m, n)) for m in below for n in _names(m)}
    return tuple(name for name in _names(module) if id(_value(module, name)) not in elsewhere)


def _value(module: str, name: str) -> object:
    return getattr(importlib.import_module(module), name)


def _where_everything_is() -> str:
    """A table of the package's names with a link to each."""
    places = {id(_value(page.module, name)): (page.module, name) for page in pages() for name in page.names}
    rows = []
    for name in sorted(fasti3d.__all__, key=str.lower):
        value = getattr(fasti3d, name)
        if name == "__version__":
            continue
        summary = (inspect.getdoc(value) or "").partition("\n")[0].replace("``", "`")
        if inspect.ismodule(value):
            target = f"{value.__name__}.md"
        else:
            module, own = places[id(value)]
            target = f"{module}.md#{module}.{own}"
        rows.append(f"| [`{name}`]({target}) | {summary} |")
    table = "\n".join(rows)
    return f"| Name | |\n|---|---|\n{table}\n\n`fasti3d.__version__` is the version, a string.\n\n"
