"""Builds fasti3d, with what csrc/extensions.py finds that this machine can compile."""

import runpy
from pathlib import Path

from setuptools import setup

its = runpy.run_path(str(Path(__file__).resolve().parent / "csrc" / "extensions.py"))
build = its["choose_build"]()
setup(**({} if build == "none" else its["compiled"](its["extensions"](build))))
