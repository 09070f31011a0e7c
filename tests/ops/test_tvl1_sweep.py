"""The sweeps of the CPU solver (csrc/tvl1/sweep.h): to the bit their iterations, however deep and split."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from compiling import compiled

SOURCE = Path(__file__).resolve().parent / "tvl1_sweep.cpp"


@pytest.fixture(scope="module")
def program() -> Path:
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("g++ is not installed")
    command = [compiler, "-std=c++20", "-O1", "-Wno-unknown-pragmas", "-Wno-psabi", str(SOURCE)]
    return compiled(command, SOURCE, lambda path: subprocess.run([*command, "-o", str(path)], check=True))


def run(program: Path, *arguments: object) -> str:
    command = [str(program), *map(str, arguments)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def test_sweeps_are_their_iterations(program: Path) -> None:
    """The states and the sums, of bands that run in any order and find nothing in what they write to."""
    assert run(program, "sweeps") == "512 cases\n"


@pytest.mark.parametrize(
    ("cache", "row", "rows", "depth"),
    [
        (2 << 20, 40 * 1968, 0, 8),
        (512 << 10, 40 * 1968, 0, 4),  # six rows and a half, two of them more than iterations
        (256 << 10, 40 * 1968, 0, 1),
        (1 << 20, 40 * 8000, 0, 1),
        (2 << 20, 40 * 400, 48, 6),  # bands of 48 rows
        (2 << 20, 40 * 400, 16, 2),
        (2 << 20, 40 * 400, 7, 1),
    ],
)
def test_depth(program: Path, cache: int, row: int, rows: int, depth: int) -> None:
    assert int(run(program, "depth", cache, row, 2, rows)) == depth


@pytest.mark.parametrize(
    ("previous", "errors", "remaining"),
    [
        (0, [], 1),
        (1, [], 1),
        (3, [], 3),
        (300, [], 4),
        (300, [6], 3),
        (300, [6, "median"], 2),
        (1, [9, 8], 8),  # far
        (1, [16, 4], 1),  # a quarter each
        (1, [100, 64, 16], 4),  # .4 each, by two: 6.4, 2.6, 1.02, .4
        (1, [5, 5, 5, 5], 8),
        (1, [1.2, 0, 4], 8),
        (1, [9, 3, 0.5], 1),
        (1, ["inf", "inf"], 8),  # no tolerance
        (1, ["nan", "nan"], 1),
    ],
    ids=str,
)
def test_forecast(program: Path, previous: int, errors: list[object], remaining: int) -> None:
    assert int(run(program, "forecast", previous, *errors)) == remaining
