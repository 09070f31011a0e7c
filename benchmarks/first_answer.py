"""The first answer from the shell: whole processes of ``fasti3d classify``, of several trees in turn.

``python -m benchmarks.first_answer CLIP [TREE ...] --rounds 5`` prints a JSON line per tree: seconds by the
clock and of CPU time, and the largest resident set in MB (10^6 bytes), each as [min, median]. A tree is a
folder with the package and its compiled extension, by default this one. One process runs before the first
round and is not counted.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def answer(tree: Path, clip: Path, options: list[str]) -> tuple[float, float, float]:
    """Seconds by the clock, of CPU time, and MB of one process.

    Raises:
        RuntimeError: it failed, or imported the package of another tree.
    """
    code = (
        "import sys, fasti3d; from fasti3d.cli import main; "
        "assert fasti3d.__file__.startswith(sys.argv[1]), fasti3d.__file__; del sys.argv[1]; main()"
    )
    command = [sys.executable, "-c", code, str(tree), "classify", str(clip), "--json", *options]
    start = time.perf_counter()
    with open(os.devnull, "wb") as nowhere:
        process = os.posix_spawn(
            sys.executable,
            command,
            os.environ | {"PYTHONPATH": str(tree)},
            file_actions=[(os.POSIX_SPAWN_DUP2, nowhere.fileno(), 1)],
        )
    _, status, used = os.wait4(process, 0)
    seconds = time.perf_counter() - start
    if status:
        raise RuntimeError(f"{' '.join(command)} failed in {tree}")
    return seconds, used.ru_utime + used.ru_stime, used.ru_maxrss * 1024 / 1e6


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("clip", type=Path)
    parser.add_argument("trees", type=Path, nargs="*", default=[ROOT])
    parser.add_argument("--rounds", type=int, default=5)
    its, options = parser.parse_known_args()
    trees = [tree.resolve() for tree in its.trees]
    clip = its.clip.resolve()
    os.chdir("/")  # so that no tree is found beside the interpreter
    found: dict[Path, list[tuple[float, float, float]]] = {tree: [] for tree in trees}
    for n in range(its.rounds + 1):
        for tree in trees if n else trees[:1]:
            measured = answer(tree, clip, options)
            if n:
                found[tree].append(measured)
    for tree, rounds in found.items():
        columns = zip(("seconds", "cpu_seconds", "rss_mb"), zip(*rounds, strict=True), strict=True)
        summary = {name: [round(min(its), 2), round(statistics.median(its), 2)] for name, its in columns}
        print(json.dumps({"tree": str(tree), **summary}), flush=True)


if __name__ == "__main__":
    main()
