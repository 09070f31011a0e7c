"""Peak memory of FVD on the CPU, each candidate in a process of its own.

``python -m benchmarks.fvd_memory CANDIDATE --clips 32 --shape 16 128 128`` prints JSON: the MB (10^6 bytes)
that the process grows by while it computes the score of that many clips on each side. fasti3d is given one
batch after another, which are made on the way; the others all clips at once, which count. Each candidate has
its weights and has scored two small clips per side before.
"""

from __future__ import annotations

import argparse
import json
import warnings
from collections.abc import Iterator

from torch import Tensor

from benchmarks import fvd_peers, memory

_BATCH = 16


def peaks(candidate: str, clips: int, shape: tuple[int, int, int]) -> dict[str, float]:
    """What ``python -m benchmarks.fvd_memory`` prints: a fresh process measures."""
    arguments = (candidate, "--clips", str(clips), "--shape", *map(str, shape))
    return memory.fresh_process("benchmarks.fvd_memory", *arguments)


def measure(candidate: str, clips: int, shape: tuple[int, int, int]) -> dict[str, float]:
    """The peak of ``candidate`` in MB, measured in this process."""
    score = fvd_peers.CANDIDATES[candidate]()

    def batches(seed: int) -> Iterator[Tensor]:
        for start in range(0, clips, _BATCH):
            count = min(_BATCH, clips - start)
            yield fvd_peers.made_clips(count, shape, seed=seed + 2 * start)

    def run() -> object:
        if candidate == fvd_peers.OURS:
            return score(batches(0), batches(1))
        return score(*(fvd_peers.made_clips(clips, shape, seed=seed) for seed in range(2)))

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        small = [fvd_peers.made_clips(2, (9, 32, 32), seed=seed) for seed in range(2)]
        score(*small)
        return {"peak_mb": memory.cpu_peak(run)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("candidate", choices=fvd_peers.CANDIDATES)
    parser.add_argument("--clips", type=int, default=32)
    parser.add_argument("--shape", type=int, nargs=3, default=(16, 128, 128), metavar=("T", "H", "W"))
    args = parser.parse_args()
    print(json.dumps(measure(args.candidate, args.clips, tuple(args.shape))))


if __name__ == "__main__":
    main()
