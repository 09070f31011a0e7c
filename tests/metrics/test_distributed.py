"""The clips of two processes together."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from clip_making import noise
from two_processes import results_of

from fasti3d import FrechetVideoDistance

WORKER = """
import json, os, sys, warnings
import torch, torch.distributed as dist
torch.set_num_threads(1)
warnings.simplefilter("ignore")
from clip_making import Colours, noise
from fasti3d.metrics import metric
metric.Embedding = Colours
rank = int(sys.argv[1])
dist.init_process_group("gloo", init_method=f"file://{sys.argv[2]}", rank=rank, world_size=2)
real, generated = noise(21, seed=1), noise(14, seed=2)
own = metric.FrechetVideoDistance(keep_features=True)
own.update(real[:5] if rank else real[5:], real=True)
if rank:
    own.update(generated, real=False)  # the other one has none
score = own.compute().item()
again = own.compute().item()
count = own.receipt()["real"]["clips"]
curve = own.extrapolate()
alone = metric.FrechetVideoDistance(sync=False)
alone.update(real[rank::2], real=True)
alone.update(generated, real=False)
local = alone.receipt()["real"]["clips"]
other = metric.FrechetVideoDistance()
other.update(noise(3, frames=9 + rank), real=True)
try:
    other.compute()
    said = ""
except ValueError as error:
    said = str(error)
print(json.dumps([score, again, count, curve, local, said]))
dist.barrier()
dist.destroy_process_group()
"""


@pytest.mark.skipif(not dist.is_available(), reason="this torch has no distributed")
@pytest.mark.usefixtures("colours")
@pytest.mark.filterwarnings("ignore:FVD of:UserWarning")
def test_two_processes_give_the_score_of_all_clips(tmp_path: Path) -> None:
    results = results_of(WORKER, tmp_path / "meeting")

    whole = FrechetVideoDistance(keep_features=True)
    whole.update(noise(21, seed=1), real=True)
    whole.update(noise(14, seed=2), real=False)
    for score, again, count, _, _, said in results:
        assert score == again == pytest.approx(whole.compute().item(), rel=1e-12)
        assert count == 21
        assert "must be of one kind in all processes" in said
    assert results[0][:4] == results[1][:4]
    assert [result[4] for result in results] == [11, 10]
    assert torch.tensor(results[0][3]).isfinite()
