"""``fasti3d tune`` without its packages for terminals: measures the configurations, and keeps the table.

``python -m benchmarks.tune_table [N,C,T,H,W ...]`` writes what the command would, into the folder of
FASTI3D_HOME, after every clip shape: what is measured when time is over stays.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterable
from pathlib import Path

import torch

from fasti3d.inspect.tune import Result, to_table, tune
from fasti3d.ops.conv3d_bn_relu.tables import gpu, user_path

SHAPES = [(clips, 3, frames, 224, 224) for frames in (64, 16) for clips in (8, 1, 32)]
DTYPE = torch.float16  # the table serves bfloat16 as well: the configurations do not depend on it


def shape(text: str) -> tuple[int, ...]:
    """Of a clip, from the command line."""
    return tuple(map(int, text.split(",")))


def lines(results: Iterable[Result]) -> list[str]:
    """What was found of each convolution, and every configuration that was out of the question."""
    texts = []
    for result in results:
        problem = result.problem
        what = f"{result.layer} {'x'.join(map(str, (problem.batch, problem.out_channels, *problem.size)))}"
        for it in result.right:
            found = f"{it.microseconds:.1f} us, {it.tflops:.0f} TFLOP/s, {it.gain:.2f}x"
            texts.append(f"{what}: {it.short}: {found}")
        if not result.right:
            texts.append(f"{what}: no configuration is right")
        wrong = [trial for trial in result.trials if isinstance(trial.found, str)]
        texts += [f"WRONG {what}: {trial.config.short}: {trial.found}" for trial in wrong]
    return texts


def measure(clips: Iterable[tuple[int, ...]], device: torch.device, path: Path) -> None:
    """Tunes shape by shape; the table keeps what those before it gave."""
    for clip in clips:
        start = time.perf_counter()
        results = list(tune([clip], DTYPE, device))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(to_table(results, gpu(device), DTYPE, path).dumps())
        print(*lines(results), f"{clip}: {time.perf_counter() - start:.0f} s, {path}", sep="\n", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("shapes", nargs="*", type=shape, default=SHAPES, metavar="N,C,T,H,W")
    args = parser.parse_args()
    device = torch.device("cuda")
    path = user_path(gpu(device))
    if path is None:
        parser.error(
            "FASTI3D_HOME must say where the table goes: it is not set, and platformdirs not installed"
        )
    measure(args.shapes, device, path)


if __name__ == "__main__":
    main()
