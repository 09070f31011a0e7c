"""What is built: which instructions it holds, what it links against, and what goes into the archives."""

from __future__ import annotations

import os
import re
import runpy
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import pytest
from compiling import compiled

from fasti3d.runtime import extension

ROOT = Path(__file__).resolve().parent.parent
# As in csrc/extensions.py: compile against the stable ABI of torch 2.11.
TORCH_TARGET = "-DTORCH_TARGET_VERSION=0x020b000000000000"
# Ampere and Hopper; all with FASTI3D_SLOW=1. ptxas allocates registers differently on each.
ARCHITECTURES = ("80", "86", "89", "90", "100", "120") if os.environ.get("FASTI3D_SLOW") else ("80", "90")
# A kernel in the report of ptxas -v.
RESOURCES = (
    r"Compiling entry function '(\w+)'.*?(\d+) bytes stack frame, (\d+) bytes spill stores, "
    r"(\d+) bytes spill loads[^']*?Used (\d+) registers(?:[^'\n]*?(\d+) bytes smem)?"
)


def _tool(name: str, *arguments: str) -> str:
    if shutil.which(name) is None:
        pytest.skip(f"{name} is not installed")
    return subprocess.run([name, *arguments], check=True, capture_output=True, text=True).stdout


@pytest.fixture(scope="module")
def library() -> str:
    """The path of fasti3d._C."""
    if extension.CORE is None:
        pytest.skip("the extension is not built")
    assert extension.CORE.__file__ is not None
    return extension.CORE.__file__


def test_vector_instructions_stay_where_they_are_chosen_at_run_time(library: str) -> None:
    listing = _tool("objdump", "-dC", "--no-show-raw-insn", library)
    if "elf64-x86-64" not in listing:
        pytest.skip("AVX is a matter of x86-64")
    function, inside, outside = "", set(), {}
    for line in listing.splitlines():
        if label := re.fullmatch(r"[0-9a-f]+ <(.*)>:", line):
            function = label[1]
        elif re.search(r"\t\s*v[a-z]", line):  # only AVX and its successors have names that begin with v
            if re.search(r"\bfasti3d::(\w+::)?(avx(2|512|512_bf16)|amx)::", function):
                inside.add(function)
            else:
                outside[function] = line.split("\t")[-1]
    assert inside, "the listing names no AVX function, so it proves nothing"
    assert not outside


def test_links_against_the_stable_abi_only(library: str) -> None:
    undefined = [line.split()[-1] for line in _tool("nm", "-D", "--undefined-only", library).splitlines()]
    assert any(symbol.startswith("aoti_torch_") for symbol in undefined)
    # Without a version: what torch's libraries happened to export, of the C++ library's.
    assert [s for s in undefined if s.startswith(("_ZN", "_ZSt")) if "@" not in s] == []
    # Itanium names of what lives in at::, c10:: and torch::, which change with torch's releases.
    assert [s for s in undefined if re.match(r"_Z\w*?(2at|3c10|5torch)[0-9NE]", s)] == []


@dataclass(frozen=True)
class Kernel:
    """What ptxas made of a kernel for one architecture; sizes in bytes."""

    name: str
    architecture: str
    stack: int
    spills: int
    registers: int
    shared: int


@pytest.fixture(scope="module")
def kernels(tmp_path_factory: pytest.TempPathFactory) -> list[Kernel]:
    """Every CUDA kernel of the library on every architecture, from ptxas' report."""
    nvcc = shutil.which("nvcc")
    if nvcc is None:
        pytest.skip("nvcc is not installed")
    from torch.utils.cpp_extension import include_paths

    # Those for slabs are for sm_90a alone: tests/ops/test_conv3d_slab_build.py and its like compile them.
    sources = sorted(path for path in ROOT.glob("csrc/**/cuda*.cu") if "slab" not in path.parent.name)
    if not sources:
        pytest.skip("no sources beside the tests")
    command = [nvcc, "-cubin", "-O3", "-std=c++20", "-DUSE_CUDA", TORCH_TARGET, "-Xptxas", "-v"]
    for path in [*include_paths("cpu"), sysconfig.get_path("include")]:
        command += ["-isystem", path]
    folder = tmp_path_factory.mktemp("kernels")

    def compile_for(job: tuple[Path, str]) -> list[Kernel]:
        source, architecture = job
        cubin = folder / f"{source.parent.name}-{source.stem}-{architecture}.cubin"
        whole = [*command, f"-arch=sm_{architecture}", str(source)]

        def make(report: Path) -> None:
            result = subprocess.run([*whole, "-o", str(cubin)], capture_output=True, text=True, check=False)
            assert result.returncode == 0, result.stderr
            assert "warning" not in result.stderr
            report.write_text(result.stderr)

        text = compiled(whole, source, make).read_text()
        reports = re.findall(RESOURCES, text, re.DOTALL)
        assert reports
        assert len(reports) == text.count("Compiling entry function")
        return [
            Kernel(name, architecture, int(stack), int(stores) + int(loads), int(registers), int(shared or 0))
            for name, stack, stores, loads, registers, shared in reports
        ]

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        found = list(pool.map(compile_for, product(sources, ARCHITECTURES)))
    return [kernel for kernels in found for kernel in kernels]


@pytest.mark.timeout(600)
def test_cuda_kernels_spill_no_registers(kernels: list[Kernel]) -> None:
    assert [kernel for kernel in kernels if kernel.stack or kernel.spills] == []


@pytest.mark.timeout(600)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_blocks_of_the_flow_solver_share_an_sm(kernels: list[Kernel], architecture: str) -> None:
    """Two at a time, in the shared memory that no one has to ask for; one with the illumination term."""
    solvers = {
        (found[1], int(found[2])): kernel
        for kernel in kernels
        if kernel.architecture == architecture
        and (found := re.search(r"_tvl1_kernelINS0_\d(Exact|Fast)ELi(\d)E", kernel.name))
    }
    assert set(solvers) == {("Exact", 2), ("Exact", 3), ("Fast", 2), ("Fast", 3)}
    for (_, components), kernel in solvers.items():
        assert kernel.registers <= (128 if components == 2 else 255)
        assert 2 * kernel.shared <= 48 * 1024


@pytest.mark.timeout(600)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_flow_solver_for_clusters_is_there_where_clusters_are(
    kernels: list[Kernel], architecture: str
) -> None:
    """With 384 threads a block; it is an empty kernel on the others."""
    solvers = [k for k in kernels if k.architecture == architecture and "_tvl1_cluster_kernel" in k.name]
    assert len(solvers) == 4
    for kernel in solvers:
        assert kernel.registers <= 65536 // 384
        assert (kernel.registers > 100) == (int(architecture) >= 90)


def _setup(**environment: str) -> subprocess.CompletedProcess[str]:
    """Runs setup.py as far as its choice of what to build."""
    if not (ROOT / "setup.py").exists():
        pytest.skip("no sources beside the tests")
    command = [sys.executable, "setup.py", "--name"]
    return subprocess.run(
        command, cwd=ROOT, env=os.environ | environment, capture_output=True, text=True, check=False
    )


def test_unknown_build_is_refused() -> None:
    result = _setup(FASTI3D_BUILD="gpu")
    assert result.returncode != 0
    assert "FASTI3D_BUILD must be auto, cpu, cuda or none, got 'gpu'" in result.stderr


def test_explicit_build_fails_without_a_compiler(tmp_path: Path) -> None:
    no_compiler = str(tmp_path / "no-such-compiler")
    result = _setup(FASTI3D_BUILD="cpu", CXX=no_compiler)
    assert result.returncode != 0
    assert f"FASTI3D_BUILD=cpu needs a C++ compiler ({no_compiler} does not run" in result.stderr


def test_cuda_build_fails_without_the_toolkit(tmp_path: Path) -> None:
    result = _setup(FASTI3D_BUILD="cuda", CUDA_HOME=str(tmp_path))
    assert result.returncode != 0
    assert re.search(r"FASTI3D_BUILD=cuda needs a (CUDA|C\+\+)", result.stderr)


def test_the_toolkit_is_found_behind_a_script_that_calls_its_nvcc(tmp_path: Path) -> None:
    """Which torch would take for the toolkit's own."""
    if not (ROOT / "setup.py").exists():
        pytest.skip("no sources beside the tests")
    toolkit, scripts = tmp_path / "cuda" / "bin", tmp_path / "bin"
    for folder, text in (
        (toolkit, f"[ \"$*\" = '--dryrun -x cu /dev/null' ] && echo '#$ _HERE_={toolkit}' >&2"),
        (scripts, f'exec {toolkit}/nvcc "$@"'),
    ):
        folder.mkdir(parents=True)
        (folder / "nvcc").write_text(f"#!/bin/sh\n{text}\n")
        (folder / "nvcc").chmod(0o755)
    found = "import os, runpy, sys; sys.argv[:] = ['setup.py', '--name']; runpy.run_path('setup.py')"
    environment = {k: v for k, v in os.environ.items() if k not in ("CUDA_HOME", "CUDA_PATH")}
    result = subprocess.run(
        [sys.executable, "-c", f"{found}; print(os.environ['CUDA_HOME'])"],
        cwd=ROOT,
        env=environment | {"FASTI3D_BUILD": "auto", "PATH": f"{scripts}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[-1] == str(toolkit.parent)


def test_auto_does_without_a_compiler(tmp_path: Path) -> None:
    result = _setup(FASTI3D_BUILD="auto", CXX=str(tmp_path / "no-such-compiler"))
    assert result.returncode == 0, result.stderr
    assert "references replace the C++ operators" in result.stderr


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the sources in which archives can be built."""
    if not (ROOT / "setup.py").exists():
        pytest.skip("no sources beside the tests")
    copy = tmp_path_factory.mktemp("tree") / "fasti3d"
    unwanted = shutil.ignore_patterns(".*", "build", "dist", "demo", "*.egg-info", "__pycache__", "*.so")
    shutil.copytree(ROOT, copy, ignore=unwanted)
    return copy


def _archive(tree: Path, kind: str) -> Path:
    call = f"from setuptools.build_meta import build_{kind} as build; print(build('dist'))"
    result = subprocess.run(
        [sys.executable, "-c", call],
        cwd=tree,
        env=os.environ | {"FASTI3D_BUILD": "none"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return tree / "dist" / result.stdout.splitlines()[-1]


def test_source_archive_holds_what_the_build_reads(tree: Path) -> None:
    with tarfile.open(_archive(tree, "sdist")) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    needed = {str(p.relative_to(tree)) for p in tree.glob("csrc/**/*") if p.is_file()}
    needed |= {str(p.relative_to(tree)) for p in tree.glob("fasti3d/**/*.py")}
    needed |= {"setup.py", "pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md", "Makefile"}
    needed |= {"hubconf.py", "SECURITY.md", "CITATION.cff", "requirements/build.txt", "wheels/build.py"}
    assert needed <= names


@pytest.fixture(scope="module")
def pure(tree: Path) -> Path:
    """The wheel of a machine without a compiler."""
    return _archive(tree, "wheel")


def test_a_wheel_is_looked_into(pure: Path, tmp_path: Path) -> None:
    """As all are that `make wheel` makes, of which this one needs no compiler."""
    check = runpy.run_path(str(ROOT / "wheels" / "check.py"))
    check["pure"](pure)

    def changed(name: str, change: Callable[[str, bytes], dict[str, bytes]]) -> Path:
        """The wheel with other files in the place of each."""
        with zipfile.ZipFile(pure) as old, zipfile.ZipFile(tmp_path / name, "w") as new:
            for file in old.namelist():
                for other, content in change(file, old.read(file)).items():
                    new.writestr(other, content)
        return tmp_path / name

    def without(lacking: str) -> Callable[[str, bytes], dict[str, bytes]]:
        return lambda file, content: {} if file.endswith(lacking) else {file: content}

    def beside(more: str) -> Callable[[str, bytes], dict[str, bytes]]:
        return lambda file, content: {file: content} | ({more: b""} if file == "fasti3d/i3d.py" else {})

    def metadata(old: bytes, new: bytes) -> Callable[[str, bytes], dict[str, bytes]]:
        return lambda file, content: {
            file: content.replace(old, new) if file.endswith("METADATA") else content
        }

    for fault, change in {
        r"lacks \['fasti3d/py.typed'\]": without("py.typed"),
        r"lacks \['fasti3d/weights/kinetics400_labels.txt'\]": without("labels.txt"),
        "has no LICENSE": without("LICENSE"),
        r"has \['tests/test_i3d.py'\] besides": beside("tests/test_i3d.py"),
        r"has \['fasti3d.libs/libtorch_cpu.so'\] besides": beside("fasti3d.libs/libtorch_cpu.so"),
        "wants Python >=3.9": metadata(b"Requires-Python: >=3.10", b"Requires-Python: >=3.9"),
        "does not require torch": metadata(b"torch<3,>=2.11", b"torch"),
    }.items():
        with pytest.raises(SystemExit, match=fault):
            check["pure"](changed(pure.name, change))
    with pytest.raises(SystemExit, match=r"lacks \['fasti3d/_C.abi3.so'\]"):
        check["cpu"](pure)
    compiled = changed(pure.name, beside("fasti3d/_C.abi3.so"))
    for tags, portable in {
        "cp310-abi3-manylinux_2_28_x86_64": True,
        "cp310-abi3-manylinux_2_26_aarch64": True,
        "cp310-abi3-manylinux_2_34_x86_64": False,
        "cp311-cp311-manylinux_2_28_x86_64": False,
        "cp310-abi3-linux_x86_64": False,
    }.items():
        tagged = compiled.with_name(compiled.name.replace("py3-none-any", tags))
        shutil.copy(compiled, tagged)
        if portable:
            check["cpu"](tagged)
        else:
            with pytest.raises(SystemExit, match="is not for every Python"):
                check["cpu"](tagged)


def test_pure_python_wheel_works(pure: Path, tmp_path: Path) -> None:
    wheel = pure
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
    script = (
        "import fasti3d, torch\n"
        "from fasti3d import ops\n"
        "from fasti3d.runtime import extension\n"
        "assert extension.build_info() is None and extension.load_error() is None\n"
        "x = torch.randn(1, 3, 5, 6, 7)\n"
        "print(fasti3d.__file__, tuple(ops.max_pool3d_same(x, (1, 3, 3), (1, 2, 2)).shape))\n"
    )
    # -S keeps the hook of an editable install from completing the wheel with its own extension.
    folders = [str(tmp_path), sysconfig.get_path("purelib"), sysconfig.get_path("platlib")]
    result = subprocess.run(
        [sys.executable, "-S", "-c", script],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(folders)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == f"{tmp_path / 'fasti3d' / '__init__.py'} (1, 3, 5, 3, 4)"
