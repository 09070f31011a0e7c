"""``fasti3d finetune``: a run of the whole command, how it goes on, and what it refuses."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from click.testing import Result
from dataset_making import CLASSES, make_ucf101
from safetensors.torch import save_file
from short_clips import shortened
from typer.testing import CliRunner
from waiting import PATIENCE

from fasti3d import I3D
from fasti3d.cli import app
from fasti3d.train import TrainingRecord, read_record
from fasti3d.weights import Checkpoint, load
from fasti3d.weights.checkpoint import write_checkpoint

Command = Callable[..., Result]
QUICK = (
    "--steps",
    2,
    "--batch",
    2,
    "--workers",
    0,
    "--freeze",
    "trunk",
    "--device",
    "cpu",
    "--weights",
    "scratch",
)


@pytest.fixture(autouse=True, scope="module")
def _small() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with shortened():
        yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """UCF-101 with 12 training and 4 test videos of four classes."""
    return make_ucf101(tmp_path_factory.mktemp("ucf101"))


@pytest.fixture
def command(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    """Runs the command on that data set, in a folder of its own."""
    monkeypatch.setenv("FASTI3D_HOME", str(tmp_path / "home"))

    def call(
        *options: object, dataset: tuple[object, ...] = ("--dataset", "ucf101", "--root", root)
    ) -> Result:
        return CliRunner().invoke(app, ["finetune", *map(str, dataset), *map(str, options)])

    return call


def flat(result: Result) -> str:
    """The error of a call, in one line: typer draws boxes around usage errors."""
    return " ".join(result.stderr.replace("│", " ").split())


def test_a_run_and_its_folder(command: Command, tmp_path: Path) -> None:
    out = tmp_path / "new" / "run"
    done = command(*QUICK, "-o", out)
    assert done.exit_code == 0, done.stderr
    assert "the classifier of 4 classes starts untrained" in done.stderr
    assert "2 steps" in done.stdout
    names = {"best.safetensors", "config.json", "curve.png", "last.pt", "last.safetensors", "log.csv"}
    assert {path.name for path in out.iterdir() if path.is_file()} - {"curve.png"} == names - {"curve.png"}
    record = read_record(out)
    assert record is not None
    assert (record.dataset, record.split, record.stream, record.classes) == ("ucf101", 1, "rgb", CLASSES)
    assert (record.listed, record.found) == (12, 12)
    model = I3D(weights=out / "best.safetensors")
    assert (model.num_classes, model.labels) == (4, CLASSES)
    # Which tells it from the public weights that a run may start with, whose classifier is replaced unasked.
    assert load(out / "best.safetensors").source == "random numbers, trained on ucf101 split 1"
    config = json.loads((out / "config.json").read_text())
    assert config["command"]["steps"] == 2
    assert config["resolved"]["lr"] == pytest.approx(2 / 384)
    before = (out / "last.pt").stat().st_mtime_ns
    again = command(*QUICK, "-o", out)  # is done already
    assert again.exit_code == 0
    assert (out / "last.pt").stat().st_mtime_ns == before
    other = command(*QUICK, "-o", out, "--lr", "0.5")
    assert other.exit_code == 2
    assert "run of other settings (lr none there and 0.5 now)" in flat(other)
    # The file of the run gives the options, and the command line wins.
    configured = command("--config", out / "config.json", "-o", tmp_path / "other", "--steps", 1, dataset=())
    assert configured.exit_code == 0, configured.stderr
    assert len(list(csv.reader((tmp_path / "other" / "log.csv").open()))) == 3
    command_of = json.loads((tmp_path / "other" / "config.json").read_text())["command"]
    assert {**config["command"], "steps": 1} == command_of


def test_a_dry_run_writes_nothing(command: Command, tmp_path: Path) -> None:
    done = command(*QUICK, "--dry-run", "-o", tmp_path / "run", "--epochs", 5, "--steps", 2)
    assert done.exit_code == 2
    done = command("--dry-run", "--weights", "scratch", "--batch", 2, "--workers", 0, "-o", tmp_path / "run")
    assert done.exit_code == 0, done.stderr
    assert "12 training videos, 0 unreadable" in done.stdout
    assert "5,000 steps of 2 clips, lr 0.0005208, freeze bn" in done.stdout
    assert "a step: data" in done.stdout
    assert "memory: about" in done.stdout
    assert "batch norm's statistics are frozen, as 2 clips" in done.stderr
    assert not (tmp_path / "run").exists()


def test_a_step_on_flow(command: Command) -> None:
    done = command(*QUICK, "--stream", "flow", "--dry-run", "--limit", 2)
    assert done.exit_code == 0, done.stderr
    assert "2 training videos" in done.stdout


def checkpoint(path: Path, classes: int, channels: int = 3, labels: tuple[str, ...] | None = None) -> Path:
    """Weights as those of a run on data of one's own, where they have labels."""
    torch.manual_seed(0)
    state = dict(I3D(classes, channels).state_dict())
    record = TrainingRecord("folder", "train", None, "rgb", labels or ())
    training = None if labels is None else record.as_json()
    write_checkpoint(Checkpoint(state, "pytorch-i3d", "mine", "0", classes, channels, labels, training), path)
    return path


@pytest.mark.parametrize(
    ("classes", "labels", "message"),
    [
        (5, None, "have 5 classes, and the data set has 4"),
        (4, ("a", "b", "c", "d"), "have other classes than the data set (number 1 is a there"),
        (
            4,
            (*CLASSES[:2][::-1], *CLASSES[2:]),
            "the data set's classes in another order (number 1 is Hammering",
        ),
    ],
)
def test_weights_of_other_classes(
    classes: int, labels: tuple[str, ...] | None, message: str, command: Command, tmp_path: Path
) -> None:
    path = checkpoint(tmp_path / "mine.safetensors", classes, labels=labels)
    refused = command(*QUICK, "--weights", path, "-o", tmp_path / "run")
    assert refused.exit_code == 2
    assert message in flat(refused)
    assert "--new-head" in flat(refused)
    assert not (tmp_path / "run").exists()
    meant = command(*QUICK, "--weights", path, "-o", tmp_path / "run", "--new-head", "--dry-run")
    assert meant.exit_code == 0, meant.stderr


def test_pretrained_weights_get_a_classifier(command: Command, tmp_path: Path) -> None:
    save_file(I3D(400).state_dict(), tmp_path / "pretrained.safetensors")
    done = command(*QUICK, "--weights", tmp_path / "pretrained.safetensors", "--dry-run")
    assert done.exit_code == 0, done.stderr
    assert "the classifier of 4 classes starts untrained" in done.stderr


def test_weights_of_the_same_classes_keep_their_classifier(command: Command, tmp_path: Path) -> None:
    path = checkpoint(tmp_path / "mine.safetensors", 4, labels=CLASSES)
    done = command(*QUICK, "--weights", path, "--dry-run")
    assert done.exit_code == 0, done.stderr
    assert "untrained" not in done.stderr


def test_weights_of_the_other_stream(command: Command, tmp_path: Path) -> None:
    save_file(I3D(400, 2).state_dict(), tmp_path / "flow.safetensors")
    done = command(*QUICK, "--weights", tmp_path / "flow.safetensors", "-o", tmp_path / "run")
    assert done.exit_code == 2
    assert "take 2 channels (flow), and stream rgb has 3" in flat(done)
    assert not (tmp_path / "run").exists()


def test_damaged_weights(command: Command, tmp_path: Path) -> None:
    (tmp_path / "x.pt").write_bytes(b"no weights")
    done = command(*QUICK, "--weights", tmp_path / "x.pt", "-o", tmp_path / "run")
    assert done.exit_code == 1
    assert "x.pt: not a weights file" in flat(done)


def folder_of(kind: str, path: Path) -> Path:
    if kind == "file":
        path.write_text("x")
        return path
    if kind == "below a file":
        path.write_text("x")
        return path / "run"
    path.mkdir()
    if kind == "not writable":
        path.chmod(0o500)
        return path / "run"
    (path / ("config.json" if "config" in kind else "photo.jpg")).write_text(
        {"config of others": "[]", "config cut short": '{"settings"', "foreign": "x"}[kind]
    )
    return path


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("file", "is a file: name a folder"),
        ("below a file", "is a file:"),
        ("not writable", "cannot be written to"),
        ("foreign", "holds files, but no config.json"),
        ("config of others", "has no settings"),
        ("config cut short", "is not JSON"),
    ],
)
def test_folders_that_are_no_place_for_a_run(
    kind: str, message: str, command: Command, tmp_path: Path
) -> None:
    if kind == "not writable" and os.geteuid() == 0:
        pytest.skip("root may write anywhere")
    done = command(*QUICK, "-o", folder_of(kind, tmp_path / "there"))
    assert done.exit_code == 2
    assert message in flat(done)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"colour": 1}', "unknown options: colour"),
        ("[1]", "must be an object of options"),
        ("{", "is not JSON"),
        ('{"command": {"batch": "many"}}', "Invalid value for '--batch'"),
        ('{"command": {"lr": -1}}', "lr must be a number above 0"),
    ],
)
def test_wrong_configs(content: str, message: str, command: Command, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(content)
    done = command("--weights", "scratch", "-o", tmp_path / "run", "--config", tmp_path / "config.json")
    assert done.exit_code == 2
    assert message in flat(done)


def test_lists_of_ones_own(command: Command, root: Path, tmp_path: Path) -> None:
    videos = sorted(root.rglob("*.avi"))
    train, other = tmp_path / "train.txt", tmp_path / "val.txt"
    train.write_text("".join(f"{path} {i % 3}\n" for i, path in enumerate(videos[:6])))
    other.write_text("".join(f"{path} {i % 2}\n" for i, path in enumerate(videos[6:8])))
    given = ("--dataset", "list", "--list", train)
    done = command(*QUICK, "--validation-list", other, "-o", tmp_path / "run", dataset=given)
    assert done.exit_code == 0, done.stderr
    record = read_record(tmp_path / "run")
    assert record is not None
    assert record.classes == ("0", "1", "2")
    alone = command(*QUICK, "-o", tmp_path / "alone", dataset=given)
    assert alone.exit_code == 0
    assert "no best weights" in alone.stderr
    assert not (tmp_path / "alone" / "best.safetensors").exists()
    other.write_text(f"{videos[0]} 5\n")
    refused = command(*QUICK, "--validation-list", other, "-o", tmp_path / "more", dataset=given)
    assert refused.exit_code == 2
    assert "other classes than the training list: number 4 of 6 is 3, and there missing" in flat(refused)
    assert not (tmp_path / "more").exists()


def test_too_many_broken_videos(command: Command, tmp_path: Path) -> None:
    root = make_ucf101(tmp_path / "broken")
    next(iter(sorted(root.glob("Hammering/*g02*")))).write_bytes(b"RIFF no video")
    given = ("--dataset", "ucf101", "--root", root)
    done = command(*QUICK, "-o", tmp_path / "run", dataset=given)
    assert done.exit_code == 2
    assert "1 of 12 videos" in flat(done)
    allowed = command(*QUICK, "--max-bad", "10%", "-o", tmp_path / "run", dataset=given)
    assert allowed.exit_code == 0, allowed.stderr


def test_torchrun(root: Path, tmp_path: Path) -> None:
    here = Path(__file__).parent
    path = os.pathsep.join([str(here), str(here.parent), str(here.parents[1])])
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    options = ["finetune", "--dataset", "ucf101", "--root", root, *QUICK, "--steps", 1, "--batch", 1]
    done = subprocess.run(
        [sys.executable, *launch, here / "narrow_command.py", *map(str, options), "-o", tmp_path / "run"],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        env=os.environ | {"PYTHONPATH": path, "GLOO_SOCKET_IFNAME": "lo", "FASTI3D_HOME": str(tmp_path)},
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("starts untrained") == 1  # said once
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["settings"]["global batch"] == 2
    assert config["environment"]["processes"] == 2
    record = read_record(tmp_path / "run")
    assert record is not None
    assert record.accuracy in (0, 0.25, 0.5, 0.75, 1)
