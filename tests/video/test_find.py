"""Which videos lie in a folder."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from file_making import touch

from fasti3d.video.find import VIDEO_SUFFIXES, find_videos


def names(folder: Path) -> list[str]:
    return [path.relative_to(folder).as_posix() for path in find_videos(folder)]


def test_a_folder_s_own_come_before_those_of_its_folders(tmp_path: Path) -> None:
    expected = ["B.mp4", "a.mp4", "z.mp4", "a/2.mp4", "a/b/1.mp4", "c/3.mp4", "frames"]
    files = [*expected[:-1], "frames/1.png", "notes.txt", "empty/notes.txt"]
    random.Random(0).shuffle(files)
    assert names(touch(tmp_path, *files)) == expected


def test_suffixes_of_any_case(tmp_path: Path) -> None:
    files = [f"{i:02}{suffix.upper() if i % 2 else suffix}" for i, suffix in enumerate(VIDEO_SUFFIXES)]
    touch(tmp_path, *files, "frames/1.JPG", "mp4", "a.mp4.part")
    assert names(tmp_path) == [*files, "frames"]


def test_hidden_ones_are_left_out(tmp_path: Path) -> None:
    assert names(touch(tmp_path, ".a.mp4", ".cache/a.mp4", "frames/.thumbnail.png", "b.mp4")) == ["b.mp4"]


def test_images_are_a_video_where_there_is_no_other(tmp_path: Path) -> None:
    touch(tmp_path, "posters/a.mp4", "posters/a.png", "frames/1.png", "frames/deep/1.webp")
    assert names(tmp_path) == ["frames", "frames/deep", "posters/a.mp4"]
    assert list(find_videos(tmp_path / "frames" / "deep")) == [tmp_path / "frames" / "deep"]


def test_links_to_files_and_folders_are_followed(tmp_path: Path) -> None:
    touch(tmp_path, "elsewhere/b.mp4", "elsewhere/deep/c.mp4", "stills/1.png")
    top = touch(tmp_path / "set", "d.mp4")
    (top / "a.mp4").symlink_to(tmp_path / "elsewhere" / "b.mp4")
    (top / "folder").symlink_to(tmp_path / "elsewhere")
    (top / "frames").symlink_to(tmp_path / "stills")
    (top / "gone.mp4").symlink_to(tmp_path / "nothing.mp4")
    assert names(top) == ["a.mp4", "d.mp4", "gone.mp4", "folder/b.mp4", "folder/deep/c.mp4", "frames"]
    (tmp_path / "link").symlink_to(top)
    assert names(tmp_path / "link") == names(top)


def test_a_folder_counts_once_however_links_lead_there(tmp_path: Path) -> None:
    top = touch(tmp_path / "set", "a.mp4", "one/b.mp4", "two/c.mp4")
    (top / "again").symlink_to(top / "two")
    (top / "one" / "back").symlink_to(top)
    (top / "two" / "over").symlink_to(top / "one")
    (top / "self").symlink_to(top / "self")
    assert names(top) == ["a.mp4", "again/c.mp4", "again/over/b.mp4"]


def test_a_folder_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="gone cannot be read: No such file"):
        list(find_videos(tmp_path / "gone"))
