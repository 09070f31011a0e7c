"""Builds fasti3d's extension: ``fasti3d._C`` with the C++ operators and, where there is a CUDA toolkit and
a CUDA build of torch, ``fasti3d._C_cuda`` with the CUDA ones.

FASTI3D_BUILD chooses: ``auto`` (what this machine can build), ``cpu``, ``cuda`` (both; fails if it
cannot), ``none`` (pure Python: the references of the operators run instead). What is built never
depends on whether a GPU is present. TORCH_CUDA_ARCH_LIST is respected. Nothing is downloaded.
"""

import os
import platform
import runpy
from pathlib import Path

from setuptools import setup

ROOT = Path(__file__).resolve().parent
VERSION = runpy.run_path(str(ROOT / "fasti3d" / "version.py"))["__version__"]
# The oldest torch whose stable ABI the extension is compiled against (2.11), as torch encodes it.
TORCH_TARGET = "0x020b000000000000"
# Ampere to Blackwell; the last also as PTX, for what comes after.
CUDA_ARCHITECTURES = "8.0;8.6;8.9;9.0;10.0;12.0+PTX"


def choose_build() -> str:
    """The parts to build, as one of ``none``, ``cpu``, ``cuda``."""
    asked = os.environ.get("FASTI3D_BUILD", "auto")
    if asked not in ("auto", "cpu", "cuda", "none"):
        raise SystemExit(f"FASTI3D_BUILD must be auto, cpu, cuda or none, got {asked!r}")
    if asked in ("none", "cpu"):
        return asked
    import torch
    from torch.utils.cpp_extension import CUDA_HOME

    missing = []
    if torch.version.cuda is None:
        missing.append(f"a CUDA build of torch (this one is {torch.__version__})")
    if CUDA_HOME is None:
        missing.append("the CUDA toolkit (set CUDA_HOME to its folder)")
    if missing and asked == "cuda":
        raise SystemExit(f"FASTI3D_BUILD=cuda needs {' and '.join(missing)}; FASTI3D_BUILD=cpu builds without")
    return "cpu" if missing else "cuda"


def extensions(build: str) -> list:
    import pybind11
    import torch
    from torch.utils.cpp_extension import CppExtension, CUDAExtension

    if build == "cuda":
        os.environ.setdefault("TORCH_CUDA_ARCH_LIST", CUDA_ARCHITECTURES)
    architectures = os.environ["TORCH_CUDA_ARCH_LIST"].replace(" ", ";") if build == "cuda" else "none"
    sources = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "csrc").rglob("*.cpp"))
    host = ["-O3", "-std=c++20", "-fvisibility=hidden", "-Wall", "-Wno-unknown-pragmas", "-Wno-psabi"]
    target = [("TORCH_TARGET_VERSION", TORCH_TARGET)]
    built = [
        CppExtension(
            "fasti3d._C",
            sources,
            include_dirs=[pybind11.get_include()],
            define_macros=[
                *target,
                ("FASTI3D_VERSION", VERSION),
                ("FASTI3D_TORCH_VERSION", torch.__version__),
                ("FASTI3D_CUDA_ARCHITECTURES", architectures),
            ],
            extra_compile_args=host,
        )
    ]
    if build == "cuda":
        built.append(
            CUDAExtension(
                "fasti3d._C_cuda",
                sorted(str(path.relative_to(ROOT)) for path in (ROOT / "csrc").rglob("*.cu")),
                define_macros=[*target, ("USE_CUDA", None)],
                extra_compile_args={"cxx": host, "nvcc": ["-O3", "-std=c++20", "-lineinfo"]},
            )
        )
    return built


BUILD = choose_build()
if BUILD == "none":
    setup()
else:
    from torch.utils.cpp_extension import BuildExtension

    if platform.system() == "Windows":
        raise SystemExit("the extension builds with GCC or Clang only; FASTI3D_BUILD=none installs without")
    setup(ext_modules=extensions(BUILD), cmdclass={"build_ext": BuildExtension})
