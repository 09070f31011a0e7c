"""Two processes train as one does with all of their clips."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from moving_clips import MovingClips, eighth, job_of, train
from waiting import PATIENCE

from fasti3d.train.journal import read_log
from fasti3d.train.run_folder import RunFolder
from fasti3d.train.settings import TrainingSettings
from fasti3d.train.state import load_state

# Sums of double precision in another order, over two steps.
CLOSE = 1e-9
WORKER = """
import sys
from pathlib import Path
import torch, torch.distributed as dist
torch.set_num_threads(1)
from test_two_processes import run
rank, home = int(sys.argv[1]), Path(sys.argv[2])
dist.init_process_group("gloo", init_method=f"file://{home}/meeting", rank=rank, world_size=2)
run(home / "two", 2, batch=1, accumulate=2)
dist.destroy_process_group()
"""


def run(folder: Path, processes: int, **shares: int) -> None:
    """Train in double precision."""
    settings = TrainingSettings(
        steps=2, lr=0.05, dropout=0.0, workers=0, precise_bn=0, sync_bn=True, freeze="none", **shares
    )
    clips = MovingClips(7, frames=9, size=40)
    with eighth():
        train(job_of(settings, clips, None, processes), folder, torch.float64)


@pytest.mark.skipif(not dist.is_available(), reason="this torch has no distributed")
def test_two_processes_equal_one(tmp_path: Path) -> None:
    here = Path(__file__).parent
    path = os.pathsep.join([str(here), str(here.parent), str(here.parents[1])])
    env = os.environ | {"PYTHONPATH": path, "GLOO_SOCKET_IFNAME": "lo"}
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", WORKER, str(rank), str(tmp_path)],
            stderr=subprocess.PIPE,
            text=True,
            env=env,
        )
        for rank in range(2)
    ]
    # Statistics are those of two clips in both: of a forward pass there, of both processes' here.
    run(tmp_path / "one", 1, batch=2, accumulate=2)
    for worker in workers:
        _, errors = worker.communicate(timeout=PATIENCE)
        assert worker.returncode == 0, errors
    one, two = (load_state(RunFolder(tmp_path / name)) for name in ("one", "two"))
    assert one is not None
    assert two is not None
    for name, tensor in one["model"].items():
        if tensor.is_floating_point():
            assert tensor.dtype == torch.float64
            torch.testing.assert_close(two["model"][name], tensor, rtol=CLOSE, atol=CLOSE)
    moved = one["optimizer"]["state"][0]["momentum_buffer"]
    torch.testing.assert_close(two["optimizer"]["state"][0]["momentum_buffer"], moved, rtol=1e-7, atol=CLOSE)
    assert float(moved.abs().max()) > 1e-4
    losses = [
        [row["loss"] for row in read_log(tmp_path / name / "log.csv") if "loss" in row]
        for name in ("one", "two")
    ]
    assert len(losses[0]) == 2
    assert losses[1] == pytest.approx(losses[0], rel=1e-8)
