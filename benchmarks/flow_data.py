"""The frames that flow is measured on: real clips and FlyingChairs, where the test data is, or made ones."""

from __future__ import annotations

import itertools
import os
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from fasti3d.flow import to_grey

ROOT = Path(__file__).resolve().parent.parent
FOLDER = Path(os.environ.get("FASTI3D_TEST_DATA", ROOT.parent / "shared" / "data"))
MADE = "made frames"


class Clip(NamedTuple):
    """The first frames of a clip of the test data, or ``MADE`` ones; ``short_side`` None: as they are."""

    name: str
    short_side: int | None = None

    def __str__(self) -> str:
        return self.name if self.short_side is None else f"{self.name}, short side {self.short_side}"

    @property
    def missing(self) -> str | None:
        """Why the clip cannot be read, if so."""
        if self.name == MADE or (FOLDER / "videos" / self.name).is_file():
            return None
        return f"no {self.name} in {FOLDER / 'videos'}: set FASTI3D_TEST_DATA"

    def frames(self, count: int) -> Tensor:
        """(count, H, W) uint8, grey."""
        if self.name == MADE:
            return made_frames(count)
        # Not at the top: machines that only have made frames may lack the decoder.
        from fasti3d.video import read_frames

        frames = read_frames(FOLDER / "videos" / self.name, fps=None, resize=self.short_side, crop=None)
        return torch.stack([to_grey(frame.image) for frame in itertools.islice(frames, count)])


NAMES = ("arm_wrestling.mp4", "clean_and_jerk.mp4", "flipping_pancake.mkv")
CLIPS = [Clip(name, short_side) for name in NAMES for short_side in (None, 256)]


def made_frames(count: int, height: int = 256, width: int = 340) -> Tensor:
    """(count, H, W) uint8: noise of every scale, a scene that pans and a disc in it that goes its own way."""
    generator = torch.Generator().manual_seed(0)
    scene, disc = (_texture(2 * height, 2 * width, generator) for _ in range(2))
    y, x = torch.meshgrid(torch.arange(float(height)), torch.arange(float(width)), indexing="ij")
    frames = []
    for i in range(count):
        image = _sampled(scene, x + width / 4 + 1.3 * i, y + height / 4 - 0.6 * i)
        ahead = _sampled(disc, x + width / 2 - 2.1 * i, y + height / 2 - 1.2 * i)
        inside = torch.hypot(x - width / 2 - 2.1 * i, y - height / 2 - 1.2 * i) < height / 5
        noise = 2 * torch.randn(height, width, generator=generator)
        frames.append(torch.where(inside, ahead, image) + noise)
    return torch.stack(frames).clamp_(0, 255).to(torch.uint8)


def _texture(height: int, width: int, generator: torch.Generator) -> Tensor:
    """(1, 1, H, W): grey levels around 128."""
    total = torch.zeros(1, 1, height, width)
    for scale in (4, 16, 64):
        coarse = torch.randn(1, 1, height // scale + 1, width // scale + 1, generator=generator)
        total += 22 * F.interpolate(coarse, size=(height, width), mode="bicubic")
    return total + 128


def _sampled(image: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """(1, 1, H, W) at positions in pixels, bilinear; outside, the border's pixels."""
    height, width = image.shape[2:]
    grid = torch.stack([(2 * x + 1) / width - 1, (2 * y + 1) / height - 1], dim=-1)
    return F.grid_sample(image, grid[None], padding_mode="border", align_corners=False)[0, 0]


def residual(frame0: Tensor, frame1: Tensor, flow: Tensor) -> float:
    """Mean absolute difference in grey levels between frame0 and frame1 taken back along the flow.

    It is what every method makes small, so that a flow can be judged without knowing the true one.
    """
    height, width = frame0.shape
    y, x = torch.meshgrid(torch.arange(float(height)), torch.arange(float(width)), indexing="ij")
    back = _sampled(frame1[None, None].float(), x + flow[0], y + flow[1])
    return (back - frame0).abs().mean().item()


class Chairs(NamedTuple):
    """Grey uint8 (H, W) images and the true flow (2, H, W) between them: a pair of FlyingChairs."""

    frame0: Tensor
    frame1: Tensor
    truth: Tensor


def chairs() -> list[Chairs]:
    """The pairs of FlyingChairs in the test data; an empty list where there is none."""
    files = sorted((FOLDER / "flow").glob("chairs*-gt.flo"))
    if not files:
        return []
    from fasti3d.flow import read_flo

    pairs = []
    for path in files:
        stem = path.name.removesuffix("-gt.flo")
        frame0, frame1 = (_grey_file(path.with_name(f"{stem}-img{i}.ppm")) for i in (0, 1))
        pairs.append(Chairs(frame0, frame1, torch.from_numpy(read_flo(path))))
    return pairs


def shifted(image: Tensor, pixels: int, margin: int = 64) -> Chairs:
    """Two views of an image, ``margin`` off its border; in the second all is ``pixels`` further right."""
    height, width = image.shape
    rows = slice(margin, height - margin)
    frame0, frame1 = (image[rows, margin - by : width - margin - by].contiguous() for by in (0, pixels))
    truth = torch.zeros((2, *frame0.shape))
    truth[0] = pixels
    return Chairs(frame0, frame1, truth)


def _grey_file(path: Path) -> Tensor:
    import av

    with av.open(str(path)) as container:
        rgb: NDArray[np.uint8] = next(container.decode(video=0)).to_ndarray(format="rgb24")
    return torch.from_numpy(to_grey(rgb))
