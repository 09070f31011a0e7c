"""Ways to get one feature for every 8 frames of a long video, and the peak memory of each.

``python -m benchmarks.dense_work CANDIDATE --frames 256`` prints JSON as ``benchmarks.memory`` does: what
the process grows by in the first pass over a video of 224x224 pixels and in the next, without the video.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from benchmarks import memory, peers
from fasti3d import dense, reference
from fasti3d.video import to_clip

SIZE = 224
# The windows that users of other tools cut a video into.
WINDOW, STEP = 16, 8

Features = Callable[[Tensor], Tensor]


def made_frames(count: int) -> Tensor:
    """Smooth coloured noise, uint8 (T, H, W, 3)."""
    case = peers.Case((1, 3, count, SIZE, SIZE), torch.float32)
    return peers.clip(case)[0].permute(1, 2, 3, 0).add(1).mul(127.5).to(torch.uint8).contiguous()


def _dense(chunk: int) -> Features:
    model = peers.our_network()

    def features(frames: Tensor) -> Tensor:
        found = dense.dense_features(model, frames, len(frames), features="pooled", chunk=chunk)
        return torch.cat([part for _, part in found], dim=1)

    return features


def _one_pass() -> Features:
    model = peers.our_network()
    return lambda frames: model.extract_features(to_clip(frames)[None])[0]


def _windows(model: reference.I3D) -> Features:
    def cut(frames: Tensor) -> Iterator[Tensor]:
        for start in range(0, len(frames) - WINDOW + 1, STEP):
            yield to_clip(frames[start : start + WINDOW])[None]

    @torch.no_grad()
    def features(frames: Tensor) -> Tensor:
        return torch.cat([model.extract_features(clip)[0] for clip in cut(frames)], dim=1)

    return features


OURS = "dense, chunks of 128"
ONE_PASS = "one pass"
CANDIDATES: dict[str, Callable[[], Features]] = {
    OURS: lambda: _dense(128),
    "dense, chunks of 64": lambda: _dense(64),
    "dense, chunks of 32": lambda: _dense(32),
    ONE_PASS: _one_pass,
    "windows of 16, step 8": lambda: _windows(peers.our_network()),
    "windows of 16, step 8, plain network": lambda: _windows(peers.random_reference()),
}


def peaks(candidate: str, frames: int) -> dict[str, float]:
    """What ``python -m benchmarks.dense_work`` prints: a fresh process measures."""
    return memory.fresh_process("benchmarks.dense_work", candidate, "--frames", str(frames))


def measure(candidate: str, count: int) -> dict[str, float]:
    """The peaks of ``candidate`` in MB, measured in this process."""
    features, frames = CANDIDATES[candidate](), made_frames(count)
    features(frames[:WINDOW])  # with it the pages of torch's own code, and packed weights
    first, later = (memory.cpu_peak(lambda: features(frames)) for _ in range(2))
    return {"peak_mb": first, "later_peak_mb": later}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("candidate", choices=CANDIDATES)
    parser.add_argument("--frames", type=int, default=256)
    args = parser.parse_args()
    print(json.dumps(measure(args.candidate, args.frames)))


if __name__ == "__main__":
    main()
