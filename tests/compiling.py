"""What compilers make for tests, kept in build/tests until what it is made of changes."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

import torch
from filelock import FileLock

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "build" / "tests"


def compiled(command: Sequence[str], source: Path, make: Callable[[Path], None]) -> Path:
    """A file that ``make`` writes by running a command for a source, which may include csrc, torch and the
    headers beside it.
    """
    digest = hashlib.sha256(_origin(command[0]).encode())
    beside = sorted(source.parent.glob("*.h"))
    digest.update("\0".join(command).encode() + b"".join(path.read_bytes() for path in (source, *beside)))
    path = FOLDER / f"{source.stem}-{digest.hexdigest()[:32]}"
    FOLDER.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{path}.lock"):
        if not path.exists():
            unfinished = path.with_suffix(".unfinished")
            make(unfinished)
            unfinished.replace(path)
    return path


@cache
def _origin(compiler: str) -> str:
    version = subprocess.run([compiler, "--version"], check=True, capture_output=True, text=True).stdout
    files = sorted(path for path in (ROOT / "csrc").rglob("*") if path.is_file())
    digest = hashlib.sha256(b"".join(str(path).encode() + path.read_bytes() for path in files))
    return f"{version} {digest.hexdigest()} {torch.__version__} {sys.version}"
