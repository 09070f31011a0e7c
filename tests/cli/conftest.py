"""Small inputs for the command line: videos of a few frames, weights at random."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import nullcontext
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from i3d_making import narrowed
from safetensors.torch import save_file
from waiting import PATIENCE

import fasti3d

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="session")
def run() -> Run:
    """Runs ``python -m fasti3d`` with these arguments, away from any terminal."""

    def call(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "fasti3d", *map(str, arguments)]
        env = {
            key: value for key, value in os.environ.items() if key not in ("FORCE_COLOR", "TTY_COMPATIBLE")
        }
        return subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            env=env | {"COLUMNS": "100"} | environment,
        )

    return call


@pytest.fixture(scope="session")
def clips(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Three videos of noise: ``a`` and ``b`` of 12 frames, ``long`` of 400."""
    folder = tmp_path_factory.mktemp("clips")
    noise = np.random.default_rng(0)
    paths = {}
    for name, frames in (("a", 12), ("b", 12), ("long", 400)):
        paths[name] = folder / f"{name}.mkv"
        with av.open(str(paths[name]), "w") as container:
            stream = container.add_stream("ffv1", rate=Fraction(25))
            stream.width, stream.height, stream.pix_fmt = 32, 32, "bgr0"
            for _ in range(frames):
                image = noise.integers(0, 256, (32, 32, 3), np.uint8)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
            container.mux(stream.encode())
    return paths


def _save_random(path: Path, in_channels: int, *, narrow: bool = False) -> Path:
    torch.manual_seed(0)
    with narrowed() if narrow else nullcontext():
        save_file(fasti3d.I3D(5, in_channels).state_dict(), path)
    return path


@pytest.fixture(scope="session")
def random_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of 5 classes without names."""
    return _save_random(tmp_path_factory.mktemp("weights") / "rgb.safetensors", 3)


@pytest.fixture(scope="session")
def flow_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint that takes optical flow."""
    return _save_random(tmp_path_factory.mktemp("weights") / "flow.safetensors", 2)


@pytest.fixture(scope="session")
def narrow_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As ``random_weights``, for tests of modules that are ``narrow``."""
    return _save_random(tmp_path_factory.mktemp("weights") / "rgb.safetensors", 3, narrow=True)


@pytest.fixture(scope="session")
def narrow_flow_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As ``flow_weights``, for tests of modules that are ``narrow``."""
    return _save_random(tmp_path_factory.mktemp("weights") / "flow.safetensors", 2, narrow=True)
