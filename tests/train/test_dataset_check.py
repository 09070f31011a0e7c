"""``fasti3d dataset check``: what it says, and how it ends."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from dataset_making import (
    make_folder,
    make_hmdb51,
    make_kinetics,
    make_ucf101,
    ucf101_name,
    video_bytes,
    write,
)
from typer.testing import CliRunner, Result

from fasti3d.cli import app


def check(dataset: str, root: Path | None, *options: object) -> Result:
    call = ["dataset", "check", "--dataset", dataset]
    call += [] if root is None else ["--root", str(root)]
    return CliRunner().invoke(app, [*call, *map(str, options)])


def assert_one_line(result: Result, said: str) -> None:
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    assert said in result.stderr


@pytest.mark.parametrize("split", [1, 3])
def test_a_whole_set(tmp_path: Path, split: int) -> None:
    result = check("ucf101", make_ucf101(tmp_path, frames=2), "--split", split)
    assert result.exit_code == 0, result.output
    assert "train: 12 listed, 12 found, 0 unreadable" in result.stdout
    assert "test: 4 listed, 4 found, 0 unreadable" in result.stdout
    assert f"split {split}: 4 classes" in result.stdout
    assert "unlisted" not in result.stdout


def test_missing_unreadable_broken_and_unlisted(tmp_path: Path) -> None:
    root = make_ucf101(tmp_path, groups=8, frames=60)
    (root / ucf101_name("Hammering", 5, 1)).unlink()
    write(root / "Hammering" / "mine.avi", video_bytes(2))
    write(root / ucf101_name("Hammering", 1, 1), b"\0" * 99)
    cut = root / ucf101_name("HammerThrow", 6, 1)
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size * 3 // 4])
    result = check("ucf101", root)
    assert result.exit_code == 1
    for line in (
        "train: 24 listed, 23 found, 0 unreadable, 1 broken",
        "test: 8 listed, 8 found, 1 unreadable, 0 broken",
        "train, missing: 1",
        "  Hammering/v_Hammering_g05_c01",
        "test, unreadable: 1",
        "unlisted: 1",
        "  Hammering/mine.avi",
    ):
        assert line in result.stdout.splitlines()
    assert "HammerThrow/v_HammerThrow_g06_c01: is cut off" in result.stdout


def test_only_what_is_listed_must_be_there(tmp_path: Path) -> None:
    root = make_ucf101(tmp_path, frames=60)
    write(root / "Hammering" / "mine.avi", b"not even a video")
    cut = root / ucf101_name("HammerThrow", 2, 1)
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size * 3 // 4])
    assert check("ucf101", root).exit_code == 0
    write(root / ucf101_name("Hammering", 1, 1), b"\0" * 99)
    assert check("ucf101", root).exit_code == 1


def test_many_missing_are_counted_with_five_examples(tmp_path: Path) -> None:
    root = make_ucf101(tmp_path, groups=12, frames=2)
    for group in range(4, 12):
        (root / ucf101_name("Hammering", group, 1)).unlink()
    lines = check("ucf101", root).stdout.splitlines()
    start = lines.index("train, missing: 8")
    assert lines[start + 5] == "  Hammering/v_Hammering_g08_c01"
    assert lines[start + 6] == "  and 3 more"


def test_hmdb51_repacked(tmp_path: Path) -> None:
    root = make_hmdb51(tmp_path, frames=2)
    for path in sorted(root.glob("*/*")):
        path.rename(path.with_name("".join(c if c.isalnum() or c in "._" else "_" for c in path.name)))
    result = check("hmdb51", root)
    assert result.exit_code == 0
    assert "note: 25 found by a normalized name" in result.stdout


def test_kinetics_prints_the_names_of_its_list(tmp_path: Path) -> None:
    root = make_kinetics(tmp_path, frames=2)
    shutil.rmtree(root / "val" / "hurling_(sport)")
    result = check("kinetics400", root)
    assert result.exit_code == 1
    assert "train: 12 listed, 12 found" in result.stdout
    assert "val: 4 listed, 3 found" in result.stdout
    shutil.rmtree(root / "val")
    result = check("kinetics400", root)
    assert (result.exit_code, "val: 4 listed, 0 found" in result.stdout) == (1, True)
    shutil.rmtree(root / "train" / "hurling_(sport)")
    assert_one_line(check("kinetics400", root), "'hurling (sport)'")


def test_lists_and_folders(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "a", frames=2)
    names = write(tmp_path / "l.txt", "cat/v0.avi 0\ndog/v0.avi 1\ndog/gone.avi 1\n")
    result = check("list", root, "--list", names)
    assert result.exit_code == 1
    assert "train: 3 listed, 2 found" in result.stdout
    assert "unlisted: 8" in result.stdout
    result = check("folder", root, "--holdout", 0.2)
    assert result.exit_code == 0
    assert "train: 8 listed, 8 found" in result.stdout
    assert "val: 2 listed, 2 found" in result.stdout
    assert check("folder", root).exit_code == 0


def test_one_subset_alone(tmp_path: Path) -> None:
    root = make_kinetics(tmp_path / "k", frames=2)
    shutil.rmtree(root / "train")
    assert check("kinetics400", root, "--subset", "val").exit_code == 0
    result = check("kinetics400", root, "--annotations", root / "annotations" / "val.csv")
    assert (result.exit_code, "train" in result.stdout) == (0, False)
    write(tmp_path / "videos" / "a.avi", video_bytes(2))
    tests = write(tmp_path / "l.txt", "a.avi 1\n")  # a test list need not have every class
    assert_one_line(check("list", tmp_path / "videos", "--list", tests), "1 of 2 classes")
    assert check("list", tmp_path / "videos", "--list", tests, "--subset", "test").exit_code == 0


def test_frames_that_repeat_are_noted(tmp_path: Path) -> None:
    root = tmp_path
    for name in ("cat", "dog"):
        write(root / name / "v.avi", video_bytes(20, rate=10))
    assert "60% of the train frames" in check("folder", root).stdout
    assert "repeat the one" not in check("folder", make_folder(tmp_path / "b", frames=9)).stdout


def test_what_is_wrong_is_said_in_one_line(tmp_path: Path) -> None:
    root = make_ucf101(tmp_path, frames=2)
    (tmp_path / "empty").mkdir()
    assert_one_line(check("ucf", root), "ucf101, hmdb51")
    assert_one_line(check("ucf101", root, "--split", 4), "1, 2, 3")
    assert_one_line(check("ucf101", None), "--root")
    assert_one_line(check("ucf101", tmp_path / "nowhere"), "nowhere")
    assert_one_line(check("ucf101", tmp_path / "empty"), "holds no videos")
    assert_one_line(check("hmdb51", root), "lists of HMDB-51 are missing")
    assert_one_line(check("list", root, "--list", root / ucf101_name("Hammering", 1, 1)), "is binary")
    assert_one_line(check("folder", root, "--group", "x"), "--holdout")
    lists = tmp_path / "ucfTrainTestlist"
    shutil.copy(root / ucf101_name("Hammering", 1, 1), lists / "trainlist01.txt")
    assert_one_line(check("ucf101", root), "is binary")
    (lists / "trainlist01.txt").unlink()
    assert_one_line(check("ucf101", root), "trainlist01.txt is missing")


def test_names_that_would_be_markup_or_control_a_terminal(tmp_path: Path) -> None:
    root = make_folder(tmp_path, classes=("[bold]cat", "d\x1bog"), videos=1, frames=2)
    write(root / "[bold]cat" / "v0.avi", b"")
    result = check("folder", root)
    assert result.exit_code == 1
    assert "[bold]cat/v0: is empty" in result.stdout
    assert "\x1b" not in result.stdout
