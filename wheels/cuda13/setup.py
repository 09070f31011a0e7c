"""Builds fasti3d-cuda13: the extensions that nvcc compiles, for the fasti3d of the same version."""

import runpy
import sys
from pathlib import Path

import torch
from setuptools import setup

ROOT = Path(__file__).resolve().parent.parent.parent
its = runpy.run_path(str(ROOT / "csrc" / "extensions.py"))

its["find_toolkit"]()
lacking = its["missing_for_cpp"]() or its["missing_for_cuda"]()
if lacking is None and not torch.version.cuda.startswith("13."):
    lacking = f"a build of torch for CUDA 13 (this one is {torch.__version__})"
if lacking is not None:
    sys.exit(f"fasti3d-cuda13 needs {lacking}")
setup(
    version=its["VERSION"],
    install_requires=[f"fasti3d=={its['VERSION']}"],
    packages=["fasti3d_cuda13"],
    **its["compiled"](its["cuda_extensions"]("fasti3d_cuda13")),
)
