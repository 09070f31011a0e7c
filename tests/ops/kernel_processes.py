"""Tests of kernels in processes of their own, which choose what triton is before they import it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
# Of pytest.
OPTIONS = ("-q", "-p", "no:cacheprovider", "-o", "timeout=1200")


def output_of(*command: str | Path, **environment: str) -> str:
    """What a run of pytest prints, which must pass."""
    done = subprocess.run(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | environment,
        cwd=HERE.parent.parent,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-10000:]
    return done.stdout


def assert_passes_interpreted(file: str) -> None:
    """Runs the tests of a file beside this one in Triton's interpreter."""
    path = os.pathsep.join(sys.path)
    command = (sys.executable, "-m", "pytest", *OPTIONS, HERE / file)
    output_of(*command, TRITON_INTERPRET="1", PYTHONPATH=path)
