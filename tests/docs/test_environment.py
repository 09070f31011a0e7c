"""The page of environment variables has all that the code reads, and no others."""

from __future__ import annotations

import re
from pathlib import Path

from snippets import DOCS, ROOT

# How Python, C++, make and the shell read a variable.
_READ = re.compile(
    r"""(?:environ(?:\.\w+)?[\[(]|getenv\(|setenv\()\s*["'](FASTI3D_\w+)["']|^export\ (FASTI3D_\w+)"""
    r"""|(FASTI3D_\w+)\s*\?=|\$\{?(FASTI3D_\w+)|["'](FASTI3D_\w+)["']\s+in\s""",
    re.MULTILINE | re.VERBOSE,
)
_FOLDERS = ("fasti3d", "csrc", "tests", "benchmarks")
_FILES = ("setup.py", "Makefile", "conftest.py", "hubconf.py", ".ci/run", ".github/workflows/ci.yml")
_SUFFIXES = {".py", ".cpp", ".cu", ".h", ".sh"}


def _sources() -> list[Path]:
    folders = [path for folder in _FOLDERS for path in (ROOT / folder).rglob("*") if path.suffix in _SUFFIXES]
    return [*folders, *(ROOT / name for name in _FILES)]


def _read() -> dict[str, Path]:
    """The variables that are read, each with a file that does."""
    found: dict[str, Path] = {}
    for path in _sources():
        for match in _READ.finditer(path.read_text()):
            found[next(filter(None, match.groups()))] = path
    return found


def _documented() -> set[str]:
    text = (DOCS / "environment.md").read_text()
    return set(re.findall(r"^\| `(FASTI3D_\w+)` \|", text, re.MULTILINE))


def test_every_variable_that_is_read_is_documented() -> None:
    read = _read()
    assert {"FASTI3D_HOME", "FASTI3D_ISA", "FASTI3D_BUILD", "FASTI3D_SLOW"} <= set(read)
    assert {name: str(path) for name, path in read.items() if name not in _documented()} == {}


def test_every_documented_variable_is_read() -> None:
    assert _documented() - set(_read()) == set()
