"""Builds csrc for aarch64 beside a harness without Python and torch, and runs it, emulated where need be.

    python tests/neon/neon.py [--install]

The harness (main.cpp) compares every operator with plain loops, with each instruction set. Before, the inner
loops that fill all registers are looked at: their products, and that none of their values lives in memory.
Where the cross compiler and QEMU are not installed it says so and does nothing; --install has apt fetch them.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
BUILD = ROOT / "build" / "neon"
PACKAGES = ("g++-aarch64-linux-gnu", "qemu-user")
NATIVE = platform.machine() in ("aarch64", "arm64")
PREFIX = "" if NATIVE else "aarch64-linux-gnu-"
# Of the CPU that is emulated: all that NEON has by now, and the first CPU of servers, without bfloat16.
# SVE has no kernels, and vectors of 2048 bits take long to emulate.
NEWEST, OLDER = "max,sve=off", "neoverse-n1"
# What runs on aarch64: kernels for NEON, and those of which it has no form of its own.
KERNELS = re.compile(r"cpu_neon|batch_norm_relu/cpu_baseline")


class Loop(NamedTuple):
    """What an inner loop is to hold: how many of an instruction, and how many instructions at most."""

    function: str  # pattern
    instruction: str
    count: int
    length: int


# A loop that is longer than these has begun to move values about.
LOOPS = (
    Loop(r"fasti3d::neon::run_tile<", "fmla", 24, 38),
    Loop(r"fasti3d::neon::multiply<", "fmla", 24, 38),  # of Winograd components
    Loop(r"fasti3d::neon_bf16::run_tile<", "bfmmla", 24, 57),
    Loop(r"fasti3d::neon::grad_weight::products<8, 3>", "fmla", 24, 40),
    Loop(r"fasti3d::neon::run_rows<float, 3, 1, 8, 1>", "fmla", 24, 44),
    Loop(r"fasti3d::neon::pool_rows<float>", "fcmgt", 4, 32),
    Loop(r"fasti3d::neon::backward_rows<float>", "cmeq", 4, 40),
    Loop(r"fasti3d::neon::backward_rows<fasti3d::neon::Bfloat>", "cmeq", 4, 44),
    Loop(r"fasti3d::neon::pool_rows_any", "fmax", 4, 24),
    Loop(r"fasti3d::neon::pool_rows<short>", "smax", 2, 13),
    # Scalar loops, which the compiler vectorizes: the baseline has them on aarch64.
    Loop(r"fasti3d::baseline::norm_relu<float>", "fmla", 1, 11),
    Loop(r"fasti3d::baseline::norm_backward<float>", "fmla", 3, 19),
)


def find_tools(install: bool) -> tuple[list[str], str] | None:
    """The command that runs a program for aarch64, and the compiler; None, after saying so, without them."""

    def find() -> tuple[list[str], str] | None:
        compiler = shutil.which(f"{PREFIX}g++")
        emulator = shutil.which("qemu-aarch64") or shutil.which("qemu-aarch64-static")
        if compiler is None or (emulator is None and not NATIVE):
            return None
        return ([] if NATIVE else [str(emulator)]), compiler

    found = find()
    if found is None and install and not NATIVE and os.geteuid() == 0 and shutil.which("apt-get"):
        print(f"test-neon: apt-get install {' '.join(PACKAGES)}", flush=True)
        quiet = {"capture_output": True, "timeout": 300, "check": False}
        for command in (["update"], ["install", "-y", "--no-install-recommends", *PACKAGES]):
            subprocess.run(["apt-get", "-qq", *command], **quiet)
        found = find()
    if found is None:
        print(f"test-neon: skipped: needs {' and '.join(PACKAGES)}")
    return found


def sources() -> list[Path]:
    """All of csrc but what is of Python, of other CPUs or of shared libraries, and the harness."""
    of_others = re.compile(r"_(avx|amx|vnni)|library\.cpp|older_libraries|fingerprint|watch")
    found = [path for path in (ROOT / "csrc").rglob("*.cpp") if not of_others.search(str(path))]
    return sorted(found) + sorted(Path(__file__).parent.glob("*.cpp"))


def is_fresh(target: Path, rule: Path) -> bool:
    """Whether a target is younger than all that the compiler read for it."""
    if not target.exists() or not rule.exists():
        return False
    read = rule.read_text().replace("\\\n", " ").partition(":")[2].split()
    paths = [Path(name) for name in [*read, __file__]]
    return all(p.exists() and p.stat().st_mtime <= target.stat().st_mtime for p in paths)


def build(compiler: str) -> list[Path]:
    """Builds the harness; the objects of the kernels."""
    from torch.utils.cpp_extension import include_paths

    flags = ["-std=c++20", "-fvisibility=hidden", "-Wall", "-Wno-unknown-pragmas", "-Wno-psabi", "-MMD"]
    flags += ["-DTORCH_TARGET_VERSION=0x020b000000000000"]  # as in csrc/extensions.py
    flags += [f"-isystem{path}" for path in include_paths("cpu")]
    BUILD.mkdir(parents=True, exist_ok=True)

    def compile_one(source: Path) -> Path:
        target = BUILD / "-".join(source.relative_to(ROOT).with_suffix(".o").parts)
        if not is_fresh(target, target.with_suffix(".d")):
            # As the extension is built where it counts; the rest only has to compile soon.
            level = "-O3" if KERNELS.search(str(source)) else "-O1"
            command = [compiler, level, *flags, "-c", str(source), "-o", str(target)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode or done.stderr:
                target.unlink(missing_ok=True)
                raise SystemExit(f"test-neon: {source}:\n{done.stderr}")
        return target

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        objects = dict(zip(sources(), pool.map(compile_one, sources()), strict=True))
    subprocess.run([compiler, "-static", "-o", BUILD / "harness", *objects.values()], check=True)
    return [target for source, target in objects.items() if KERNELS.search(str(source))]


def loops(listing: str) -> dict[str, list[list[str]]]:
    """The loops without a branch inside, by function: their instructions, with operands."""
    found: dict[str, list[list[str]]] = {}
    function, addresses, instructions = "", [], []
    for line in listing.splitlines():
        if label := re.fullmatch(r"[0-9a-f]+ <(.*)>:", line):
            function, addresses, instructions = label[1], [], []
        elif match := re.match(r"\s*([0-9a-f]+):\t(.*)", line):
            text = match[2].split("//")[0]
            addresses.append(int(match[1], 16))
            instructions.append(text)
            branch = re.match(r"(?:b\.\w+|cbn?z|tbn?z)\s+(?:.*,\s*)?([0-9a-f]+) <", text)
            if branch and (to := int(branch[1], 16)) in addresses:
                body = instructions[addresses.index(to) :]
                if not any(re.match(r"b\.|b\t|cb|tb|bl|ret", one) for one in body[:-1]):
                    found.setdefault(function, []).append(body)
    return found


def check_loops(objects: list[Path]) -> list[str]:
    """What is wrong with the loops of LOOPS."""
    command = [f"{PREFIX}objdump", "-dC", "--no-show-raw-insn", *map(str, objects)]
    found = loops(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    wrong = []
    for loop in LOOPS:
        functions = [name for name in found if re.search(loop.function, name)]
        if not functions:
            wrong.append(f"no function {loop.function}")
        for name in functions:
            bodies = [b for b in found[name] if sum(i.startswith(loop.instruction) for i in b) == loop.count]
            body = min(bodies, key=len, default=None)
            if body is None:
                wrong.append(f"{name}: no loop of {loop.count} {loop.instruction}")
            elif len(body) > loop.length or any("[sp" in instruction for instruction in body):
                wrong.append(f"{name}: {len(body)} instructions\n  " + "\n  ".join(body))
    return wrong


def run(command: list[str], cpu: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    emulated = [*command, "-cpu", cpu] if command else []
    return subprocess.run(
        [*emulated, str(BUILD / "harness"), *arguments], capture_output=True, text=True, check=False
    )


def main(arguments: list[str]) -> int:
    tools = find_tools("--install" in arguments)
    if tools is None:
        return 0
    command, compiler = tools
    print("test-neon: compiling what has changed", flush=True)
    wrong = check_loops(build(compiler))
    if command:
        # A CPU without bfloat16's instructions is not asked for them.
        named = {cpu: run(command, cpu, "best").stdout.strip() for cpu in (NEWEST, OLDER)}
        if named != {NEWEST: "neon_bf16", OLDER: "neon"}:
            wrong.append(f"instruction sets of the CPUs emulated: {named}")
    done = run(command, NEWEST)
    print(done.stdout, done.stderr, sep="", end="")
    print(*wrong, sep="\n", end="\n" if wrong else "")
    failed = bool(wrong) or done.returncode != 0
    print(f"test-neon: {'FAILED' if failed else 'passed'}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
