"""Features of a video, by fasti3d and in the straightforward way: read all of it, then the plain network.

``python -m benchmarks.extract_work CANDIDATE --frames 384 --stack 16`` prints JSON as ``benchmarks.memory``
does: what the process grows by from the video to the files, in the first run and in the next. Every
candidate has done a small video before.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import torch
from torch import Tensor

import fasti3d
from benchmarks import memory, peers
from fasti3d import reference

OURS = "fasti3d.extract"
STRAIGHTFORWARD = "read all of it, reference network"

# At the size and rate that the networks want, and without loss, so that every reader sees the same pixels.
HEIGHT, WIDTH, RATE = 256, 340, 25
STACK = 16
# Memory is a matter of the video's length: few windows will do.
STEP_OF_MEMORY = 128

# From a video, to a file of features in a folder: float32 (windows, 1024).
Extract = Callable[[Path, Path], Path]


def write_video(path: Path, frames: int) -> Path:
    """A texture that moves."""
    noise = np.random.default_rng(0).integers(0, 256, (HEIGHT // 8, WIDTH // 8 + 1, 3), np.uint8)
    texture = noise.repeat(8, axis=0).repeat(8, axis=1)[:, :WIDTH]
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=Fraction(RATE))
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "bgr0"
        for i in range(frames):
            image = np.ascontiguousarray(np.roll(texture, (i, 2 * i), (0, 1)))
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    return path


def ours(stack: int, step: int) -> Extract:
    model = peers.our_network()

    def extract(video: Path, out: Path) -> Path:
        done = fasti3d.extract(video, out, model=model, stack=stack, step=step, tail="drop")
        assert done.done == 1
        return out / f"{video.stem}_rgb.npy"

    return extract


def straightforward(stack: int, step: int) -> Extract:
    model = peers.random_reference()

    def extract(video: Path, out: Path) -> Path:
        frames: list[Tensor] = []
        top, left = (HEIGHT - 224) // 2, (WIDTH - 224) // 2
        with av.open(str(video)) as container:
            for frame in container.decode(video=0):
                image = torch.from_numpy(frame.to_ndarray(format="rgb24"))
                frames.append(image[top : top + 224, left : left + 224].float() / 127.5 - 1)
        clip = torch.stack(frames).permute(3, 0, 1, 2)
        rows = []
        with torch.no_grad():
            for first in range(0, clip.shape[1] - stack + 1, step):
                window = clip[None, :, first : first + stack]
                pooled = reference.head_pool(model.forward_features(window)).mean(dim=(2, 3, 4))
                rows.append(pooled)
        path = out / f"{video.stem}_plain.npy"
        np.save(path, torch.cat(rows).numpy())
        return path

    return extract


CANDIDATES: dict[str, Callable[[int, int], Extract]] = {OURS: ours, STRAIGHTFORWARD: straightforward}


def peaks(candidate: str) -> dict[str, float]:
    """What ``python -m benchmarks.extract_work`` prints: a fresh process measures."""
    return memory.fresh_process("benchmarks.extract_work", candidate)


def measure(candidate: str, frames: int) -> dict[str, float]:
    """The peaks of ``candidate`` in MB, measured in this process."""
    extract = CANDIDATES[candidate](STACK, STEP_OF_MEMORY)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        extract(write_video(folder / "small.mkv", STACK), folder)
        video = write_video(folder / "video.mkv", frames)
        growth = []
        for run in ("first", "later"):
            (folder / run).mkdir()
            growth.append(memory.cpu_peak(lambda out=folder / run: extract(video, out)))  # type: ignore[misc]
    return {"peak_mb": growth[0], "later_peak_mb": growth[1]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("candidate", choices=CANDIDATES)
    parser.add_argument("--frames", type=int, default=512)
    args = parser.parse_args()
    print(json.dumps(measure(args.candidate, args.frames)))


if __name__ == "__main__":
    main()
