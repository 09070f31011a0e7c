"""Which extensions this machine can build, of which of these sources.

``_C`` has the C++ operators and ``_C_cuda`` the CUDA ones, for which a CUDA toolkit and a CUDA build of torch
are needed. What only Hopper (sm_90a) runs is in ``_C_sm90a``. One build serves Python 3.10 and later, through
its limited API, and torch 2.11 and later, through its stable ABI. ``setup.py`` builds them, and
``wheels/cuda13/setup.py`` the CUDA ones alone.

FASTI3D_BUILD chooses: ``auto`` (what this machine can build), ``cpu``, ``cuda`` (both; fails if it
cannot), ``none`` (pure Python: the references of the operators run instead). What is built never
depends on whether a GPU is present. TORCH_CUDA_ARCH_LIST is respected. Nothing is downloaded.
"""

import os
import platform
import re
import runpy
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VERSION = runpy.run_path(str(ROOT / "fasti3d" / "version.py"))["__version__"]
# The oldest torch whose stable ABI the extension is compiled against (2.11), as torch encodes it.
TORCH_TARGET = "0x020b000000000000"
# Ampere to Blackwell, as far as the toolkit knows them; the last also as PTX, for what comes after.
CUDA_ARCHITECTURES = ("8.0", "8.6", "8.9", "9.0", "10.0", "12.0")
# What has instructions of Hopper alone, for which there is an architecture of its own.
HOPPER_SOURCES = (
    "csrc/conv3d_slab/cuda.cu",
    "csrc/pooled_conv3d_slab/cuda.cu",
    "csrc/library_sm90a.cu",
)
HOPPER = "-gencode=arch=compute_90a,code=sm_90a"
# Without debug information, which Python's own flags ask for and which is nine tenths of the library.
HOST = ["-O3", "-g0", "-std=c++20", "-fvisibility=hidden", "-Wall", "-Wno-unknown-pragmas", "-Wno-psabi"]


def choose_build() -> str:
    """The parts to build, as one of ``none``, ``cpu``, ``cuda``."""
    asked = os.environ.get("FASTI3D_BUILD", "auto")
    if asked not in ("auto", "cpu", "cuda", "none"):
        raise SystemExit(f"FASTI3D_BUILD must be auto, cpu, cuda or none, got {asked!r}")
    if asked == "none":
        return asked
    if asked != "cpu":
        find_toolkit()
    if lacking := missing_for_cpp():
        if asked == "auto":
            print(f"fasti3d: references replace the C++ operators, which need {lacking}", file=sys.stderr)
            return "none"
        raise SystemExit(f"FASTI3D_BUILD={asked} needs {lacking}; FASTI3D_BUILD=none builds without")
    if asked == "cpu":
        return asked
    lacking = missing_for_cuda()
    if lacking and asked == "cuda":
        raise SystemExit(f"FASTI3D_BUILD=cuda needs {lacking}; FASTI3D_BUILD=cpu builds without")
    return "cpu" if lacking else "cuda"


def find_toolkit() -> None:
    """Names the toolkit's folder in CUDA_HOME where nothing does. Left to itself torch takes the folder above
    that of nvcc, which has no libraries where nvcc is a script that calls the toolkit's.
    """
    command = shutil.which("nvcc")
    if command is None or os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH"):
        return
    dry_run = [command, "--dryrun", "-x", "cu", os.devnull]
    try:
        steps = subprocess.run(dry_run, capture_output=True, text=True, check=False).stderr
    except OSError:  # it does not run here
        return
    if folder := re.search(r"^#\$ _HERE_=(.+)$", steps, re.MULTILINE):
        os.environ["CUDA_HOME"] = os.path.dirname(folder[1])


def missing_for_cpp() -> str | None:
    """What this machine lacks to compile C++ for Python, or None; a missing torch is an error."""
    if platform.system() == "Windows":
        return "GCC or Clang, on Linux or macOS"
    try:
        from torch.utils.cpp_extension import get_cxx_compiler
    except ImportError:
        raise SystemExit("the build needs torch: install it first, or set FASTI3D_BUILD=none") from None
    compiler = get_cxx_compiler()
    command = [compiler, "-std=c++20", "-fsyntax-only", f"-I{sysconfig.get_path('include')}", "-xc++", "-"]
    probe = "#include <Python.h>\n#include <span>\n"
    try:
        subprocess.run(command, input=probe, check=True, capture_output=True, text=True)
    except OSError:
        return f"a C++ compiler ({compiler} does not run; CXX names another)"
    except subprocess.CalledProcessError as error:
        return f"a C++20 compiler and Python's headers ({error.stderr.splitlines()[0]})"
    return None


def missing_for_cuda() -> str | None:
    """What this machine lacks to compile for CUDA, or None."""
    import torch
    from torch.utils.cpp_extension import CUDA_HOME

    lacking = []
    if torch.version.cuda is None:
        lacking.append(f"a CUDA build of torch (this one is {torch.__version__})")
    if CUDA_HOME is None:
        lacking.append("the CUDA toolkit (CUDA_HOME names its folder)")
    if lacking:
        return " and ".join(lacking)
    major = torch.version.cuda.split(".")[0]
    if f"release {major}." not in nvcc("--version"):
        return f"a CUDA {major} toolkit, which torch was built with, in CUDA_HOME={CUDA_HOME}"
    return None


def nvcc(*arguments: str) -> str:
    """What the toolkit's compiler prints; nothing if it does not run."""
    from torch.utils.cpp_extension import CUDA_HOME

    command = [os.path.join(CUDA_HOME, "bin", "nvcc"), *arguments]
    try:
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return ""


def cuda_architectures() -> str:
    """Those to compile for, in TORCH_CUDA_ARCH_LIST's form."""
    if asked := os.environ.get("TORCH_CUDA_ARCH_LIST"):
        return asked.replace(" ", ";")
    known = nvcc("--list-gpu-code").split()
    return ";".join(a for a in CUDA_ARCHITECTURES if f"sm_{a.replace('.', '')}" in known) + "+PTX"


def builds_for_hopper(architectures: str) -> bool:
    """Whether Hopper is among the architectures, by number or by name."""
    asked = {one.removesuffix("+PTX") for one in architectures.split(";")}
    return bool(asked & {"9.0", "9.0a", "Hopper"})


def files(pattern: str) -> list[str]:
    """Of the sources; relative, as setuptools wants them."""
    return sorted(str(path.relative_to(ROOT)) for path in (ROOT / "csrc").rglob(pattern))


def options(**lists: list) -> dict:
    """Those of every extension, and more of some."""
    return {
        "define_macros": [("TORCH_TARGET_VERSION", TORCH_TARGET), *lists.get("define_macros", [])],
        # Without these a change in a header alone would rebuild nothing.
        "depends": [*files("*.h"), "csrc/extensions.py", str(ROOT / "fasti3d" / "version.py")],
        "py_limited_api": True,
        # Before torch's libraries, which export some of it too, but need not in another release.
        "libraries": ["stdc++"] if platform.system() == "Linux" else [],
    }


def extensions(build: str) -> list:
    """All of fasti3d."""
    import torch
    from torch.utils.cpp_extension import CppExtension

    cuda = cuda_extensions("fasti3d") if build == "cuda" else []
    architectures = os.environ["TORCH_CUDA_ARCH_LIST"] if cuda else "none"
    macros = [
        ("FASTI3D_VERSION", VERSION),
        ("FASTI3D_TORCH_VERSION", torch.__version__),
        ("FASTI3D_CUDA_ARCHITECTURES", architectures),
    ]
    core = CppExtension(
        "fasti3d._C", files("*.cpp"), extra_compile_args=HOST, **options(define_macros=macros)
    )
    return [core, *cuda]


def cuda_extensions(package: str) -> list:
    """Those of nvcc, as modules of the package."""
    from torch.utils.cpp_extension import CUDAExtension

    architectures = os.environ["TORCH_CUDA_ARCH_LIST"] = cuda_architectures()

    def of(name: str, kernels: list[str], *flags: str) -> CUDAExtension:
        nvcc_flags = ["-O3", "-std=c++20", "-lineinfo", *flags]
        return CUDAExtension(
            f"{package}.{name}",
            [*kernels, "csrc/common/older_libraries.cpp"],
            extra_compile_args={"cxx": HOST, "nvcc": nvcc_flags},
            **options(define_macros=[("USE_CUDA", None)]),
        )

    built = [of("_C_cuda", [file for file in files("*.cu") if file not in HOPPER_SOURCES])]
    if builds_for_hopper(architectures):
        built.append(of("_C_sm90a", list(HOPPER_SOURCES), HOPPER))
    return built


def compiled(modules: list) -> dict:
    """What setuptools.setup is to be given for them."""
    from torch.utils.cpp_extension import BuildExtension

    if platform.system() == "Darwin":
        set_up_macos()
    return {
        "ext_modules": modules,
        "cmdclass": {"build_ext": BuildExtension},
        "options": {"bdist_wheel": {"py_limited_api": "cp310"}},
    }


def set_up_macos() -> None:
    """Builds for this Mac's own CPU, as torch is, and not for both as Python may be; from macOS 11 on, whose
    C++ library has std::atomic's wait.
    """
    os.environ.setdefault("ARCHFLAGS", f"-arch {platform.machine()}")
    os.environ.setdefault("MACOSX_DEPLOYMENT_TARGET", "11.0")
