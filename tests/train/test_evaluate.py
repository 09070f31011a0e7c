"""Testing a network on a data set: every video once, in any number of processes, also after kills."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from dataset_making import make_kinetics, make_ucf101
from i3d_making import make_i3d
from killing import killed_everywhere
from torch import Tensor
from waiting import PATIENCE

from fasti3d.extraction.rows import Watch
from fasti3d.train import TrainingRecord
from fasti3d.train.data import Video, VideoDataset, open_dataset
from fasti3d.train.data.index import index
from fasti3d.train.evaluation import (
    VIEWS,
    EvaluationError,
    FlowSource,
    Scorer,
    ScoresError,
    evaluate,
    measure,
    quick,
    read_scores,
)
from fasti3d.video import VideoError
from fasti3d.weights import KINETICS_400_LABELS, Checkpoint
from fasti3d.weights.checkpoint import write_checkpoint

pytestmark = pytest.mark.usefixtures("narrow")
HERE = Path(__file__).parent
CLASSES = ("Apply", "Hammering", "HammerThrow", "HandstandPushups", "JumpingJack", "JumpRope", "YoYo")
RECORD = TrainingRecord("ucf101", "train", 1, "rgb", CLASSES)


def save_weights(
    path: Path,
    labels: tuple[str, ...] | None = CLASSES,
    record: TrainingRecord | None = RECORD,
    *,
    classes: int = 7,
    channels: int = 3,
) -> Path:
    state = dict(make_i3d(classes, channels).state_dict())
    training = None if record is None else record.as_json()
    write_checkpoint(
        Checkpoint(state, "pytorch-i3d", "", "0" * 64, classes, channels, labels, training), path
    )
    return path


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, narrow: None) -> Path:
    """``UCF-101``, with 7 test videos in split 1 of which one is broken, and ``run`` with weights."""
    folder = tmp_path_factory.mktemp("home")
    root = make_ucf101(folder, classes=CLASSES, frames=10)
    broken = next((root / "HammerThrow").glob("*_g01_*"))
    broken.write_bytes(broken.read_bytes()[:40])
    (folder / "run").mkdir()
    save_weights(folder / "run" / "best.safetensors")
    return folder


def dataset(home: Path, **changes: Any) -> VideoDataset:
    return open_dataset("ucf101", home / "UCF-101", **({"subset": "test", "split": 1} | changes))


def stub(scorer: Scorer, video: Video, watch: Watch | None = None, known: object = None) -> Tensor:
    """Numbers that depend on the video's name only."""
    if "HammerThrow" in video.key:
        raise VideoError(video.path, "is broken")
    digest = hashlib.sha256(video.key.encode()).digest()
    return torch.tensor(list(digest[: 7 * scorer.views.count])).float().reshape(scorer.views.count, 7)


@pytest.fixture
def stubbed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Scorer, "__call__", stub)


RANKS = """
import os, sys
sys.path[:0] = {paths!r}
import torch
from i3d_making import make_i3d, narrowed
from fasti3d.train.data import open_dataset
from fasti3d.train.evaluation import evaluate, quick
from fasti3d.train.evaluation import scoring, views

root, weights, out, port = sys.argv[1:]

def work(rank, world, name):
    os.environ |= dict(RANK=str(rank), WORLD_SIZE=str(world), MASTER_ADDR="localhost")
    os.environ["MASTER_PORT"] = str(int(port) + world)
    torch.set_num_threads({{1: 2, 2: 1, 3: 3}}[world])
    test = open_dataset("ucf101", root, subset="test", split=1)
    with narrowed():
        found = evaluate(weights, test, name)
        assert (found is None) == (rank > 0)
        scoring.CLIP_FRAMES = views.CLIP_FRAMES = 9
        os.write(1, f"{{quick(make_i3d(7), test)}}\\n".encode())

for world in (1, 2, 3):
    children = []
    for rank in range(world):
        children.append(os.fork())
        if not children[-1]:
            try:
                work(rank, world, f"{{out}}/{{world}}.npz")
            except BaseException:
                import traceback
                traceback.print_exc()
                os.killpg(0, 9)  # the others would wait for it
            os._exit(0)
    for child in children:
        assert os.waitpid(child, 0)[1] == 0, world
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.skipif(not torch.distributed.is_available(), reason="this torch has no distributed")
def test_one_two_and_three_processes_write_the_same_bytes(home: Path, tmp_path: Path) -> None:
    program = RANKS.format(paths=[str(HERE.parent), str(HERE.parents[1])])
    port = 20_000 + os.getpid() % 20_000
    arguments = [home / "UCF-101", home / "run", tmp_path, port]
    done = subprocess.run(
        [sys.executable, "-c", program, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        start_new_session=True,
        env=os.environ | {"GLOO_SOCKET_IFNAME": "lo"},
    )
    assert done.returncode == 0, done.stderr
    first = tmp_path / "1.npz"
    assert first.read_bytes() == (tmp_path / "2.npz").read_bytes() == (tmp_path / "3.npz").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1.npz", "2.npz", "3.npz"]
    scores = read_scores(first)
    test = dataset(home)
    assert scores.keys == tuple(video.key for video in test.videos)
    assert [bool(reason) for reason in scores.failed] == ["HammerThrow" in key for key in scores.keys]
    assert scores.labels.tolist() == list(range(7))
    video = test.videos[0]
    assert torch.equal(torch.from_numpy(scores.logits[0]), Scorer(make_i3d(7), "rgb", VIEWS["full"])(video))
    accuracies = done.stdout.splitlines()
    assert len(accuracies) == 6
    assert len(set(accuracies)) == 1
    assert "videos=7, failed=1" in accuracies[0]


WORK = """
import sys
sys.path[:0] = {paths!r}
from i3d_making import narrowed
from test_evaluate import Scorer, stub, dataset, evaluate, Path
import torch.distributed
Scorer.__call__ = stub
home = Path(sys.argv[1])

def work(folder):
    with narrowed():
        evaluate(home / "run", dataset(home), Path(folder) / "x.npz", views="1x1", workers=1)
    return 0
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_killed_at_any_file_and_called_again_it_writes_the_same_bytes(home: Path, tmp_path: Path) -> None:
    program = WORK.format(paths=[str(HERE), str(HERE.parent), str(HERE.parents[1])])
    (*killed, undisturbed), codes = killed_everywhere(program, tmp_path, home)["all"]
    assert len(killed) >= 8
    assert set(codes) == {0}
    wanted = (undisturbed / "x.npz").read_bytes()
    for folder in killed:
        assert (folder / "x.npz").read_bytes() == wanted, folder.name
        assert [path.name for path in folder.iterdir()] == ["x.npz"]


@pytest.mark.usefixtures("stubbed")
def test_work_goes_on_with_what_is_missing_or_changed(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(home / "UCF-101", tmp_path / "UCF-101", copy_function=os.link)
    shutil.copytree(home / "ucfTrainTestlist", tmp_path / "ucfTrainTestlist")
    test, out = dataset(tmp_path), tmp_path / "x.npz"
    seen: list[str] = []

    def stopping(scorer: Scorer, video: Video, *rest: Any) -> Tensor:
        seen.append(video.key)
        if len(seen) == 5:
            raise KeyboardInterrupt
        return stub(scorer, video)

    monkeypatch.setattr(Scorer, "__call__", stopping)
    with pytest.raises(KeyboardInterrupt):
        evaluate(home / "run", test, out, views="1x1", workers=1)
    assert not out.exists()
    os.utime(test.videos[1].path, (1, 1))  # linked, so that the other tests' videos are as new, too
    done = [key for key in seen[:4] if "HammerThrow" not in key and key != test.videos[1].key]
    assert len(done) == 2
    steps: list[tuple[int, int]] = []
    seen += ["", ""]
    found = evaluate(
        home / "run", test, out, views="1x1", workers=1, progress=lambda *step: steps.append(step)
    )
    assert sorted(seen[7:]) == sorted({video.key for video in test.videos}.difference(done))
    assert steps[0] == (3, 7)
    assert steps[-1] == (7, 7)
    count = len(seen)
    again = evaluate(home / "run", test, out, views="1x1")
    assert len(seen) == count
    assert found is not None
    assert again is not None
    assert np.array_equal(again.logits, found.logits, equal_nan=True)
    assert [path.name for path in tmp_path.glob(".x*")] == []
    evaluate(home / "run", test, out, views="1x1", overwrite=True)
    assert len(seen) == count + 7


@pytest.mark.usefixtures("stubbed")
def test_scores_that_were_made_otherwise_are_kept(home: Path, tmp_path: Path) -> None:
    out = tmp_path / "x.npz"
    evaluate(home / "run", dataset(home), out, views="1x1")
    before = out.read_bytes()
    with pytest.raises(EvaluationError, match=r"views 1x1 there and full now.*--overwrite"):
        evaluate(home / "run", dataset(home), out)
    with pytest.raises(EvaluationError, match=r"dataset\.subset test there and train now"):
        evaluate(home / "run", dataset(home, subset="train"), out, views="1x1")
    fewer = dataset(home)
    gone = replace(fewer.coverage, missing=(fewer.videos[-1].key,))
    fewer = replace(fewer, videos=fewer.videos[:-1], coverage=gone)
    with pytest.raises(EvaluationError, match="7 videos there and 6 now"):
        evaluate(home / "run", fewer, out, views="1x1")
    assert out.read_bytes() == before
    parts = tmp_path / ".y.npz.parts"
    parts.mkdir()
    (parts / "recipe.json").write_text(json.dumps({"views": "10x3"}))
    with pytest.raises(EvaluationError, match="holds unfinished scores that were made otherwise"):
        evaluate(home / "run", dataset(home), tmp_path / "y.npz", views="1x1")
    evaluate(home / "run", dataset(home), tmp_path / "y.npz", views="1x1", overwrite=True)
    assert (tmp_path / "y.npz").read_bytes() == before
    out.write_bytes(b"PK junk")
    with pytest.raises(ScoresError, match="holds no scores that can be read"):
        evaluate(home / "run", dataset(home), out, views="1x1")


@pytest.mark.usefixtures("stubbed")
def test_weights_of_other_classes_or_another_split(home: Path, tmp_path: Path) -> None:
    test, out = dataset(home), tmp_path / "x.npz"

    def refused(file: Path, said: str, **more: Any) -> None:
        with pytest.raises(EvaluationError) as caught:
            evaluate(file, more.pop("test", test), out, **more)
        assert said in str(caught.value)
        assert "\n" not in str(caught.value)
        assert list(tmp_path.glob(".x*")) == []
        assert not out.exists()

    path = tmp_path / "w.safetensors"
    swapped = (CLASSES[0], CLASSES[2], CLASSES[1], *CLASSES[3:])
    refused(
        save_weights(path, swapped),
        "(the same names in another order): class 1 is 'HammerThrow' in the weights and 'Hammering' in the",
    )
    refused(
        save_weights(path, CLASSES[:6], classes=6), "(6 and 7): class 6 is missing in the weights and 'Yo"
    )
    others = tuple(f"class {i}" for i in range(7))
    refused(save_weights(path, others), "(other names): class 0 is 'class 0' in the weights and 'App")
    refused(path, "; and 4 more")
    refused(save_weights(path, None, None, classes=9), "9 classes, and the data set has 7")
    save_weights(path, CLASSES, replace(RECORD, split=2))
    refused(path, "trained on split 2 of ucf101")
    refused(path, "--split 2, or --any-split")
    refused(home / "run", "trained on split 1", test=dataset(home, split=3))
    refused(home / "run", "the weights are of RGB", flow=FlowSource(tmp_path))
    assert evaluate(path, test, out, any_split=True) is not None
    out.unlink()
    # Another data set with its classes, and weights that do not say what they were trained on.
    save_weights(path, CLASSES, replace(RECORD, dataset="folder", split=None))
    assert evaluate(path, test, out) is not None
    out.unlink()
    assert evaluate(save_weights(path, None, None), test, out) is not None
    for name in ("x.csv", "gone/x.npz"):
        with pytest.raises((ValueError, OSError), match=r"\.npz|is not a folder"):
            evaluate(path, test, tmp_path / name)
    with pytest.raises(ValueError, match="workers must be at least 1"):
        evaluate(path, test, out, workers=0)
    with pytest.raises(ValueError, match="views must be one of full, 1x1, 10x3"):
        evaluate(path, test, out, views="30")


def test_kinetics_by_names_and_lists_without_labels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    classes = ("zumba", "abseiling", "air drumming")
    root = make_kinetics(tmp_path, classes=classes)
    weights = save_weights(tmp_path / "w.safetensors", KINETICS_400_LABELS, None, classes=400)
    monkeypatch.setattr(Scorer, "__call__", lambda self, video, *rest: torch.eye(400)[399:])
    test = open_dataset("kinetics400", root, subset="val")
    assert test.classes == ("abseiling", "air drumming", "zumba")
    scores = evaluate(weights, test, tmp_path / "x.npz")
    assert scores is not None
    assert scores.classes == KINETICS_400_LABELS
    assert sorted(scores.labels) == [KINETICS_400_LABELS.index(name) for name in sorted(classes)]
    found = measure(scores.averaged(), scores.labels)
    assert found is not None
    assert found.top1 == pytest.approx(1 / 3)
    assert found.classes_with_videos == 3
    no_labels = replace(test, videos=tuple(replace(video, label=None) for video in test.videos))
    scores = evaluate(weights, no_labels, tmp_path / "y.npz")
    assert scores is not None
    assert scores.labels.tolist() == [-1, -1, -1]
    assert measure(scores.averaged(), scores.labels) is None
    assert np.isfinite(scores.logits).all()


@pytest.mark.usefixtures("stubbed")
def test_lists_and_folders(home: Path, tmp_path: Path) -> None:
    lines = [f"{video.path} {video.label}" for video in dataset(home).videos]
    (tmp_path / "list.txt").write_text("\n".join(lines[:6]))
    some = open_dataset("list", list=tmp_path / "list.txt", subset="test")
    scores = evaluate(home / "run", some, tmp_path / "list.npz")
    assert scores is not None
    assert scores.classes == CLASSES
    assert scores.labels.tolist() == [0, 1, 2, 3, 4, 5]
    (tmp_path / "long.txt").write_text("\n".join([*lines, f"{lines[0][:-2]}.mp4 7"]))
    long = open_dataset("list", list=tmp_path / "long.txt", subset="test")
    with pytest.raises(EvaluationError, match="of 7 classes, and the data set has 8"):
        evaluate(home / "run", long, tmp_path / "long.npz")
    ordered = tuple(sorted(CLASSES))
    weights = save_weights(tmp_path / "w.safetensors", ordered, replace(RECORD, dataset="folder", split=None))
    folder = open_dataset("folder", home / "UCF-101", subset="train")
    scores = evaluate(weights, folder, tmp_path / "folder.npz")
    assert scores is not None
    assert len(scores.keys) == 28
    with pytest.raises(EvaluationError, match="the same names in another order"):
        evaluate(home / "run", folder, tmp_path / "other.npz")


def test_quick_trusts_the_index(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    test = dataset(home)
    known = index(test)
    asked: list[tuple[str, object]] = []

    def answer(scorer: Scorer, video: Video, watch: Watch, survey: object) -> Tensor:
        asked.append((video.key, survey))
        return torch.eye(7)[None, 3]

    monkeypatch.setattr(Scorer, "__call__", answer)
    model = make_i3d(7).train()
    found = quick(model, test, known)
    assert {key for key, _ in asked} == {video.key for video in test.videos if "HammerThrow" not in video.key}
    assert all(survey is known.info[key] for key, survey in asked)
    assert model.training
    assert (found.videos, found.failed) == (7, 1)
    assert found.top1 == found.mean_class == pytest.approx(1 / 7)
    assert found.top5 == pytest.approx(4 / 7)  # 3, then 0, 1 and 2, which failed, and 4
    log_sum = np.log(np.e + 6)
    assert found.loss == pytest.approx((5 * log_sum + log_sum - 1) / 6)
    with pytest.raises(ValueError, match="no labeled videos"):
        quick(model, replace(test, videos=(replace(test.videos[0], label=None),)))
    with pytest.raises(ValueError, match="model has 7 classes, and the data set 3"):
        quick(model, replace(test, classes=CLASSES[:3]))
