"""The formats of exported files by name, and checks before long work; nothing here imports torch."""

from __future__ import annotations

import importlib.util
import os
import shutil
from pathlib import Path
from typing import NamedTuple

from fasti3d.choices import check_choice

INSTALL = "pip install 'fasti3d[export]'"


class Format(NamedTuple):
    """A format of files.

    Attributes:
        suffix: of its files.
        packages: beside torch, which write it.
        fixed_time: whether it has no check of sizes, so that the number of frames is fixed.
    """

    suffix: str
    packages: tuple[str, ...] = ()
    fixed_time: bool = False


FORMATS = {
    "onnx": Format(".onnx", ("onnx", "onnxscript")),
    "torch-export": Format(".pt2"),
    "aoti": Format(".pt2", fixed_time=True),
}


def format_of(path: str | os.PathLike[str], name: str | None) -> str:
    """Return the format of a file: the one named, or the first that has its suffix.

    Raises:
        ValueError: an unknown format, or a suffix of none or of another.
    """
    suffix = Path(path).suffix.lower()
    if name is None:
        fitting = (name for name, known in FORMATS.items() if known.suffix == suffix)
        name = next(fitting, None)
        if name is None:
            raise ValueError(f"{path}: an exported file's name must end in .onnx or .pt2, got {suffix!r}")
    check_choice("format", name, FORMATS)
    if FORMATS[name].suffix != suffix:
        raise ValueError(f"{path}: the name of a file of format {name} must end in {FORMATS[name].suffix}")
    return name


def check_file(path: str | os.PathLike[str], overwrite: bool) -> Path:
    """Return the path of a file that can be written.

    Raises:
        OSError: its folder does not exist or cannot be written to, or something is in its place.
    """
    target = Path(path)
    folder = target.parent
    if not folder.is_dir():
        raise NotADirectoryError(f"{folder} is not a folder: create it, or write elsewhere")
    if target.is_dir():
        raise IsADirectoryError(f"{target} is a folder: name a file in it")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise PermissionError(f"this user has no permission to write to {folder}: write elsewhere")
    if target.exists() and not overwrite:
        raise FileExistsError(f"{target} is there already: write elsewhere, or replace it with overwrite")
    return target


def check_tools(name: str) -> None:
    """Check that what writes a format is installed.

    Raises:
        ImportError: a package or a compiler is missing; says how to get it.
    """
    missing = [package for package in FORMATS[name].packages if importlib.util.find_spec(package) is None]
    if missing:
        raise ImportError(f"format {name} is written with {' and '.join(missing)}: {INSTALL}")
    compilers = (os.environ.get("CXX", "g++"), "g++", "clang++")
    if name == "aoti" and not any(map(shutil.which, compilers)):
        raise ImportError("format aoti is compiled, and there is no C++ compiler: install g++, or set CXX")
