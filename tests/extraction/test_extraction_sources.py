"""Which videos are meant, and what their outputs are called."""

from __future__ import annotations

from pathlib import Path

import pytest
from file_making import touch

from fasti3d.extraction import find_sources


def names(*given: Path) -> dict[str, str]:
    return {source.name: source.path.name for source in find_sources(given)}


def test_a_folder_gives_its_videos_and_folders_of_images(tmp_path: Path) -> None:
    touch(
        tmp_path / "set",
        "b.mp4",
        "a.MKV",
        "notes.txt",
        "b.jpg",  # a thumbnail: where there are videos, images are none
        ".hidden.mp4",
        ".cache/c.mp4",
        "train/a.mp4",
        "train/deep/x.y.webm",
        "frames/v1/1.png",
        "frames/v1/2.png",
        "frames/v2/1.jpg",
        "empty/notes.txt",
    )
    assert names(tmp_path / "set") == {
        "a": "a.MKV",
        "b": "b.mp4",
        "frames/v1": "v1",
        "frames/v2": "v2",
        "train/a": "a.mp4",
        "train/deep/x.y": "x.y.webm",
    }
    assert names(tmp_path / "set" / "frames" / "v1") == {"v1": "v1"}
    assert names(tmp_path / "set" / "b.mp4", tmp_path / "set" / "train") == {
        "a": "a.mp4",
        "b": "b.mp4",
        "deep/x.y": "x.y.webm",
    }


def test_links_to_folders_are_followed_but_not_in_circles(tmp_path: Path) -> None:
    touch(tmp_path, "set/a.mp4", "elsewhere/b.mp4")
    (tmp_path / "set" / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "back").symlink_to(tmp_path / "set")
    assert names(tmp_path / "set") == {"a": "a.mp4", "linked/b": "b.mp4"}


def test_a_list_gives_what_it_names(tmp_path: Path) -> None:
    touch(tmp_path, "data/a.mp4", "data/sub/a.mp4", "other/c.mp4", "data/frames/1.png")
    absolute = tmp_path / "other" / "d.mp4"
    lines = ["# clips", "a.mp4", "", "  sub/a.mp4  ", "../other/c.mp4", str(absolute), "frames", "gone.mp4"]
    (tmp_path / "data" / "list.txt").write_text("\n".join(lines))
    found = {source.name: source.path for source in find_sources([tmp_path / "data" / "list.txt"])}
    assert found.keys() == {"a", "sub/a", "c", "d", "frames", "gone"}
    assert found["sub/a"].samefile(tmp_path / "data" / "sub" / "a.mp4")
    assert found["c"].samefile(tmp_path / "other" / "c.mp4")


def test_lists_of_other_programs(tmp_path: Path) -> None:
    touch(tmp_path, "a.mp4", "é\x1c\u2028.mp4")
    path = tmp_path / "list.txt"
    path.write_bytes("a.mp4\r\né\x1c\u2028.mp4\r\n".encode("utf-8-sig"))
    assert names(path) == {"a": "a.mp4", "é\x1c\u2028": "é\x1c\u2028.mp4"}
    path.write_bytes("a.mp4\r\n".encode("utf-16"))
    with pytest.raises(
        ValueError, match=r"list\.txt is not a list of paths in UTF-8, .* UTF-16 .* save it as UTF-8"
    ):
        find_sources([path])


def test_videos_whose_outputs_would_be_one_are_refused(tmp_path: Path) -> None:
    touch(tmp_path, "one/a.mp4", "two/a.mp4", "same/b.mp4", "same/b.mkv")
    with pytest.raises(ValueError, match=r"a\.mp4 and .*a\.mp4 \(a\)\. Rename one"):
        find_sources([tmp_path / "one", tmp_path / "two"])
    with pytest.raises(ValueError, match=r"b\.m.. and .*b\.m.. \(b\)"):
        find_sources([tmp_path / "same"])
    assert len(find_sources([tmp_path / "one", tmp_path / "one" / "a.mp4"])) == 1


def test_what_gives_no_video_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "list.txt").write_text("# nothing\n")
    with pytest.raises(ValueError, match="holds neither videos"):
        find_sources([tmp_path / "empty"])
    with pytest.raises(ValueError, match="lists no videos"):
        find_sources([tmp_path / "list.txt"])
    with pytest.raises(ValueError, match=r"gone\.mp4 is not there"):
        find_sources([tmp_path / "gone.mp4"])
