"""Peak memory of TV-L1 on the CPU, each candidate in a process of its own.

``python -m benchmarks.flow_memory CANDIDATE --pairs 20 --size 256 340`` prints JSON as
``benchmarks.memory`` does: what the process grows by in the first call and in the next, flow included,
frames not. Every candidate has solved one small pair before.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable

from torch import Tensor

from benchmarks import flow_peers, memory
from benchmarks.flow_data import made_frames
from fasti3d.flow import tvl1_video

BATCH = "fasti3d, all pairs at once"
SINGLE = "fasti3d, one pair at a time"


def _pair_by_pair(solve: flow_peers.Solver) -> Callable[[Tensor], object]:
    return lambda frames: [solve(*frames[i : i + 2]) for i in range(len(frames) - 1)]


CANDIDATES: dict[str, Callable[[], Callable[[Tensor], object]]] = {
    BATCH: lambda: tvl1_video,
    SINGLE: lambda: _pair_by_pair(flow_peers.fasti3d()),
    flow_peers.OPENCV: lambda: _pair_by_pair(flow_peers.opencv()),
    flow_peers.SCIKIT_IMAGE: lambda: _pair_by_pair(flow_peers.scikit_image()),
}


def peaks(candidate: str, pairs: int, size: tuple[int, int]) -> dict[str, float]:
    """What ``python -m benchmarks.flow_memory`` prints: a fresh process measures."""
    arguments = (candidate, "--pairs", str(pairs), "--size", *map(str, size))
    return memory.fresh_process("benchmarks.flow_memory", *arguments)


def measure(candidate: str, pairs: int, size: tuple[int, int]) -> dict[str, float]:
    """The peaks of ``candidate`` in MB, measured in this process."""
    solve, frames = CANDIDATES[candidate](), made_frames(pairs + 1, *size)
    solve(made_frames(2, 40, 50))
    first, later = (memory.cpu_peak(lambda: solve(frames)) for _ in range(2))
    return {"peak_mb": first, "later_peak_mb": later}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("candidate", choices=CANDIDATES)
    parser.add_argument("--pairs", type=int, default=20)
    parser.add_argument("--size", type=int, nargs=2, default=(256, 340), metavar=("HEIGHT", "WIDTH"))
    args = parser.parse_args()
    print(json.dumps(measure(args.candidate, args.pairs, tuple(args.size))))


if __name__ == "__main__":
    main()
