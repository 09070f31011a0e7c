"""The file of scores, and the part files before it is complete: whole, exact, and safe to read."""

from __future__ import annotations

import io
import json
import math
import os
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scores_making import make_scores

from fasti3d.train.evaluation import ScoresError, read_scores
from fasti3d.train.evaluation.parts import PartsFolder, read_logits
from fasti3d.train.evaluation.scores import save_scores

SCORES = make_scores(
    [[[1, 2, 3], [4, 5, 6]], [[math.nan] * 3] * 2, [[0, 0.5, -1e30], [1, 1, 1]]],
    [2, -1, 0],
    keys=("a/ö [1]", "b c", "-\udcff"),
    failed=("", "is broken; # 1", ""),
    missing=("gone/away",),
)


def test_what_is_written_is_read_and_by_numpy_alone(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    save_scores(path, SCORES)
    found = read_scores(path)
    for name in ("header", "classes", "keys", "failed", "missing"):
        assert getattr(found, name) == getattr(SCORES, name)
    assert np.array_equal(found.labels, SCORES.labels)
    assert np.array_equal(found.logits, SCORES.logits, equal_nan=True)
    assert found.title == "ucf101 split 1, test"
    assert found.listed == 4
    with np.load(path, allow_pickle=False) as arrays:
        assert set(arrays) == {"fasti3d_scores", "classes", "keys", "labels", "logits", "failed", "missing"}
        assert arrays["logits"].shape == (3, 2, 3)
        assert json.loads(str(arrays["fasti3d_scores"])) == SCORES.header
    again = tmp_path / "y.npz"
    os.utime(path, (1e9, 1e9))
    save_scores(again, found)
    assert again.read_bytes() == path.read_bytes()
    assert [member.date_time[0] for member in zipfile.ZipFile(path).infolist()] == [1980] * 7


def changed(tmp_path: Path, **arrays: Any) -> Path:
    """The file with some of its arrays replaced, None to leave one out."""
    save_scores(tmp_path / "good.npz", SCORES)
    with np.load(tmp_path / "good.npz") as good:
        everything = dict(good) | arrays
    path = tmp_path / "changed.npz"
    np.savez(path, **{name: value for name, value in everything.items() if value is not None})
    return path


def header(**changes: Any) -> Any:
    return np.array(json.dumps(SCORES.header | changes))


@pytest.mark.parametrize(
    "arrays",
    [
        {"fasti3d_scores": None},
        {"logits": None},
        {"fasti3d_scores": np.array("{")},
        {"fasti3d_scores": np.array("[" * 5000)},
        {"fasti3d_scores": np.array("[1]")},
        {"fasti3d_scores": np.zeros(3)},
        {"fasti3d_scores": header(format=2)},
        {"fasti3d_scores": header(stream=None)},
        {"fasti3d_scores": header(dataset={"name": "ucf101"})},
        {"labels": np.array([2, -1, 3])},
        {"labels": np.array([2, -2, 0])},
        {"labels": np.array([2.0, -1.0, 0.0])},
        {"labels": np.array([2, -1])},
        {"keys": np.array(["a", "b", "a"])},
        {"keys": np.array(["a", "b"])},
        {"keys": np.array([b"a", b"b", b"c"])},
        {"failed": np.array(["", "", ""])},
        {"failed": np.array(["", ""])},
        {"failed": np.array(["is broken", "is broken", ""])},
        {"classes": np.array(["one"])},
        {"logits": np.zeros((3, 2, 3))},
        {"logits": np.zeros((3, 3), np.float32)},
        {"logits": np.zeros((3, 0, 3), np.float32)},
        {"logits": np.array([None], object)},
    ],
    ids=str,
)
def test_files_that_hold_something_else(tmp_path: Path, arrays: dict[str, Any]) -> None:
    path = changed(tmp_path, **arrays)
    with pytest.raises(ScoresError) as caught:
        read_scores(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def test_files_that_are_cut_off_foreign_or_not_there(tmp_path: Path) -> None:
    save_scores(tmp_path / "good.npz", SCORES)
    data = (tmp_path / "good.npz").read_bytes()
    path = tmp_path / "bad.npz"
    for cut in (0, 1, 100, len(data) // 2, len(data) - 1):
        path.write_bytes(data[:cut])
        with pytest.raises(ScoresError, match="bad"):
            read_scores(path)
    path.write_bytes(b"\x93NUMPY" + data)
    flipped = bytearray(data)
    flipped[data.index(b"a\0\0\0/\0\0\0")] ^= 1  # the checksum of the keys says so
    path.write_bytes(flipped)
    with pytest.raises(ScoresError, match="CRC"):
        read_scores(path)
    for wrong in (tmp_path / "nothing.npz", tmp_path):
        with pytest.raises(ScoresError, match="cannot be read"):
            read_scores(wrong)
    os.mkfifo(tmp_path / "pipe.npz")
    with pytest.raises(ScoresError, match="named pipe"):
        read_scores(tmp_path / "pipe.npz")


def test_a_bomb_is_not_unpacked(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("fasti3d_scores.npy", bytes(200 << 20))
    (tmp_path / "bomb.npz").write_bytes(buffer.getvalue())
    with pytest.raises(ScoresError, match="declares"):
        read_scores(tmp_path / "bomb.npz")


def test_parts_survive_a_cut_at_any_byte(tmp_path: Path) -> None:
    folder = PartsFolder(tmp_path / "parts")
    folder.path.mkdir()
    folder.begin({"views": "full"})
    rows = np.arange(6, dtype=np.float32).reshape(2, 3)
    with folder.writer(0) as writer:
        writer.add("a", {"bytes": 1}, rows, "")
        writer.add("b", {"bytes": 2}, None, "is broken")
        writer.add("c", {}, rows + 1, "")
    path = folder.path / "rank00000.part"
    data = path.read_bytes()
    assert [part.key for part in folder.parts()] == ["a", "b", "c"]
    ends = [part.offset + part.nbytes for part in folder.parts()]
    for cut in range(len(data)):
        path.write_bytes(data[:cut])
        whole = [key for key, end in zip("abc", ends, strict=True) if end <= cut]
        assert [part.key for part in folder.parts()] == whole
    # What is appended follows the last whole record.
    path.write_bytes(data[: ends[1] + 7])
    with folder.writer(0) as writer:
        writer.add("d", {}, rows + 2, "")
    with folder.writer(3) as writer:
        writer.add("e", {}, rows + 3, "")
    found = {part.key: part for part in folder.parts()}
    assert list(found) == ["a", "b", "d", "e"]
    assert found["b"].reason == "is broken"
    assert np.array_equal(read_logits(found["d"], (2, 3)), rows + 2)
    # Parts of another recipe are removed.
    folder.begin({"views": "full"})
    assert len(list(folder.parts())) == 4
    folder.begin({"views": "1x1"})
    assert list(folder.parts()) == []


def test_no_videos_at_all(tmp_path: Path) -> None:
    empty = replace(
        SCORES, keys=(), failed=(), labels=SCORES.labels[:0], logits=SCORES.logits[:0], missing=("a",) * 4
    )
    save_scores(tmp_path / "x.npz", empty)
    assert read_scores(tmp_path / "x.npz").keys == ()
