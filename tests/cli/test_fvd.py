"""``fasti3d fvd``: what it prints, where, and with which exit code."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from i3d_making import make_i3d
from typer.testing import CliRunner

import fasti3d
from fasti3d.cli import app


@pytest.fixture(scope="module")
def sides(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two arrays of two clips of nine frames."""
    folder = tmp_path_factory.mktemp("sides")
    random = np.random.default_rng(0)
    paths = folder / "real.npy", folder / "generated.npy"
    for path, bright in zip(paths, (256, 128), strict=True):
        np.save(path, random.integers(0, bright, (2, 9, 20, 24, 3), np.uint8))
    return paths


@pytest.fixture(scope="module")
def network(narrow: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of few channels and 5 classes."""
    path = tmp_path_factory.mktemp("weights") / "rgb.pt"
    torch.save(make_i3d(5).state_dict(), path)
    return path


@pytest.fixture
def options(network: Path) -> tuple[Any, ...]:
    return "--frames", 9, "--weights", network, "--device", "cpu"


def call(*arguments: object) -> Any:
    runner = CliRunner(env={"COLUMNS": "400", "NO_COLOR": "1"})
    return runner.invoke(app, ["fvd", *map(str, arguments)])


def test_json_is_the_library_s_receipt(
    sides: tuple[Path, Path], options: tuple[Any, ...], network: Path, tmp_path: Path
) -> None:
    stats = tmp_path / "real.npz"
    done = call(*sides, *options, "--json", "--seed", 3, "--save-stats", stats)
    assert done.exit_code == 0, done.output
    receipt = json.loads(done.stdout)
    with pytest.warns(UserWarning, match="below 256"):
        result = fasti3d.fvd(*sides, frames=9, weights=network, device="cpu", seed=3)
    assert receipt == json.loads(json.dumps(result.receipt))
    assert receipt["real"]["chosen"] == [{"name": str(i), "start": 0} for i in range(2)]
    assert done.stderr.count("warning: ") == len(receipt["warnings"]) == 1

    again = call(stats, sides[1], *options, "--json")
    assert json.loads(again.stdout)["score"] == receipt["score"]
    other = call(stats, sides[1], *options, "--preset", "cd-fvd")
    assert other.exit_code == 1
    assert other.stdout == ""
    assert "real.npz: preset of these statistics is 'tf', of this metric 'cd-fvd'" in other.stderr


def test_a_person_reads_the_score_and_what_it_is_of(
    sides: tuple[Path, Path], options: tuple[Any, ...]
) -> None:
    done = call(*sides, *options)
    assert done.exit_code == 0, done.output
    first, second = done.stdout.splitlines()
    assert float(first.removeprefix("FVD ")) >= 0
    assert second.startswith("2 real and 2 generated clips of 9 frames, preset tf, seed 0, weights ")
    assert done.stderr.startswith("warning: FVD of 2 real and 2 generated clips: below 256")


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (
            ["--frames", "8"],
            "--frames: clips must have at least 9 frames, the shortest that I3D takes, got 8",
        ),
        (["--preset", "google"], "--preset: preset must be one of tf, stylegan-v"),
        (["--weights", "kinetics"], "--weights: 'kinetics' is neither a file nor a name"),
        (["--clips", "1"], "--clips: must be at least 2, got 1"),
        (["--fps", "0"], "--fps: must be a number above 0"),
        (["--layout", "THWC"], "--layout: layout must be one of NTHWC"),
        (["--range", "0"], "--range: must be two numbers"),
        (["--range", "1,0"], "--range: value_range must be black and white"),
        (["--bootstrap", "1"], "--bootstrap: must be at least 2"),
        (["--batch", "0"], "--batch: must be at least 1"),
        (["--device", "tpu"], "--device: device must be"),
        (["--dtype", "int8"], "--dtype: dtype must be"),
        (["--save-stats", "x.txt"], "--save-stats: x.txt"),
        (["--plot", "x.gif"], "--plot: x.gif: a picture's name must end in .png"),
        (["--plot", "no/such/x.png"], "--plot: no/such is not a folder"),
    ],
)
def test_wrong_usage_says_what_is_wrong(sides: tuple[Path, Path], wrong: list[str], said: str) -> None:
    done = call(*sides, *wrong)
    assert done.exit_code == 2, done.output
    assert done.stdout == ""
    assert f"Invalid value for {said}" in done.stderr


def test_what_cannot_be_read_fails_without_a_traceback(
    sides: tuple[Path, Path], options: tuple[Any, ...], tmp_path: Path
) -> None:
    (tmp_path / "junk.npz").write_bytes(b"junk")
    for name, said in (("no", "does not exist"), (".", "holds no videos"), ("junk.npz", "junk")):
        done = call(tmp_path / name, sides[1], *options)
        assert done.exit_code == 1
        assert said in done.stderr
        assert "Traceback" not in done.output
