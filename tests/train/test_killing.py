"""A run that was killed, or asked to end, goes on to the very weights of an undisturbed one."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from killed_runs import PLACES
from waiting import PATIENCE

from fasti3d.train.run_folder import RunFolder
from fasti3d.train.state import load_state

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, tuple[int, int]]]:
    """The folders of all runs, and their exit codes."""
    folder = tmp_path_factory.mktemp("runs")
    here = Path(__file__).parent
    env = os.environ | {"PYTHONPATH": os.pathsep.join([str(here), str(here.parent), str(here.parents[1])])}
    command = [sys.executable, str(here / "killed_runs.py"), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, env=env)
    assert done.returncode == 0, done.stderr
    codes = [tuple(map(int, line.split())) for line in done.stdout.splitlines()]
    return folder, dict(zip(PLACES, codes, strict=True))  # type: ignore[arg-type]


def same(ours: Any, theirs: Any) -> bool:
    if isinstance(ours, torch.Tensor):
        return torch.equal(ours, theirs)
    if isinstance(ours, dict):
        return ours.keys() == theirs.keys() and all(same(value, theirs[key]) for key, value in ours.items())
    if isinstance(ours, list | tuple):
        return len(ours) == len(theirs) and all(map(same, ours, theirs))
    return bool(ours == theirs)


@pytest.mark.parametrize("place", PLACES)
def test_it_ends_with_the_same_bits(place: str, home: tuple[Path, dict[str, tuple[int, int]]]) -> None:
    folder, codes = home
    assert codes[place] == ((3 if "SIG" in place else -9), 0)
    for name in ("best.safetensors", "last.safetensors"):
        assert (folder / place / name).read_bytes() == (folder / "undisturbed" / name).read_bytes()
    ours, theirs = (load_state(RunFolder(folder / name)) for name in (place, "undisturbed"))
    assert ours is not None
    assert theirs is not None
    assert vars(ours.pop("progress")) == vars(theirs.pop("progress"))
    assert same(ours, theirs)
    assert sorted(path.name for path in (folder / place).iterdir()) == sorted(
        path.name for path in (folder / "undisturbed").iterdir()
    )
    logs = [list(csv.reader((folder / name / "log.csv").open())) for name in (place, "undisturbed")]
    seconds = [i for i, column in enumerate(logs[0][0]) if column.endswith("seconds")]
    stripped = [[[v for i, v in enumerate(row) if i not in seconds] for row in log] for log in logs]
    assert stripped[0] == stripped[1]
