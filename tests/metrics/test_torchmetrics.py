"""FrechetVideoDistance inside of torchmetrics: the scores of the plain metric."""

from __future__ import annotations

import copy
import importlib
import pickle
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from clip_making import noise
from two_processes import results_of

import fasti3d

torchmetrics = pytest.importorskip("torchmetrics")

from fasti3d.metrics.torchmetrics import FrechetVideoDistance  # noqa: E402

pytestmark = [
    pytest.mark.usefixtures("colours"),
    pytest.mark.filterwarnings("ignore:FVD of:UserWarning"),
    # Of a metric whose state was loaded, or is empty again.
    pytest.mark.filterwarnings("ignore:The ``compute`` method of metric:UserWarning"),
]

REAL, GENERATED = noise(20, seed=1), noise(14, seed=2)


def fill(metric: Any, real: torch.Tensor = REAL, generated: torch.Tensor = GENERATED) -> Any:
    """Update with batches of uneven size, alternately."""
    for first, second in zip(real.split(6), generated.split(4), strict=True):
        metric.update(first, real=True)
        metric.update(second, real=False)
    return metric


def plain(preset: str = "tf", **options: Any) -> float:
    return fill(fasti3d.FrechetVideoDistance(preset, **options)).compute().item()


def test_the_digits_are_those_of_the_plain_metric() -> None:
    metric = fill(FrechetVideoDistance())
    score = metric.compute()
    assert (score.dtype, score.shape, score.item()) == (torch.float64, (), plain())
    assert metric.update_count == 8
    assert metric.metric_state["real_moments"].dtype == torch.float64


def test_a_collection_of_presets() -> None:
    presets = ("tf", "cd-fvd", "videogpt")
    metrics = torchmetrics.MetricCollection({name: FrechetVideoDistance(name) for name in presets})
    scores = fill(metrics).compute()
    assert {name: score.item() for name, score in scores.items()} == {name: plain(name) for name in presets}
    assert scores["tf"] != scores["cd-fvd"]
    # The stand-in for the network sees no difference between presets, so the states are alike.
    assert len(metrics.compute_groups) == 3
    metrics.reset()
    value = metrics(REAL, real=True)
    assert all(one.isnan() for one in value.values())
    metrics(GENERATED, real=False)
    expected = fasti3d.FrechetVideoDistance()
    expected.update(REAL, real=True)
    expected.update(GENERATED, real=False)
    assert metrics.compute()["tf"] == expected.compute()


def test_a_collection_updates_equal_metrics_once() -> None:
    metrics = torchmetrics.MetricCollection({name: FrechetVideoDistance() for name in ("a", "b")})
    scores = fill(metrics).compute()
    assert len(metrics.compute_groups) == 1
    assert scores["a"].item() == scores["b"].item() == plain()


def test_clone_pickle_and_reset() -> None:
    metric = fill(FrechetVideoDistance())
    others = metric.clone(), copy.deepcopy(metric), pickle.loads(pickle.dumps(metric))
    metric.update(REAL, real=False)
    assert metric.compute().item() != plain()
    for other in others:
        assert other.compute().item() == plain()
    metric.reset()
    with pytest.raises(ValueError, match="real clips must be at least 2"):
        metric.compute()
    assert fill(metric).compute().item() == plain()


def test_real_clips_may_be_kept() -> None:
    metric = fill(FrechetVideoDistance(reset_real_features=False), generated=noise(14, seed=7))
    metric.reset()
    with pytest.raises(ValueError, match="generated clips must be at least 2"):
        metric.compute()
    with pytest.raises(ValueError, match="clips must have 9 frames"):
        metric.update(noise(2, frames=10), real=False)
    for part in GENERATED.split(4):
        metric.update(part, real=False)
    assert metric.compute().item() == plain()


def test_state_dict() -> None:
    metric = fill(FrechetVideoDistance())
    assert metric.state_dict() == {}
    metric.persistent(True)
    other = FrechetVideoDistance()
    other.persistent(True)
    other.load_state_dict(metric.state_dict())
    assert other.compute().item() == plain()
    with pytest.raises(ValueError, match="clips must have 9 frames"):
        other.update(noise(1, frames=10), real=True)


@pytest.mark.parametrize(
    "options", [{"preset": "cd-fvd"}, {"weights": "other"}, {"value_range": (0, 1)}, {"layout": "NTCHW"}]
)
def test_a_state_of_other_settings_is_refused(options: dict[str, Any]) -> None:
    metric, other = fill(FrechetVideoDistance()), FrechetVideoDistance(**options)
    metric.persistent(True)
    other.load_state_dict(metric.state_dict())
    with pytest.raises(ValueError, match="is of a metric with other settings"):
        other.compute()
    with pytest.raises(ValueError, match="different settings cannot be merged"):
        FrechetVideoDistance(**options).merge_state(metric)


def test_merged_states_are_one() -> None:
    metric, other = FrechetVideoDistance(), FrechetVideoDistance()
    metric.update(REAL[:7], real=True)
    fill(other, real=REAL[7:], generated=noise(9, seed=5))
    metric.merge_state(other)
    whole = fasti3d.FrechetVideoDistance()
    whole.update(REAL, real=True)
    whole.update(noise(9, seed=5), real=False)
    assert metric.compute().item() == pytest.approx(whole.compute().item(), rel=1e-12)
    third = FrechetVideoDistance()
    third.update(noise(2, frames=10), real=True)
    with pytest.raises(ValueError, match="must be of one kind"):
        metric.merge_state(third)


def test_sizes_that_differ_are_said() -> None:
    metric = FrechetVideoDistance()
    metric.update(noise(3, size=(8, 10)), real=True)
    metric.update(noise(3, size=(8, 10), seed=1), real=False)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        metric.compute()
    assert not [one for one in caught if "frames differ in size" in str(one.message)]
    metric.update(noise(3, size=(12, 6)), real=False)
    with pytest.warns(UserWarning, match="frames differ in size, 8x10 on the real side and 12x10, 8x6"):
        metric.compute()


def test_what_update_refuses_changes_nothing() -> None:
    metric = fill(FrechetVideoDistance())
    with pytest.raises(ValueError, match="real must be True or False"):
        metric.update(REAL, real="yes")
    with pytest.raises(ValueError, match="must be finite"):
        FrechetVideoDistance(value_range=(0, 1)).update(torch.full((1, 9, 8, 8, 3), float("nan")), real=True)
    assert metric.compute().item() == plain()


WORKER = """
import json, sys, warnings
import torch, torch.distributed as dist
torch.set_num_threads(1)
warnings.simplefilter("ignore")
from clip_making import Colours, noise
from fasti3d.metrics import metric
metric.Embedding = Colours
from fasti3d.metrics.torchmetrics import FrechetVideoDistance
from torchmetrics import MetricCollection
rank = int(sys.argv[1])
dist.init_process_group("gloo", init_method=f"file://{sys.argv[2]}", rank=rank, world_size=2)
real, generated = noise(21, seed=1), noise(14, seed=2)
own = MetricCollection({name: FrechetVideoDistance(name) for name in ("tf", "cd-fvd")})
own.update(real[:5] if rank else real[5:], real=True)
if rank:
    own.update(generated, real=False)  # the other one has none
scores = [own.compute()[name].item() for name in ("tf", "cd-fvd")]
again = own["tf"].compute().item()
count = int(own["tf"].real_moments[0, 0])  # its own again
other = FrechetVideoDistance()
other.update(noise(3, frames=9 + rank), real=True)
try:
    other.compute()
    said = ""
except ValueError as error:
    said = str(error)
print(json.dumps([scores, again, count, said]))
dist.barrier()
dist.destroy_process_group()
"""


@pytest.mark.skipif(not dist.is_available(), reason="this torch has no distributed")
def test_two_processes_give_the_score_of_all_clips(tmp_path: Path) -> None:
    results = results_of(WORKER, tmp_path / "meeting")
    assert results[0][:2] == results[1][:2]
    assert [result[2] for result in results] == [16, 5]
    for index, preset in enumerate(("tf", "cd-fvd")):
        whole = fasti3d.FrechetVideoDistance(preset)
        whole.update(noise(21, seed=1), real=True)
        whole.update(noise(14, seed=2), real=False)
        assert results[0][0][index] == pytest.approx(whole.compute().item(), rel=1e-12)
    assert all("must be of one kind in all processes" in result[3] for result in results)


def test_without_torchmetrics_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchmetrics", None)
    monkeypatch.delitem(sys.modules, "fasti3d.metrics.torchmetrics")
    with pytest.raises(ImportError, match="pip install torchmetrics"):
        importlib.import_module("fasti3d.metrics.torchmetrics")
