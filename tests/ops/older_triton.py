"""The kernels' tests under an older Triton than the installed one.

It lies in a folder of its own, with a numpy that its interpreter works with, where ``make test`` puts it.
"""

from __future__ import annotations

import os
import sys
from importlib.metadata import version
from pathlib import Path

from background import HERE, OPTIONS, Job

# The run's name.
OLDER = "older Triton"
# As the Makefile says.
VERSION = "3.6"
FOLDER = Path(sys.prefix) / "triton-3.6"
FILES = sorted(HERE.glob("test_*_triton.py"))
_PROGRAM = """
import sys, pytest, triton
print("triton", triton.__version__, flush=True)
sys.exit(pytest.main(sys.argv[1:]))
"""


def why_not() -> str | None:
    """Why there is nothing to run, if so."""
    if not (FOLDER / "triton").is_dir():
        return f"no Triton in {FOLDER}: make test puts one there, where there are builds of it"
    if version("triton").startswith(VERSION):
        return f"the installed Triton is {VERSION} itself"
    return None


def job() -> Job:
    """A test run of theirs."""
    # In front of what this process imports from, as in the interpreter's processes that it starts itself.
    path = os.pathsep.join([str(FOLDER), *sys.path])
    return Job((sys.executable, "-c", _PROGRAM, "-rs", *OPTIONS, *FILES), {"PYTHONPATH": path})
