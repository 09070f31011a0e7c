"""Every public name has a docstring and one place in the API reference."""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
from itertools import pairwise
from pathlib import Path
from typing import Any

import api_pages

import fasti3d


def test_every_name_has_a_docstring() -> None:
    assert [name for name in api_pages.public_names() if not _docstring(name)] == []


def test_every_member_of_a_public_class_has_a_docstring() -> None:
    values = {name: _value(name) for name in api_pages.public_names()}
    bare = [
        f"{name}.{member}"
        for name, value in values.items()
        if inspect.isclass(value)
        for member, own in vars(value).items()
        if not member.startswith("_") and (inspect.isroutine(own) or isinstance(own, property))
        if not inspect.getdoc(getattr(value, member))
    ]
    assert bare == []


def test_every_package_is_documented_or_internal() -> None:
    documented = {page.module for page in api_pages.pages()}
    for info in pkgutil.walk_packages(fasti3d.__path__, "fasti3d."):
        if info.ispkg and hasattr(importlib.import_module(info.name), "__all__"):
            assert info.name in documented or info.name.startswith(api_pages.INTERNAL), info.name


def test_every_public_name_is_on_one_page() -> None:
    values = [
        id(getattr(importlib.import_module(page.module), name))
        for page in api_pages.pages()
        for name in page.names
    ]
    assert len(values) == len(set(values))
    for name in fasti3d.__all__:
        value = getattr(fasti3d, name)
        if not inspect.ismodule(value) and name != "__version__":
            assert id(value) in values, name


def test_a_page_names_what_it_documents_and_links_the_rest() -> None:
    page = api_pages.pages()[0]
    text = api_pages.markdown(page)
    assert "::: fasti3d.I3D\n" in text
    assert "::: fasti3d.tvl1\n" not in text
    assert "(fasti3d.flow.md#fasti3d.flow.tvl1)" in text


def _value(name: str) -> Any:
    """What a public name stands for."""
    module, _, own = name.rpartition(".")
    return getattr(importlib.import_module(module), own)


def _docstring(name: str) -> str | None:
    """Of the name itself, not of a class above it."""
    module, _, own = name.rpartition(".")
    value = _value(name)
    if inspect.isclass(value) or inspect.isroutine(value):
        return vars(value).get("__doc__") if inspect.isclass(value) else value.__doc__
    return _docstring_of_constant(module, own)


def _docstring_of_constant(module: str, name: str) -> str | None:
    """The string under an assignment, in the module that makes it."""
    body = ast.parse(Path(inspect.getfile(importlib.import_module(module))).read_text()).body
    for node in [
        inner for outer in body for inner in ([*ast.walk(outer)] if isinstance(outer, ast.If) else [outer])
    ]:
        if isinstance(node, ast.ImportFrom) and node.module and name in {alias.name for alias in node.names}:
            return _docstring_of_constant(node.module, name)
    for node, after in pairwise(body):
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        if name in {getattr(target, "id", None) for target in targets}:
            return ast.get_docstring(ast.Module([after], []))
    return None
