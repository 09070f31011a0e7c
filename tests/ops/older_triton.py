"""The kernels' tests under an older Triton than the installed one.

It lies in a folder of its own, with a numpy that its interpreter works with, where ``make test`` puts it.
"""

from __future__ import annotations

import os
import sys
from importlib.metadata import version
from pathlib import Path

from kernel_processes import HERE, OPTIONS, output_of

# As the Makefile says.
VERSION = "3.6"
FOLDER = Path(sys.prefix) / "triton-3.6"
_FEW = os.environ.get("FASTI3D_SLOW") != "1"
# What a first look at a GPU runs: the plan's kernels. Those of training, and what is only measured, are slow.
_PLAN = ("conv3d", "fold", "pools", "i3d_head", "dependent_launch", "builds", "plan", "proof")
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


def run(interpreted: bool) -> str:
    """What a run prints of those that are interpreted, or of the others: with FASTI3D_SLOW=1 of all cases."""
    # In front of what this process imports from.
    path = os.pathsep.join([str(FOLDER), *sys.path])
    environment = {"PYTHONPATH": path, "FASTI3D_FEW_CASES": str(int(_FEW))}
    if interpreted:
        environment["TRITON_INTERPRET"] = "1"
    form = "interpreted_{}.py" if interpreted else "test_{}_triton.py"
    files = [path for name in (_PLAN if _FEW else "*") for path in sorted(HERE.glob(form.format(name)))]
    options = ("-rs", *OPTIONS, "-k", "not in_the_interpreter", *(("-m", "not slow") if _FEW else ()))
    return output_of(sys.executable, "-c", _PROGRAM, *options, *files, **environment)
