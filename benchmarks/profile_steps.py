"""What bounds the slowest steps of the plan on a GPU, kernel by kernel, by Nsight Compute's counters.

``python -m benchmarks.profile_steps [--batch 8] [--steps 5]`` times all steps, runs the slowest once more
each under ``ncu --clock-control none``, and prints their kernels: how busy were the tensor cores, the caches
and the memory, how many of a multiprocessor's warps there were, and how many waves the blocks made.
Where there is no ncu, or it may not read the counters, it says so.
"""

from __future__ import annotations

import argparse
import csv
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence

import torch

from benchmarks import gpu_timing, peers
from benchmarks.plan_steps import planned_steps

# By the heading of the table, which of ncu's columns: of several the greatest, as the names of the tensor
# cores' differ by generation.
COLUMNS = {
    "us": r"gpu__time_duration\.sum$",
    "tensor %": r"sm__(inst_executed_)?pipe_tensor.*\.pct_of_peak_sustained_(active|elapsed)$",
    "L1 %": r"l1tex__throughput\.avg\.pct_of_peak_sustained_(active|elapsed)$",
    "L2 %": r"lts__throughput\.avg\.pct_of_peak_sustained_elapsed$",
    "DRAM %": r"(gpu__)?dram(__|_)throughput\.avg\.pct_of_peak_sustained_elapsed$",
    "warps %": r"sm__warps_active\.avg\.pct_of_peak_sustained_active$",
    "registers": r"launch__registers_per_thread$",
    "waves": r"launch__waves_per_multiprocessor$",
}
_MICROSECONDS = {"ns": 1e-3, "nsecond": 1e-3, "us": 1.0, "usecond": 1.0, "ms": 1e3, "msecond": 1e3}
_OPTIONS = [
    *("--clock-control", "none", "--profile-from-start", "off", "--csv", "--page", "raw"),
    *("--section", "SpeedOfLight", "--section", "Occupancy", "--section", "LaunchStats"),
    *("--metrics", "gpu__time_duration.sum,breakdown:sm__throughput.avg.pct_of_peak_sustained_elapsed"),
]
_SECONDS = 90


def kernels(output: str) -> list[dict[str, str]]:
    """The rows of what ``ncu --csv --page raw`` printed, in the columns of ``COLUMNS`` and ``kernel``.

    Raises:
        ValueError: there is no such table in it; the message has the end of what is.
    """
    lines = output.splitlines()
    begin = next((i for i, line in enumerate(lines) if line.startswith('"ID"')), None)
    if begin is None:
        raise ValueError("; ".join(line for line in lines[-4:] if line) or "it printed nothing")
    header, units, *rows = csv.reader(lines[begin:])
    found = []
    for row in rows:
        if len(row) != len(header):  # what the program printed
            continue
        values = dict(zip(header, row, strict=True))
        cells = {"kernel": values["Kernel Name"]}
        for heading, pattern in COLUMNS.items():
            numbers = [
                float(value.replace(",", "")) * _MICROSECONDS.get(unit, 1.0)
                for name, unit, value in zip(header, units, row, strict=True)
                if re.match(pattern, name) and re.fullmatch(r"[\d,.]+", value)
            ]
            cells[heading] = f"{max(numbers):.1f}" if numbers else ""
        found.append(cells)
    return found


def table(rows: Sequence[dict[str, str]]) -> str:
    """Rows of the same columns as Markdown."""
    lines = [list(rows[0]), ["---"] * len(rows[0]), *(list(row.values()) for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def profiled(batch: int, number: int) -> list[dict[str, str]]:
    """The kernels of a step, from a process of its own under ncu.

    Raises:
        ValueError: ncu could not profile it.
    """
    program = [sys.executable, "-m", "benchmarks.profile_steps", "--batch", str(batch), "--only", str(number)]
    try:
        result = subprocess.run(
            ["ncu", *_OPTIONS, *program], capture_output=True, text=True, check=False, timeout=_SECONDS
        )
    except subprocess.TimeoutExpired:
        raise ValueError(f"it took more than {_SECONDS} s") from None
    return kernels(result.stdout + result.stderr)


def run_once(batch: int, number: int) -> None:
    """What ncu looks at: a step, warm."""
    with torch.no_grad():
        run = planned_steps(_case(batch))[number].run
        run()
        torch.cuda.synchronize()
        torch.cuda.profiler.start()
        run()
        torch.cuda.synchronize()
        torch.cuda.profiler.stop()


def report(batch: int, count: int) -> None:
    """Prints the slowest steps and their kernels."""
    best = gpu_timing.ceilings()
    print(
        f"{best.name}: product {best.flop_per_s / 1e12:.0f} TFLOP/s, copy {best.bytes_per_s / 1e12:.2f} TB/s"
    )
    with torch.no_grad():
        steps = planned_steps(_case(batch))
        seconds = [gpu_timing.device_seconds(step.run) for step in steps]
    slowest = sorted(range(len(steps)), key=lambda i: -seconds[i])[:count]
    ncu = shutil.which("ncu")
    if ncu is None:
        print("ncu is not installed: the steps' times alone")
    for number in slowest:
        print(f"\n## {steps[number].report.name}, batch {batch}: {1e6 * seconds[number]:.1f} us\n")
        if ncu:
            try:
                print(table(profiled(batch, number)), flush=True)
            except ValueError as error:
                print(f"ncu could not profile it: {error}", flush=True)


def _case(batch: int) -> peers.Case:
    return peers.Case((batch, 3, 64, 224, 224), torch.float16, "cuda")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--steps", type=int, default=5, help="how many, the slowest first")
    parser.add_argument("--only", type=int, help="runs this step once, for ncu to look at")
    args = parser.parse_args()
    if args.only is not None:
        run_once(args.batch, args.only)
    else:
        report(args.batch, args.steps)


if __name__ == "__main__":
    main()
