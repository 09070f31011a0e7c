"""Steps of training, in double precision: what they compute, and what stops them."""

from __future__ import annotations

import copy
import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from moving_clips import CLASSES, DRAW, MovingClips, eighth, job_of, train, trainer_of
from torch import Tensor

from fasti3d import I3D
from fasti3d.train import read_record
from fasti3d.train.data.clips import ClipSample
from fasti3d.train.evaluation.ranks import ranks
from fasti3d.train.journal import Journal, read_log
from fasti3d.train.learner import Learner, batch_norms
from fasti3d.train.precise_bn import precise_statistics
from fasti3d.train.run_folder import RunFolder
from fasti3d.train.settings import RefusedError, TrainingError, TrainingSettings
from fasti3d.train.state import Progress, load_state, save_state
from fasti3d.train.stopping import Stopping
from fasti3d.video import VideoError

# Sums in another order.
EXACT = 1e-12


@pytest.fixture(autouse=True, scope="module")
def _small() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with eighth():
        yield
    torch.set_num_threads(threads)


def clips(count: int = 5) -> MovingClips:
    return MovingClips(count, frames=9, size=40)


def settings(**changes: Any) -> TrainingSettings:
    given = {"steps": 2, "batch": 2, "lr": 0.1, "dropout": 0.0, "workers": 0, "precise_bn": 0, "freeze": "bn"}
    return TrainingSettings(**{**given, "evaluate_every": 99} | changes)


def run(
    folder: Path, data: Any = None, dtype: torch.dtype = torch.float64, **changes: Any
) -> dict[str, Tensor]:
    return dict(train(job_of(settings(**changes), data or clips()), folder, dtype).state_dict())


def distance(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> float:
    assert ours.keys() == theirs.keys()
    return max(float((ours[name] - theirs[name]).abs().max()) for name in ours)


def test_accumulation_equals_the_large_batch(tmp_path: Path) -> None:
    whole = run(tmp_path / "whole", batch=6)
    assert distance(run(tmp_path / "parts", batch=2, accumulate=3), whole) < EXACT
    assert distance(run(tmp_path / "other", batch=3, accumulate=1), whole) > 1e-6


def test_a_gradient_is_clipped_to_its_norm(tmp_path: Path) -> None:
    start = run(tmp_path / "start", steps=1, lr=1e-300)
    kept = {"steps": 1, "weight_decay": 0.0, "lr": 1.0, "clip_norm": 0.01}
    end = run(tmp_path / "clipped", **kept)
    moved = sum(float((end[name] - start[name]).square().sum()) for name in end if "running" not in name)
    assert moved**0.5 == pytest.approx(0.01, rel=1e-3)
    rows = list(csv.DictReader((tmp_path / "clipped" / "log.csv").open()))
    assert float(rows[0]["grad_norm"]) > 0.01


def test_an_average_of_the_weights_is_what_is_saved(tmp_path: Path) -> None:
    plain = run(tmp_path / "plain", steps=3)
    trainer = trainer_of(job_of(settings(steps=3, ema=0.75), clips()), tmp_path / "average", torch.float64)
    seen: list[dict[str, Tensor]] = []
    update = trainer.updater.step

    def watched(*arguments: Any) -> Any:
        found = update(*arguments)
        seen.append(copy.deepcopy(dict(trainer.model.state_dict())))
        return found

    trainer.updater.step = watched  # type: ignore[method-assign]
    assert trainer.run(Stopping())
    assert distance(seen[-1], plain) == 0  # training does not see it
    name = "logits.conv3d.weight"
    expected = seen[0][name]
    for state in seen[1:]:
        expected = 0.75 * expected + 0.25 * state[name]
    saved = I3D(2, weights=tmp_path / "average" / "last.safetensors").state_dict()
    torch.testing.assert_close(saved[name], expected.float())
    assert not torch.allclose(saved[name], seen[-1][name].float())


def test_a_frozen_trunk_runs_fused_and_only_the_classifier_moves(tmp_path: Path, runs: list[Any]) -> None:
    before = trainer_of(job_of(settings(), clips()), tmp_path / "before").model.state_dict()
    after = run(tmp_path / "run", dtype=torch.float32, freeze="trunk", dropout=0.5)
    changed = {name for name in after if not torch.equal(after[name], before[name])}
    assert changed == {"logits.conv3d.weight", "logits.conv3d.bias"}
    assert len(runs) == 2  # a fused run per step


def test_the_classifier_of_a_frozen_trunk_learns_as_in_the_whole_network() -> None:
    model = job_model()
    x = torch.empty(2, 3, 9, 40, 40).uniform_(-1, 1, generator=torch.Generator().manual_seed(0)).double()
    model.eval()
    labels = torch.tensor([0, 1])
    torch.nn.functional.cross_entropy(model(x), labels).backward()
    expected = model.logits.conv3d.weight.grad.clone()
    model.zero_grad()
    model.dropout.p = 0.0
    torch.nn.functional.cross_entropy(Learner(model, "trunk")(x), labels).backward()
    torch.testing.assert_close(model.logits.conv3d.weight.grad, expected, rtol=1e-9, atol=1e-12)
    assert model.Conv3d_1a_7x7.conv3d.weight.grad is None


def job_model() -> I3D:
    torch.manual_seed(0)
    return I3D(2).double()


@pytest.mark.parametrize("freeze", ["bn", "none"])
def test_statistics_move_unless_they_are_frozen(freeze: str, tmp_path: Path) -> None:
    after = run(tmp_path / "run", freeze=freeze)
    start = {"running_mean": 0.0, "running_var": 1.0}
    moved = [
        name
        for name, tensor in after.items()
        if name.rpartition(".")[2] in start and (tensor != start[name.rpartition(".")[2]]).any()
    ]
    assert bool(moved) == (freeze == "none")


def test_precise_statistics_are_those_of_all_clips_and_go_again() -> None:
    model = job_model()
    batches = [
        torch.empty(2, 3, 9, 40, 40).uniform_(-1, 1, generator=torch.Generator().manual_seed(n)).double()
        for n in range(3)
    ]
    before = copy.deepcopy(model.state_dict())
    stem = model.Conv3d_1a_7x7
    with torch.no_grad():
        inputs = torch.cat([stem.conv3d(torch.nn.functional.pad(x, (2, 3, 2, 3, 3, 3))) for x in batches])
    with precise_statistics(model, iter(batches), ranks(), None):
        mean, var = stem.bn.running_mean.clone(), stem.bn.running_var.clone()
    torch.testing.assert_close(mean, inputs.mean((0, 2, 3, 4)).float().to(mean.dtype), rtol=1e-5, atol=1e-6)
    # Each batch's variance is that of a sample.
    torch.testing.assert_close(var, inputs.var((0, 2, 3, 4)).to(var.dtype), rtol=1e-3, atol=1e-6)
    assert distance(dict(model.state_dict()), before) == 0
    assert {norm.momentum for norm in batch_norms(model)} == {0.001}


@pytest.mark.parametrize("amp", ["bf16", "fp16"])
def test_mixed_precision_trains(amp: str, tmp_path: Path) -> None:
    run(tmp_path / "full", dtype=torch.float32, steps=1)
    half = run(tmp_path / "half", dtype=torch.float32, steps=1, amp=amp)
    assert half["logits.conv3d.weight"].dtype == torch.float32
    losses = [read_log(tmp_path / name / "log.csv")[0]["loss"] for name in ("full", "half")]
    assert losses[0] == pytest.approx(losses[1], rel=0.02)
    assert losses[0] != losses[1]
    state = load_state(RunFolder(tmp_path / "half"))
    assert state is not None
    assert bool(state["scaler"]) == (amp == "fp16")


class Hostile:
    """Clips, one of which is changed."""

    def __init__(self, change: Any) -> None:
        self._clips = clips()
        self._change = change

    def __len__(self) -> int:
        return len(self._clips)

    def __getitem__(self, item: tuple[int, int]) -> ClipSample:
        return self._change(item, self._clips[item])


def test_a_loss_that_is_not_finite_stops_after_the_last_good_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = job_of(settings(steps=4, save_every=1), clips())
    trainer = trainer_of(job, tmp_path / "run")
    forward = I3D.forward
    calls = 0

    def broken(self: I3D, x: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return forward(self, x) * (float("nan") if calls == 3 else 1.0)

    monkeypatch.setattr(I3D, "forward", broken)
    with pytest.raises(TrainingError, match=r"the loss of step 3 is nan, with the clips of \d/\d\.avi, \d/"):
        trainer.run(Stopping())
    state = load_state(RunFolder(tmp_path / "run"))
    assert state is not None
    assert state["progress"].step == 2
    assert all(tensor.isfinite().all() for tensor in state["model"].values())


def test_weights_that_are_not_finite_replace_no_checkpoint(tmp_path: Path) -> None:
    trainer = trainer_of(job_of(settings(steps=2, save_every=1, evaluate_every=2), clips()), tmp_path / "run")
    step = trainer.updater.step

    def overflowing(number: int, *arguments: Any) -> Any:
        found = step(number, *arguments)
        if number == 1:
            with torch.no_grad():
                trainer.model.logits.conv3d.bias[0] = float("inf")
        return found

    trainer.updater.step = overflowing  # type: ignore[method-assign]
    with pytest.raises(TrainingError, match=r"logits\.conv3d\.bias is no longer finite"):
        trainer.run(Stopping())
    state = load_state(RunFolder(tmp_path / "run"))
    assert state is not None
    assert state["progress"].step == 1


def test_a_video_that_cannot_be_read_is_replaced_and_counted(tmp_path: Path) -> None:
    def broken(item: tuple[int, int], sample: ClipSample) -> ClipSample:
        if item[1] == 3:
            raise VideoError("three.avi", "is cut short")
        return sample

    noted: list[str] = []
    job = job_of(settings(steps=5, max_bad=0.2), Hostile(broken))
    job = copy.copy(job)
    object.__setattr__(job, "note", noted.append)
    trainer = trainer_of(job, tmp_path / "run")
    assert trainer.run(Stopping())
    assert trainer.progress.failed == {"three.avi": "is cut short"}
    assert noted == ["three.avi is cut short: another video's clip takes its place"]
    with pytest.raises(TrainingError, match=r"1 of 5 training videos cannot be read, such as three\.avi"):
        run(tmp_path / "strict", Hostile(broken), steps=5, max_bad=0.01)


def test_no_video_at_all(tmp_path: Path) -> None:
    def broken(item: tuple[int, int], sample: ClipSample) -> ClipSample:
        raise VideoError("x.avi", "is cut short")

    with pytest.raises(TrainingError, match=r"none of the 5 training videos can be read, such as x\.avi"):
        run(tmp_path / "run", Hostile(broken), max_bad=1.0)


def test_a_run_keeps_its_log_and_picture_and_says_what_it_trained_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Journal, "draw", DRAW)
    scores = iter([0.25, 0.75, 0.5])
    job = job_of(settings(steps=3, evaluate_every=1, keep=2), clips(), lambda model: next(scores))
    train(job, tmp_path / "run")
    rows = list(csv.DictReader((tmp_path / "run" / "log.csv").open()))
    assert [row["step"] for row in rows] == ["1", "1", "2", "2", "3", "3"]
    assert [row["validation_accuracy"] for row in rows[1::2]] == ["0.25", "0.75", "0.5"]
    assert all(float(row["data_seconds"]) >= 0 and float(row["compute_seconds"]) > 0 for row in rows[::2])
    assert float(rows[0]["lr"]) == pytest.approx(0.1)
    assert (tmp_path / "run" / "curve.png").read_bytes().startswith(b"\x89PNG")
    best, last = read_record(tmp_path / "run"), read_record(tmp_path / "run" / "last.safetensors")
    assert best is not None
    assert last is not None
    assert (best.steps, best.accuracy, best.classes) == (2, 0.75, CLASSES)
    assert (last.steps, last.accuracy) == (3, 0.5)
    kept = sorted(path.name for path in (tmp_path / "run").glob("step-*"))
    assert kept == ["step-0000002.safetensors", "step-0000003.safetensors"]
    assert I3D(2, weights=tmp_path / "run" / "best.safetensors").labels == CLASSES


def test_a_run_on_other_videos_does_not_go_on(tmp_path: Path) -> None:
    job = job_of(settings(), clips())
    train(job, tmp_path / "run")
    other = copy.copy(job)
    object.__setattr__(other, "identity", "others")
    with pytest.raises(RefusedError, match="holds a run on other videos or classes"):
        trainer_of(other, tmp_path / "run").resume()


def test_another_number_of_threads_is_told(tmp_path: Path) -> None:
    job = job_of(settings(), clips())
    train(job, tmp_path / "run")
    noted: list[str] = []
    changed = copy.copy(job)
    object.__setattr__(changed, "environment", job.environment | {"threads": 99})
    object.__setattr__(changed, "note", noted.append)
    assert trainer_of(changed, tmp_path / "run").resume()
    assert noted == ["threads: 1 before and 99 now: the weights will differ in their last bits"]


def test_a_full_disk_leaves_the_old_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = RunFolder(tmp_path / "run")
    folder.write_config({"settings": {}})
    save_state(folder, Progress(step=1), {"model": {}})
    before = folder.state.read_bytes()

    class Full:
        def __init__(self, file: Any) -> None:
            self._file = file

        def write(self, data: Any) -> int:
            raise OSError(28, "No space left on device")

        def __getattr__(self, name: str) -> Any:
            return getattr(self._file, name)

        def __enter__(self) -> Any:
            return self

        def __exit__(self, *error: object) -> None:
            self._file.close()

    monkeypatch.setattr("fasti3d.utils.files.create", lambda path: Full(path.open("xb")))
    with pytest.raises(TrainingError, match=r"step 2 cannot be saved in .*run \(No space left on device\)"):
        save_state(folder, Progress(step=2), {"model": {}}, {"best.safetensors": b"x"})
    monkeypatch.undo()
    assert folder.state.read_bytes() == before
    assert sorted(path.name for path in folder.path.iterdir()) == ["config.json", "last.pt"]


@pytest.mark.parametrize("data", [b"", b"PK\x03\x04 no more", b"\x80\x02cos\nsystem\n(S'x'\ntR."])
def test_a_damaged_checkpoint_is_not_run(data: bytes, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.state.write_bytes(data)
    with pytest.raises(TrainingError, match=r"last\.pt cannot be read"):
        load_state(folder)


def test_memory_that_does_not_suffice_names_the_batch_that_fits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = trainer_of(job_of(settings(batch=4), clips()), tmp_path / "run")
    forward = I3D.forward

    def short(self: I3D, x: Tensor) -> Tensor:
        if len(x) > 2:
            raise RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory")
        return forward(self, x)

    monkeypatch.setattr(I3D, "forward", short)
    found = []
    for available in (1 << 40, 4_000_000, 0):
        monkeypatch.setattr("fasti3d.train.memory._physical", lambda available=available: available)
        with pytest.raises(TrainingError) as raised:
            trainer.run(Stopping())
        found.append(str(raised.value))
    assert "--batch 3 would fit, and --accumulate 2" in found[0]
    assert "memory ran out in a step of 4 clips per forward pass: about" in found[2]
    assert "--batch" not in found[2]


def test_the_seed_decides(tmp_path: Path) -> None:
    first = run(tmp_path / "a", dropout=0.5)
    assert distance(run(tmp_path / "b", dropout=0.5), first) == 0
    assert distance(run(tmp_path / "c", dropout=0.5, seed=1), first) > 1e-3
    assert distance(run(tmp_path / "e", dropout=0.5, workers=1), first) == 0
