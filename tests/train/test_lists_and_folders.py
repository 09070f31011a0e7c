"""Videos of users' own: lists as mmaction2 and SlowFast write them, and a folder per class."""

from __future__ import annotations

from pathlib import Path

import pytest
from dataset_making import make_folder, video_bytes, write

from fasti3d.train.data import DatasetError, VideoDataset, VideoFolder, VideoList

PATHS = ("a.mp4", "with blanks/my video.mp4", "x, y.mp4", "deep/er/b.mp4")


@pytest.fixture
def videos(tmp_path: Path) -> Path:
    folder = tmp_path / "videos"
    for path in PATHS:
        write(folder / path, video_bytes(2, suffix=".mp4"))
    return folder


def lines_of(dataset: VideoDataset) -> list[tuple[str, int | None]]:
    return [(video.path.relative_to(dataset.root).as_posix(), video.label) for video in dataset.videos]


@pytest.mark.parametrize("separator", [" ", ",", "\t", ", ", "  "])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_path_and_a_label(tmp_path: Path, videos: Path, separator: str, end: str) -> None:
    text = "".join(f"{path}{separator}{i % 2}{end}" for i, path in enumerate(PATHS))
    dataset = VideoList(write(tmp_path / "train.csv", text), videos)
    assert lines_of(dataset) == [(path, i % 2) for i, path in enumerate(PATHS)]
    assert dataset.classes == ("0", "1")
    assert [video.key for video in dataset.videos][1] == "with blanks/my video"


def test_where_paths_begin(tmp_path: Path, videos: Path) -> None:
    beside = write(videos / "list.txt", "a.mp4 0\n")
    assert VideoList(beside).videos[0].path == videos / "a.mp4"
    deep = write(tmp_path / "list.txt", "er/b.mp4 0\n")
    assert VideoList(deep, videos, prefix="deep").videos[0].path == videos / "deep" / "er" / "b.mp4"
    assert VideoList(deep, prefix=videos / "deep").videos[0].key == "er/b"
    absolute = write(tmp_path / "absolute.txt", f"{videos}/a.mp4 0\n{videos}/deep/er/b.mp4 1\n")
    assert [video.key for video in VideoList(absolute).videos] == ["a", "deep/er/b"]
    assert [video.key for video in VideoList(absolute, tmp_path).videos] == ["videos/a", "videos/deep/er/b"]
    with pytest.raises(DatasetError, match="outside of"):
        VideoList(absolute, videos / "deep")
    with pytest.raises(DatasetError, match="outside of"):
        VideoList(write(tmp_path / "up.txt", "../a.mp4 0\n"), videos / "deep")


def test_coverage_of_a_list(tmp_path: Path, videos: Path) -> None:
    dataset = VideoList(write(tmp_path / "l.txt", "a.mp4 0\ngone.mp4 0\n"), videos)
    assert dataset.coverage.missing == ("gone",)
    assert dataset.coverage.unlisted == tuple(sorted(PATHS[1:]))


def test_folders_of_images_with_their_count(tmp_path: Path, videos: Path) -> None:
    for name in ("clip 1", "clip 2"):
        write(videos / name / "img_00001.jpg", b"")
    dataset = VideoList(write(tmp_path / "l.txt", "clip 1 120 0\nclip 2 80 1\n"), videos)
    assert lines_of(dataset) == [("clip 1", 0), ("clip 2", 1)]


def test_lists_without_labels_and_with_class_names(tmp_path: Path, videos: Path) -> None:
    names = write(tmp_path / "names.txt", "riding a bike\nsleeping\nwalking\n")
    unlabelled = write(tmp_path / "test.txt", "a.mp4\nwith blanks/my video.mp4\n")
    dataset = VideoList(unlabelled, videos, classes=names, subset="test")
    assert [video.label for video in dataset.videos] == [None, None]
    assert dataset.classes == ("riding a bike", "sleeping", "walking")
    with pytest.raises(DatasetError, match="class names"):
        VideoList(unlabelled, videos, subset="test")
    labelled = write(tmp_path / "val.txt", "a.mp4 2\n")
    assert VideoList(labelled, videos, classes=names, subset="val").videos[0].label == 2


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a.mp4 0\na.mp4 0\n", "line 2 repeats"),
        ("a.mp4 0\n./a.mp4 1\n", "line 2 repeats"),
        ("a.mp4 -1\n", "label -1"),
        ("a.mp4 0 3\n", "one label"),
        ("a.mp4 0 3 4\n", "one label"),
        ("a.mp4 1\n", "1 of 2 classes"),
        ("a.mp4 0\nx, y.mp4\n", "line 2 has no label"),
        ("path,label\n", "expected a path and a label"),
        ("0\n", "expected a path and a label"),
        ("a.mp4 99999999999999999999\n", "expected a path and a label"),
        ("a.mp4 999999999\n", "without gaps"),
        ("a.mp4 0\na.avi 0\n", "more than the suffix"),
        ("nothing.mp4 0\n", "none of the 1 listed videos"),
        ("", "empty"),
        ("a\0b.mp4 0\n", "binary"),
    ],
)
def test_bad_lists(tmp_path: Path, videos: Path, text: str, said: str) -> None:
    with pytest.raises(DatasetError, match=said) as caught:
        VideoList(write(tmp_path / "l.txt", text), videos)
    assert "\n" not in str(caught.value)


def test_a_label_beyond_the_class_names(tmp_path: Path, videos: Path) -> None:
    names = write(tmp_path / "names.txt", "a\nb\n")
    with pytest.raises(DatasetError, match="label 2: expected 0 to 1"):
        VideoList(write(tmp_path / "l.txt", "a.mp4 2\n"), videos, classes=names)
    with pytest.raises(DatasetError, match="line 2 repeats the class a"):
        VideoList(tmp_path / "l.txt", videos, classes=write(tmp_path / "names.txt", "a\na\n"))


def test_long_lines_take_no_time(tmp_path: Path, videos: Path) -> None:
    text = "a.mp4 0\n" + "b" + " \t," * 100_000 + "c\n"
    with pytest.raises(DatasetError, match="expected a path and a label") as caught:
        VideoList(write(tmp_path / "l.txt", text), videos)
    assert len(str(caught.value)) < 500


def test_folders_for_train_and_val(tmp_path: Path) -> None:
    make_folder(tmp_path / "train", classes=("dog", "cat"), videos=3, frames=2)
    make_folder(tmp_path / "val", classes=("dog", "cat"), videos=1, frames=2)
    train, val = VideoFolder(tmp_path), VideoFolder(tmp_path, subset="val")
    assert train.classes == val.classes == ("cat", "dog")
    assert [(video.key, video.label) for video in val.videos] == [("cat/v0", 0), ("dog/v0", 1)]
    assert len(train.videos) == 6
    with pytest.raises(DatasetError, match="no videos for test, only for train, val"):
        VideoFolder(tmp_path, subset="test")
    with pytest.raises(DatasetError, match="expected no --holdout"):
        VideoFolder(tmp_path, holdout=0.2)


def test_held_out_videos(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "a", videos=10, frames=2)
    train, val = (VideoFolder(root, subset=subset, holdout=0.2) for subset in ("train", "val"))
    keys = [{video.key for video in dataset.videos} for dataset in (train, val)]
    assert len(keys[0] | keys[1]) == 20
    assert not keys[0] & keys[1]
    assert [sum(key.startswith(name) for key in keys[1]) for name in ("cat", "dog")] == [2, 2]
    elsewhere = make_folder(tmp_path / "b", videos=10, frames=3)
    assert {video.key for video in VideoFolder(elsewhere, subset="val", holdout=0.2).videos} == keys[1]


def test_groups_are_held_out_together(tmp_path: Path) -> None:
    root = tmp_path
    for name in ("cat", "dog"):
        for person in range(5):
            for take in range(3):
                write(root / name / f"p{person}_t{take}.avi", video_bytes(2))
    val = VideoFolder(root, subset="val", holdout=0.2, group=r"p(\d)_")
    people = {video.key.split("/p")[1][0] for video in val.videos}
    assert len(people) == 1  # the same one in both classes
    assert len(val.videos) == 6
    assert val.coverage.remarks == ()
    with pytest.raises(DatasetError, match="finds nothing in"):
        VideoFolder(root, holdout=0.2, group="nobody")
    with pytest.raises(DatasetError, match="too few groups"):
        VideoFolder(root, holdout=0.2, group="(cat|dog)")


def test_takes_of_one_scene_on_both_sides_are_remarked(tmp_path: Path) -> None:
    root = make_folder(tmp_path, videos=6, frames=2, name="v_cat_g01_c{:02}.avi")
    assert "share" in VideoFolder(root, holdout=0.3).coverage.remarks[0]


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("cat/more/v.avi", "no folders in those"),
        ("v.avi", "a folder per class"),
        ("train/cat/v.avi", "beside folders of train"),
        ("bird/readme.txt", "1 of 3 class folders hold no video"),
        ("cat/v0.mp4", "have one name"),
    ],
)
def test_bad_folders(tmp_path: Path, path: str, said: str) -> None:
    root = make_folder(tmp_path, frames=2)
    write(root / path, video_bytes(2, suffix=".mp4"))
    with pytest.raises(DatasetError, match=said) as caught:
        VideoFolder(root)
    assert "\n" not in str(caught.value)


def test_folders_that_have_no_place_for_validation(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "a", frames=2)
    with pytest.raises(DatasetError, match="--holdout"):
        VideoFolder(root, subset="val")
    single = make_folder(tmp_path / "b", videos=1, frames=2)
    with pytest.raises(DatasetError, match="'cat' has 1 video in too few groups"):
        VideoFolder(single, holdout=0.2)
    make_folder(tmp_path / "c" / "train", frames=2)
    make_folder(tmp_path / "c" / "val", classes=("cat",), frames=2)
    with pytest.raises(DatasetError, match="no folder dog"):
        VideoFolder(tmp_path / "c", subset="val")
