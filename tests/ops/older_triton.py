"""The kernels' tests under an older Triton than the installed one, in the background of a test run.

It lies in a folder of its own, with a numpy that its interpreter works with, where ``make test`` puts it.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import IO

import pytest

HERE = Path(__file__).resolve().parent
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


class Run:
    """A test run under the older Triton, which goes on by itself with a single core's worth of work."""

    def __init__(self) -> None:
        self.output: IO[str] = tempfile.TemporaryFile("w+")  # noqa: SIM115 - until stop()
        # Each may take long beside what else runs.
        options = ("-q", "-rs", "-p", "no:cacheprovider", "-o", "timeout=1200")
        # In front of what this process imports from, as in the interpreter's processes that it starts itself.
        path = os.pathsep.join([str(FOLDER), *sys.path])
        self.process = subprocess.Popen(
            [sys.executable, "-c", _PROGRAM, *options, *map(str, FILES)],
            stdout=self.output,
            stderr=subprocess.STDOUT,
            env=os.environ | {"PYTHONPATH": path},
            cwd=HERE.parent.parent,
        )

    def result(self) -> tuple[int, str]:
        """Waits for its end: exit status and output."""
        status = self.process.wait()
        self.output.seek(0)
        return status, self.output.read()

    def stop(self) -> None:
        """Ends it, also before its time."""
        self.process.kill()
        self.process.wait()
        self.output.close()


RUN = pytest.StashKey[Run]()
