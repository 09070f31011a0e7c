"""Small clips, videos and images of them, and a cheap stand-in for the network."""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor


def noise(count: int, frames: int = 9, size: tuple[int, int] = (8, 10), seed: int = 0) -> Tensor:
    """uint8 clips (count, frames, H, W, 3), each of its own brightness."""
    random = np.random.default_rng(seed)
    clips = random.integers(0, 128, (count, frames, *size, 3), np.uint8)
    return torch.from_numpy(clips + random.integers(0, 128, (count, 1, 1, 1, 3), np.uint8))


def write_video(path: Path, images: Iterable[np.ndarray], *, rate: int = 25) -> Path:
    """Images uint8 (H, W, 3), without loss."""
    # Here and not at the top: machines that only run the GPU tests may lack it.
    import av

    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=Fraction(rate))
        stream.pix_fmt = "bgr0"
        images = list(images)
        stream.height, stream.width = images[0].shape[:2]
        for image in images:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    return path


def write_image(path: Path, image: np.ndarray) -> Path:
    """An image uint8 (H, W, 3) as png."""
    import av

    path.parent.mkdir(parents=True, exist_ok=True)
    context = av.CodecContext.create("png", "w")
    context.height, context.width = image.shape[:2]
    context.pix_fmt, context.time_base = "rgb24", Fraction(1, 25)
    frame = av.VideoFrame.from_ndarray(image, format="rgb24")
    path.write_bytes(b"".join(bytes(packet) for packet in [*context.encode(frame), *context.encode(None)]))
    return path


def numbered(count: int, size: tuple[int, int] = (16, 20), first: int = 0) -> list[np.ndarray]:
    """Grey images whose level is their number."""
    return [np.full((*size, 3), first + i, np.uint8) for i in range(count)]


class Colours:
    """In the place of the network: the mean and spread of each colour, in 0 to 1."""

    width = 6
    device, dtype = torch.device("cpu"), torch.float32

    def __init__(self, preset: object, source: object, **options: Any) -> None:
        self.weights = {"source": str(source), "sha256": f"hash of {source}"}
        self._batch = options["batch"]

    def batch_size(self, frames: int) -> int:
        return self._batch or 3

    def __call__(self, clips: Tensor, low: float, high: float) -> Tensor:
        values = ((clips.double() - low) / (high - low)).transpose(1, 2).flatten(2)
        return torch.cat((values.mean(dim=2), values.std(dim=2)), dim=1)
