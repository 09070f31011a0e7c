"""``fasti3d evaluate``: what it writes and says, and what it refuses in one line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from i3d_making import make_i3d
from train.dataset_making import make_kinetics, make_ucf101
from train.scores_making import make_scores
from typer.testing import CliRunner
from waiting import PATIENCE

from fasti3d.cli import app
from fasti3d.train import TrainingRecord
from fasti3d.train.evaluation import read_scores
from fasti3d.train.evaluation.scores import save_scores
from fasti3d.weights import Checkpoint
from fasti3d.weights.checkpoint import write_checkpoint

pytestmark = pytest.mark.usefixtures("narrow")
CLASSES = ("Apply", "HammerThrow")
RECORD = TrainingRecord("ucf101", "train", 1, "rgb", CLASSES)


def call(*arguments: object) -> SimpleNamespace:
    """A call in this process."""
    runner = CliRunner(env={"COLUMNS": "400", "NO_COLOR": "1"})
    done = runner.invoke(app, ["evaluate", *map(str, arguments)])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return SimpleNamespace(code=done.exit_code, out=done.stdout, err=done.stderr)


def save_weights(path: Path, record: TrainingRecord = RECORD) -> Path:
    count = len(record.classes)
    state = dict(make_i3d(count).state_dict())
    write_checkpoint(
        Checkpoint(state, "pytorch-i3d", "", "0" * 64, count, 3, record.classes, record.as_json()), path
    )
    return path


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, narrow: None) -> Path:
    """``UCF-101``, of 4 listed test videos 1 missing and 1 broken; ``run``."""
    folder = tmp_path_factory.mktemp("home")
    root = make_ucf101(folder, classes=CLASSES, groups=8, frames=10)
    first, second = sorted((root / "HammerThrow").iterdir())[:2]
    first.unlink()
    second.write_bytes(b"RIFF")
    (folder / "run").mkdir()
    save_weights(folder / "run" / "best.safetensors")
    return folder


def test_what_is_said_and_written(home: Path, tmp_path: Path) -> None:
    out = tmp_path / "rgb.npz"
    call_it = (home / "run", "--dataset", "ucf101", "--root", home / "UCF-101", "--split", 1, "-o", out)
    done = call(*call_it)
    assert done.code == 0, done.err
    (accuracy,) = (line for line in done.out.splitlines() if line.startswith("top-1"))
    assert "of 3 videos" in accuracy
    assert "3 of 4 listed videos found, 1 failed (count as wrong)" in accuracy
    assert "top-2 accuracy" in done.out
    assert len(done.err.splitlines()) == 2
    scores = read_scores(out)
    assert len(scores.keys) == 3
    assert len(scores.missing) == 1
    files = ["rgb.classes.csv", "rgb.confusion.npy", "rgb.confusion.png", "rgb.npz"]
    assert sorted(path.name for path in tmp_path.iterdir()) == files
    assert np.load(tmp_path / "rgb.confusion.npy").sum() == 2
    before = out.read_bytes()
    said = json.loads(call(*call_it, "--json").out)
    assert out.read_bytes() == before
    assert (said["listed"], said["found"], len(said["failed"]), len(said["missing"])) == (4, 3, 1, 1)
    assert said["accuracy"]["videos"] == 3
    said = json.loads(call(*call_it, "--json", "--ignore-errors").out)
    assert said["accuracy"]["videos"] == 2
    assert said["accuracy"]["classes_with_videos"] == 1

    other = replace(scores, header=scores.header | {"stream": "flow"}, logits=scores.logits * 2)
    save_scores(tmp_path / "flow.npz", other)
    done = call("--fuse", out, tmp_path / "flow.npz", "-o", tmp_path / "both.npz", "--flow-weight", 0.5)
    assert done.code == 0, done.err
    assert "two-stream" in done.out
    assert np.allclose(read_scores(tmp_path / "both.npz").logits[0], 2 * scores.logits[0], atol=1e-5)
    done = call("--fuse", out, tmp_path / "flow.npz", "-o", tmp_path / "both.npz")
    assert done.code == 2
    assert "--overwrite" in done.err


def test_one_line_and_code_2_for_what_does_not_go_together(home: Path, tmp_path: Path) -> None:
    data = ("--dataset", "ucf101", "--root", home / "UCF-101", "-o", tmp_path / "x.npz")
    swapped = save_weights(tmp_path / "w.safetensors", replace(RECORD, classes=CLASSES[::-1]))
    fewer = tmp_path / "fewer.npz"
    save_scores(fewer, make_scores([[1, 0]], [0]))
    more = tmp_path / "more.npz"
    save_scores(more, make_scores([[1, 0], [1, 0]], [0, 1], stream="flow"))
    for arguments, said in (
        ((home / "run", *data, "--split", 2), "trained on split 1 of ucf101"),
        ((swapped, *data), "class 0 is 'HammerThrow' in the weights and 'Apply' in the data set"),
        ((home / "run", *data, "--flow-from", home), "weights are of RGB"),
        ((home / "run", *data, "--list", swapped), "--list is for --dataset list"),
        (("--fuse", fewer, more), "1 in the first and 2 in the second"),
        (("--fuse", fewer, fewer, more), "two streams of one split"),
    ):
        done = call(*arguments)
        assert done.code == 2, arguments
        assert said in done.err
        assert len(done.err.splitlines()) == 1
        assert list(tmp_path.glob("*x.npz*")) == []
    (tmp_path / "junk.npz").write_bytes(b"PK")
    done = call("--fuse", fewer, tmp_path / "junk.npz")
    assert (done.code, len(done.err.splitlines())) == (1, 1)
    assert "junk.npz holds no scores" in done.err
    done = call(home / "run", *data, "--subset", "train", "--views", "1x1")
    assert done.code == 0
    assert "trained on these videos" in done.err
    assert call(home / "run", *data, "--split", 2, "--any-split", "--views", "1x1", "--overwrite").code == 0


def test_three_splits_stand_beside_the_papers_rows(tmp_path: Path) -> None:
    files = []
    for split in (3, 1, 2):
        for stream, row in (("rgb", [0.0, 1.0]), ("flow", [3.0, 0.0])):
            files.append(tmp_path / f"{stream}{split}.npz")
            save_scores(files[-1], make_scores([row] * split, [0] * split, stream=stream, split=split))
    done = call("--fuse", *files)
    assert done.code == 0, done.err
    rows = {line.split()[0]: line.split()[1:] for line in done.out.splitlines()}
    assert rows["flow"] == ["100.00%"] * 4 + ["96.7", "%", "96.5", "%"]
    assert rows["RGB"] == ["0.00%"] * 4 + ["95.6", "%", "95.1", "%"]
    assert rows["two-stream"][3:] == ["100.00%", "98.0", "%", "97.8", "%"]
    said = json.loads(call("--fuse", *files[::2], "--json").out)
    assert said["top1"] == {"rgb": {"splits": [0, 0, 0], "mean": 0}}


def test_lists_without_labels_have_scores_and_no_accuracy(tmp_path: Path) -> None:
    root = make_kinetics(tmp_path, classes=CLASSES, clips=1, frames=10)
    (val,) = root.parent.rglob("val.csv")
    rows = [line.split(",") for line in val.read_text().splitlines()]
    val.with_name("test.csv").write_text("\n".join(",".join(row[1:]) for row in rows))
    val.unlink()
    weights = save_weights(tmp_path / "w.safetensors", replace(RECORD, dataset="kinetics400", split=None))
    out = tmp_path / "x.npz"
    call_it = (weights, "--dataset", "kinetics400", "--root", root, "--subset", "test", "-o", out)
    done = call(*call_it)
    assert done.code == 0, done.err
    assert "no accuracy" in done.out
    assert "%" not in done.out
    assert read_scores(out).labels.tolist() == [-1, -1]
    assert sorted(path.name for path in tmp_path.glob("x.*")) == ["x.npz"]
    assert json.loads(call(*call_it, "--json").out)["accuracy"] is None


def test_nothing_that_can_be_scored_is_an_error(home: Path, tmp_path: Path) -> None:
    root = make_ucf101(tmp_path, classes=CLASSES, frames=10)
    for path in root.rglob("*.avi"):
        path.write_bytes(b"RIFF")
    done = call(home / "run", "--dataset", "ucf101", "--root", root, "-o", tmp_path / "x.npz")
    assert done.code == 1
    assert "no video could be scored, of 2" in done.err


@pytest.mark.slow
def test_torchrun_writes_the_same_bytes(home: Path, tmp_path: Path) -> None:
    """With torchrun's one thread per process, and one process's threads without it."""
    here = Path(__file__).parents[1]
    path = os.pathsep.join([str(here), str(here.parent), os.environ.get("PYTHONPATH", "")])
    script = str(here / "narrow_cli.py")
    for name, start in (
        ("one.npz", [sys.executable]),
        ("two.npz", [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]),
    ):
        arguments = [home / "run", "--dataset", "ucf101", "--root", home / "UCF-101", "-o", tmp_path / name]
        subprocess.run(
            [*start, script, "evaluate", *map(str, arguments)],
            check=True,
            timeout=PATIENCE,
            env=os.environ | {"PYTHONPATH": path},
        )
    assert (tmp_path / "one.npz").read_bytes() == (tmp_path / "two.npz").read_bytes()
