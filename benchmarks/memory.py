"""Peak memory of a forward pass; on the CPU each candidate in a process of its own.

``python -m benchmarks.memory CANDIDATE --shape 1 3 64 224 224 --dtype bfloat16`` prints
JSON, in MB (10^6 bytes): ``peak_mb`` of the first pass and ``later_peak_mb`` of the next. A peak is the
largest resident set during the pass beyond what the process held just before it, from /proc (Linux only),
with what plans keep from pass to pass; the first pass of fasti3d also pays for its packed weights, which
stay. On a GPU, ``device_mb`` measures in this process.

Before the first pass model and input are built, which torch.compile and OpenVINO use to compile
their graphs; torch.compile has already run once by then.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import torch

from benchmarks import peers
from fasti3d.engine.blocks import Blocks
from fasti3d.inspect.layers import layers

ROOT = Path(__file__).resolve().parent.parent
# A shape's second pass captures the CUDA graph that later ones replay.
WARM_RUNS = 3


def peaks(candidate: str, case: peers.Case) -> dict[str, float]:
    """What ``python -m benchmarks.memory`` prints for ``candidate`` on ``case``: a fresh process measures."""
    dtype, shape = str(case.dtype).removeprefix("torch."), map(str, case.shape)
    arguments = (candidate, "--dtype", dtype, "--shape", *shape)
    return fresh_process("benchmarks.memory", *arguments)


def fresh_process(module: str, *arguments: str) -> dict[str, float]:
    """The JSON that ``python -m module arguments`` prints in its last line.

    Raises:
        RuntimeError: the process failed.
    """
    command = [sys.executable, "-m", module, *arguments]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if result.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{result.stderr}")
    peaks: dict[str, float] = json.loads(result.stdout.splitlines()[-1])
    return peaks


def _status_mb(field: str) -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024 / 1e6
    raise RuntimeError(f"/proc/self/status has no {field}")


def cpu_peak(call: Callable[[], object]) -> float:
    """The MB that the resident set grows by at the most during ``call``."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # freed pages of the build would hide what the pass needs
    Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM to VmRSS
    before = _status_mb("VmRSS")
    call()
    return _status_mb("VmHWM") - before


def kept_mb() -> float:
    """The MB of memory that plans on a CPU keep from one pass to the next."""
    blocks = [its for its in gc.get_objects() if type(its) is Blocks and its.kept is not None]
    return sum(its.kept.nbytes for its in blocks) / 1e6


def device_mb(build: Callable[[], peers.Forward], case: peers.Case) -> tuple[peers.Forward, float]:
    """A candidate on a GPU, warm, and the MB of device memory that a later pass needs beyond one copy of the
    weights and the clip: packed weights, maps, workspaces and what CUDA graphs keep.

    Of what torch's allocator has reserved: a graph's memory is in use only while it is captured.
    """
    _give_back()
    before = torch.cuda.memory_reserved()
    forward = build()
    for _ in range(WARM_RUNS):
        forward()
    _give_back()
    torch.cuda.reset_peak_memory_stats()
    forward()
    clip = math.prod(case.shape) * case.dtype.itemsize
    weights = sum(layer.weights for layer in layers(case.shape[1], case.shape[2:])) * case.dtype.itemsize
    return forward, (torch.cuda.max_memory_reserved() - before - clip - weights) / 1e6


def _give_back() -> None:
    gc.collect()
    torch.cuda.synchronize()
    torch.cuda.empty_cache()


def measure(candidate: str, case: peers.Case) -> dict[str, float]:
    """The peaks of ``candidate`` on ``case`` in MB, measured in this process."""
    # A small clip first: the pages of torch's own code count as resident once they have run.
    peers.CANDIDATES["reference"](peers.Case((1, 3, 9, 224, 224), case.dtype))()
    forward = peers.CANDIDATES[candidate](case)
    first, kept = cpu_peak(forward), kept_mb()
    return {"peak_mb": first, "later_peak_mb": kept + cpu_peak(forward)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("candidate", choices=peers.CANDIDATES)
    parser.add_argument("--shape", type=int, nargs=5, default=(1, 3, 64, 224, 224))
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), default="float32")
    args = parser.parse_args()
    case = peers.Case(tuple(args.shape), getattr(torch, args.dtype))
    print(json.dumps(measure(args.candidate, case)))


if __name__ == "__main__":
    main()
