"""Pins what make installs, with hashes: one file per target, of one and the same resolution.

    python requirements/lock.py [--upgrade]

For every Python and platform at once. torch and Triton are left out: which build of them is wanted depends on
the machine. Needs uv. --upgrade takes the newest releases that pyproject.toml admits; without it, what is
pinned stays as far as it can.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
PROJECT = "pyproject.toml"
# The files, each with what uv is to resolve.
FILES = {
    "build": ["requirements/build.in"],
    "run": [PROJECT],
    "tools": [PROJECT, "--extra=dev", "--extra=ray"],
    "docs": [PROJECT, "--extra=docs"],
    "peers": [PROJECT, "--extra=bench"],
    "wheel": ["requirements/wheel.in"],
}


def compiled(*arguments: str) -> None:
    command = [
        sys.executable,
        "-m",
        "uv",
        "pip",
        "compile",
        "--quiet",
        "--universal",
        "--python-version",
        "3.10",
    ]
    command += ["--no-annotate", "--no-header", "--override", "requirements/override.txt", *arguments]
    # Where from is for each machine to say: no index is written down, and none but the default is asked.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("UV_")}
    subprocess.run(command, cwd=ROOT, env=environment, check=True)


def main(*options: str) -> None:
    if options not in ((), ("--upgrade",)):
        raise SystemExit(__doc__)
    with tempfile.TemporaryDirectory() as folder:
        pins = Path(folder) / "pins.txt"
        before = [path.read_text() for name in FILES if (path := HERE / f"{name}.txt").exists()]
        if not options:
            pins.write_text("".join(before))
        everything = dict.fromkeys(part for wanted in FILES.values() for part in wanted)
        compiled(*everything, "-o", str(pins))
        for name, wanted in FILES.items():
            compiled(*wanted, "--generate-hashes", "-c", str(pins), "-o", f"requirements/{name}.txt")


if __name__ == "__main__":
    main(*sys.argv[1:])
