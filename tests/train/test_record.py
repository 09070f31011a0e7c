"""Labels and the record of training in a weights file, and files that lie about them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from i3d_making import make_i3d, narrowed
from safetensors.torch import save_file

from fasti3d import I3D
from fasti3d.train import TrainingRecord, read_record
from fasti3d.weights import Checkpoint, WeightsError, convert, load
from fasti3d.weights.checkpoint import write_checkpoint

pytestmark = pytest.mark.usefixtures("narrow")

CLASSES = ("apply", "äpfel", "a b", "\udcff")
RECORD = TrainingRecord("ucf101", "train", 2, "rgb", CLASSES, steps=7, listed=9, found=8, accuracy=0.5)


def checkpoint() -> Checkpoint:
    state = dict(make_i3d(4).state_dict())
    return Checkpoint(state, "pytorch-i3d", "here", "0" * 64, 4, 3, CLASSES, RECORD.as_json())


def hostile(path: Path, noted: object) -> Path:
    text = noted if isinstance(noted, str) else json.dumps(noted)
    save_file(make_i3d(4).state_dict(), path, {"fasti3d": text})
    return path


def test_weights_bring_their_labels_and_their_record(tmp_path: Path) -> None:
    path = tmp_path / "best.safetensors"
    write_checkpoint(checkpoint(), path)
    assert I3D(4, weights=path).labels == CLASSES
    assert read_record(path) == read_record(tmp_path) == RECORD
    converted = convert(path, tmp_path / "again.safetensors")
    assert converted.read_bytes() == path.read_bytes()


def test_files_of_others_have_no_record(tmp_path: Path) -> None:
    save_file(make_i3d(4).state_dict(), tmp_path / "x.safetensors")
    (tmp_path / "x.pt").write_bytes(b"\x80\x02no weights at all")
    (tmp_path / "short").write_bytes(b"abc")
    for name in ("x.safetensors", "x.pt", "short"):
        assert read_record(tmp_path / name) is None
    with pytest.raises(WeightsError, match=r"holds neither best\.safetensors nor last\.safetensors"):
        read_record(tmp_path)
    with pytest.raises(WeightsError, match=r"nothing\.pt cannot be read: No such file"):
        read_record(tmp_path / "nothing.pt")


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (["a", "b", "c"], "names 3 classes, and its classifier has 4"),
        ("kinetics-400", "names 400 classes, and its classifier has 4"),
        ("kinetics-600", "labels must be a list of names"),
        (["a", "b", "c", 4], "labels must be a list of names"),
        ({"a": 0}, "labels must be a list of names"),
        (["a", "b", "c", "\ud800"], "labels must be a list of names"),
        (7, "labels must be a list of names"),
    ],
)
def test_labels_that_are_not_those_of_the_weights(labels: object, message: str, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=message):
        load(hostile(tmp_path / "x.safetensors", {"labels": labels}))


@pytest.mark.parametrize(
    "noted",
    [
        "[" * 100_000,
        {"training": [1]},
        {"training": "ucf101"},
        {"labels": list(CLASSES), "training": {}},
        {"training": RECORD.as_json()},
        *(
            {"labels": list(CLASSES), "training": RECORD.as_json() | wrong}
            for wrong in (
                {"split": "2"},
                {"split": True},
                {"stream": "depth"},
                {"dataset": None},
                {"steps": 1.5},
                {"accuracy": "high"},
            )
        ),
    ],
)
def test_damaged_records(noted: object, tmp_path: Path) -> None:
    path = hostile(tmp_path / "x.safetensors", noted)
    with pytest.raises(WeightsError, match=r"x\.safetensors: its .*(damaged|deep)"):
        read_record(path)


def test_a_record_is_read_without_torch(tmp_path: Path) -> None:
    with narrowed():
        write_checkpoint(checkpoint(), tmp_path / "best.safetensors")
    code = (
        "import sys; from fasti3d.train import read_record; "
        "print(read_record(sys.argv[1]).split, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True)
    assert done.stdout.split() == ["2", "False"], done.stderr
