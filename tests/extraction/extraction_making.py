"""Small videos, and a network that says what it was shown."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from fractions import Fraction
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from torch import Tensor, nn

import fasti3d


class Shown(fasti3d.I3D):
    """Four features: the means of a clip's first channel and of its last, over its left half and its right.

    ``clips`` are those it was shown, if ``keep``.
    """

    in_channels = 3  # stated, where a network reads its stem

    def __init__(self, in_channels: int = 3, *, keep: bool = False) -> None:
        nn.Module.__init__(self)  # without a network, which would take a quarter of a second to make
        self.in_channels = in_channels
        self.weight = nn.Parameter(torch.ones(1))
        self.dropout = nn.Dropout(0.5)
        self.keep = keep
        self.clips: list[Tensor] = []

    def extract_features(self, x: Tensor) -> Tensor:
        assert not torch.is_grad_enabled()
        assert x.is_floating_point()
        if self.keep:
            self.clips += list(x)
        halves = x[:, [0, -1]].unflatten(4, (2, -1)).mean(dim=(2, 3, 5))
        return halves.flatten(1)[:, :, None]


class Counted(Shown):
    """Counts its passes, before each of which it waits."""

    def __init__(self, seconds: float = 0) -> None:
        super().__init__()
        self.passes = 0
        self.seconds = seconds

    def extract_features(self, x: Tensor) -> Tensor:
        self.passes += 1
        time.sleep(self.seconds)
        return super().extract_features(x)


def extract_elsewhere(videos: Path, out: Path, seconds: float, told: Connection) -> None:
    """Extracts in another process, which says when it begins and then what it did."""
    torch.set_num_threads(1)
    model = Counted(seconds)
    told.send("ready")
    done = fasti3d.extract(videos, out, model=model, stack=10)
    told.send((model.passes, done.done, done.already_done, len(done.failed)))


def write_video(path: Path, frames: Iterable[np.ndarray], rate: int = 25) -> Path:
    """A lossless video of RGB frames (H, W, 3)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=Fraction(rate))
        stream.pix_fmt = "bgr0"
        for i, image in enumerate(frames):
            if i == 0:
                stream.height, stream.width = image.shape[:2]
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    return path


def plain(levels: Iterable[int], size: int = 32) -> Iterable[np.ndarray]:
    """Grey frames."""
    return (np.full((size, size, 3), level, np.uint8) for level in levels)


def moving(frames: int, height: int = 32, width: int = 40, *, seed: int = 0) -> list[np.ndarray]:
    """A texture that moves to the right and down."""
    noise = np.random.default_rng(seed).integers(0, 256, (height // 4, width // 4, 3), np.uint8)
    texture = noise.repeat(4, axis=0).repeat(4, axis=1)
    return [np.ascontiguousarray(np.roll(texture, (i, 2 * i), (0, 1))) for i in range(frames)]


def tree(folder: Path) -> dict[str, bytes]:
    """Every file under a folder but for locks, hidden ones too."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.suffix != ".lock"
    }


def record(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text())


def rows(path: Path) -> list[tuple[Any, ...]]:
    """(start frame, end frame, start second, end second) of each row in a record."""
    columns = record(path)["rows"]
    names = ("start_frame", "end_frame", "start_seconds", "end_seconds")
    return list(zip(*(columns[name] for name in names), strict=True))


def errors(out: Path) -> dict[str, str]:
    """The reasons in errors.jsonl by the videos' names."""
    path = out / "errors.jsonl"
    if not path.exists():
        return {}
    return {entry["video"]: entry["reason"] for entry in map(json.loads, path.read_text().splitlines())}
