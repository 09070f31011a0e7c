"""How videos are called in messages, and in the names of their outputs."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from fasti3d.utils import naming
from fasti3d.utils.naming import alike, output_name, quoted, shortened


@pytest.mark.parametrize(
    ("name", "output"),
    [
        # Plain names: as they have always been.
        ("a.mp4", "a"),
        ("dir/walk.v2.mp4", "walk.v2"),
        ("a", "a"),
        ("a.", "a."),
        (".hidden", ".hidden"),
        (".hidden.mp4", ".hidden"),
        ("a .mp4", "a "),
        ("x_rgb.mp4", "x_rgb"),
        ("x.json.mp4", "x.json"),
        ("a:b?.mp4", "a:b?"),
        ("n\nl.mp4", "n\nl"),
        ("\udcff.mp4", "\udcff"),
        # What would be a folder, or nothing.
        ("..mp4", "..mp4"),
        ("...mp4", "...mp4"),
        ("....mp4", "....mp4"),
        (".mp4", ".mp4"),
        ("...", "..."),
    ],
)
def test_an_output_is_called_as_its_video(name: str, output: str) -> None:
    assert output_name(name) == output
    assert output_name(name, is_folder=True) == Path(name).name


def test_folders_without_a_name_have_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "deep").mkdir()
    monkeypatch.chdir(tmp_path / "deep")
    assert output_name("..", is_folder=True) == tmp_path.name
    assert output_name(".", is_folder=True) == "deep"
    assert output_name("/", is_folder=True) == "root"


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("in/Füße 跳\u3000é.mp4", "in/Füße 跳\u3000é.mp4"),
        ('it\'s "it".mp4', 'it\'s "it".mp4'),
        ("a\nerror: b.mp4", r"'a\nerror: b.mp4'"),
        ("a\x1b[2J.mp4", r"'a\x1b[2J.mp4'"),
        ("a\u2028b.mp4", r"'a\u2028b.mp4'"),
        ("\udcff.mp4", r"'\udcff.mp4'"),
    ],
)
def test_a_name_in_a_message_is_one_line(name: str, shown: str) -> None:
    assert quoted(name) == quoted(Path(name)) == shown


def test_long_names_are_cut_between_characters_and_told_apart(tmp_path: Path) -> None:
    folder = tmp_path / "not" / "there"
    assert shortened("a" * 243, folder, 12) == "a" * 243
    cut = {
        shortened(name, folder, 12) for name in ("a" * 244, "a" * 245, "é" * 122, "é" * 122 + "a", "日" * 90)
    }
    assert len(cut) == 5
    for name in cut:
        assert 230 < len(os.fsencode(name)) <= 243
        assert name.encode()  # no half of a character


def test_names_that_a_folder_does_not_tell_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ["a.json", "b.json", "sub/A.json", "A.json", "\u00e9", "e\u0301", "z\0Z", "Z\0z"]
    for name in ("probe", "PROBE"):
        (tmp_path / name).touch()
    if len(os.listdir(tmp_path)) == 2:
        assert alike(names, tmp_path) is None
    assert {path.name.lower() for path in tmp_path.iterdir()} == {"probe"}
    # A folder where case does not count.
    exists = os.path.exists
    monkeypatch.setattr(
        naming.os.path, "exists", lambda path: exists(path) or exists(str(path).replace("A", "a"))
    )
    assert alike(names, tmp_path) == ("a.json", "A.json")
    assert {path.name.lower() for path in tmp_path.iterdir()} == {"probe"}
