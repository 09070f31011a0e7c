"""Builds csrc with GCC's sanitizers, each in a folder of its own, and runs the campaign under them.

    python tests/campaign/sanitize.py [address|thread] [CASES] [SEED]

``address`` is AddressSanitizer with UndefinedBehaviorSanitizer, ``thread`` ThreadSanitizer. torch is built
with neither: what its own code does is not watched. Its OpenMP would hide from ThreadSanitizer where threads
begin and end, so there csrc/common/parallel.h has threads of its own.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
CASES, SEED = 2400, 20250101


class Sanitizer(NamedTuple):
    flags: str
    library: str  # which must be loaded before all others
    environment: dict[str, str]
    without_random_addresses: bool = False


SANITIZERS = {
    "address": Sanitizer(
        "-fsanitize=address,undefined -fno-sanitize-recover=undefined",
        "libasan.so",
        {
            # No use after return: GCC's stack for that is not aligned as vectors of 64 bytes are to be.
            # Python and torch leave much to the end of the process; a wrong size is to be an error in Python.
            "ASAN_OPTIONS": "detect_leaks=0:allocator_may_return_null=1:detect_stack_use_after_return=0",
            "UBSAN_OPTIONS": "print_stacktrace=1",
        },
    ),
    "thread": Sanitizer(
        "-fsanitize=thread",
        "libtsan.so",
        {"TSAN_OPTIONS": "ignore_noninstrumented_modules=1:halt_on_error=1:exitcode=66"},
        without_random_addresses=True,  # which newer kernels make more random than it knows
    ),
}


def library(name: str) -> str:
    """The path of a library of the compiler's."""
    compiler = os.environ.get("CXX", "g++")
    found = subprocess.run(
        [compiler, f"-print-file-name={name}"], capture_output=True, text=True, check=True
    ).stdout.strip()
    if not os.path.isabs(found):
        raise SystemExit(
            f"sanitize: {compiler} has no {name}: install GCC with its sanitizers, or name one by CXX"
        )
    return found


def build(name: str, sanitizer: Sanitizer) -> Path:
    """The folder of a package whose extension is built with a sanitizer."""
    base = ROOT / "build" / "sanitize" / name
    # Python's own flags make overflow defined, which hides it. Warnings are for the ordinary build.
    flags = f"{sanitizer.flags} -fno-wrapv -fno-omit-frame-pointer -g1 -w"
    environment = os.environ | {"CFLAGS": flags, "LDFLAGS": sanitizer.flags, "FASTI3D_BUILD": "cpu"}
    command = [
        sys.executable,
        "setup.py",
        "-q",
        "build",
        f"--build-base={base}",
        f"--build-lib={base / 'lib'}",
    ]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"sanitize: {name}: the build failed\n{done.stdout}{done.stderr}")
    return base / "lib"


def run(name: str, sanitizer: Sanitizer, folder: Path, cases: str, seed: str) -> int:
    """The campaign's exit status."""
    environment = os.environ | sanitizer.environment
    # The C++ runtime too: an address sanitizer that finds none at the start cannot follow exceptions.
    environment["LD_PRELOAD"] = f"{library(sanitizer.library)}:{library('libstdc++.so.6')}"
    environment["PYTHONPATH"] = os.pathsep.join(
        (str(folder), str(ROOT / "tests"), str(ROOT / "tests" / "ops"))
    )
    campaign = Path(__file__).with_name("campaign.py")
    command = [sys.executable, str(campaign), cases, seed, str(folder)]
    if sanitizer.without_random_addresses and shutil.which("setarch"):
        command = ["setarch", platform.machine(), "-R", *command]
    return subprocess.run(command, cwd=folder, env=environment, check=False).returncode


def main(arguments: list[str]) -> int:
    names = [name for name in SANITIZERS if name in arguments] or list(SANITIZERS)
    numbers = [argument for argument in arguments if argument not in SANITIZERS]
    cases, seed = (numbers + [str(CASES), str(SEED)][len(numbers) :])[:2]
    failed = []
    for name in names:
        print(f"sanitize: {name}, compiling what has changed (some minutes the first time)", flush=True)
        folder = build(name, SANITIZERS[name])
        if run(name, SANITIZERS[name], folder, cases, seed):
            failed.append(name)
        print(f"sanitize: {name}: {'FAILED' if name in failed else 'clean'}", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
