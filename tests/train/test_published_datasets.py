"""UCF-101, HMDB-51 and Kinetics in their layouts, with the quirks of the official lists and of copies."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from dataset_making import (
    CLASSES,
    KINETICS_CLASSES,
    ODD_NAMES,
    make_hmdb51,
    make_kinetics,
    make_ucf101,
    ucf101_name,
    video_bytes,
    write,
)

from fasti3d.train.data import HMDB51, UCF101, DatasetError, Kinetics, open_dataset


def labels(dataset) -> dict[str, int | None]:
    return {video.key: video.label for video in dataset.videos}


@pytest.mark.parametrize("end", ["\r\n", "\n", "\r", " \n\n"])
def test_ucf101_has_the_order_of_its_class_index(tmp_path: Path, end: str) -> None:
    names = ("Hammering", "HammerThrow", "JumpingJack", "JumpRope")
    assert sorted(names) != list(names)
    root = make_ucf101(tmp_path, classes=names, end=end, frames=2)
    dataset = UCF101(root)
    assert dataset.classes == names
    assert {key.split("/")[0]: label for key, label in labels(dataset).items()} == {
        name: label for label, name in enumerate(names)
    }


def test_ucf101_splits(tmp_path: Path) -> None:
    root = make_ucf101(tmp_path, groups=8, clips=2, frames=2)
    seen = []
    for split in (1, 2, 3):
        train, test = UCF101(root, split=split), UCF101(root, subset="test", split=split)
        assert (len(train.videos), len(test.videos)) == (48, 16)
        assert not labels(train).keys() & labels(test).keys()
        assert all(label == CLASSES.index(key.split("/")[0]) for key, label in labels(test).items())
        assert all(video.path.is_file() for video in (*train.videos, *test.videos))
        assert train.coverage.unlisted == ()
        seen.append({key.split("_g")[1][:2] for key in labels(test)})
    assert seen == [{"01", "02"}, {"03", "04"}, {"05", "06"}]


def test_ucf101_file_names_are_not_parsed_for_the_class(tmp_path: Path) -> None:
    dataset = UCF101(make_ucf101(tmp_path, frames=2))
    stands = [video.key for video in dataset.videos if video.label == CLASSES.index("HandstandPushups")]
    assert stands[0] == "HandstandPushups/v_HandStandPushups_g02_c01"


@pytest.mark.parametrize("lists", ["ucfTrainTestlist", "UCF-101", "UCF-101/splits", "elsewhere"])
def test_ucf101_lists_are_found(tmp_path: Path, lists: str) -> None:
    root = make_ucf101(tmp_path, lists=lists, frames=2)
    if lists == "elsewhere":
        with pytest.raises(DatasetError, match="--annotations"):
            UCF101(root)
        assert len(UCF101(root, annotations=tmp_path / lists).videos) == 12
        return
    assert len(UCF101(root).videos) == 12
    if lists != "UCF-101/splits":
        assert len(UCF101(tmp_path).videos) == 12  # a folder above


def test_copies_in_other_suffixes_flat_or_renamed(tmp_path: Path) -> None:
    converted = UCF101(make_ucf101(tmp_path / "a", suffix=".mp4", frames=2))
    assert (converted.coverage.found, converted.coverage.remarks) == (12, ())
    flat = make_ucf101(tmp_path / "b", frames=2)
    for path in sorted(flat.glob("*/*.avi")):
        path.rename(flat / path.name)
    dataset = UCF101(flat)
    assert dataset.coverage.found == 12
    assert labels(dataset) == labels(converted)
    assert "16 found outside" in dataset.coverage.remarks[0]


def test_what_is_missing_and_unlisted(tmp_path: Path) -> None:
    root = make_ucf101(tmp_path, frames=2)
    (root / ucf101_name("Hammering", 2, 1)).unlink()
    write(root / "Hammering" / "mine.avi", video_bytes(2))
    write(root / "Hammering" / "._v_Hammering_g02_c01.avi", b"of another system")
    coverage = UCF101(root).coverage
    assert coverage.missing == ("Hammering/v_Hammering_g02_c01",)
    assert (coverage.listed, coverage.found) == (12, 11)
    assert coverage.unlisted == ("Hammering/mine.avi",)


def test_hmdb51_marks_names_and_classes(tmp_path: Path) -> None:
    root = make_hmdb51(tmp_path, frames=2)
    train, test = HMDB51(root, split=2), HMDB51(root, subset="test", split=2)
    assert train.classes == ("brush_hair", "climb", "climb_stairs", "kick", "kick_ball")
    assert [video.key for video in test.videos] == [f"{name}/{ODD_NAMES[1][:-4]}" for name in train.classes]
    used = [name for i, name in enumerate(ODD_NAMES) if i not in (1, 5)]
    assert [video.path.name for video in train.videos] == used * 5
    assert [video.label for video in train.videos] == [label for label in range(5) for _ in used]
    assert train.coverage.unlisted == ()  # unused ones are listed all the same


def test_hmdb51_lists_without_trailing_blanks(tmp_path: Path) -> None:
    assert len(HMDB51(make_hmdb51(tmp_path, end="\r\n", frames=2)).videos) == 20


def test_hmdb51_repacked_with_odd_characters_replaced(tmp_path: Path) -> None:
    root = make_hmdb51(tmp_path, frames=2)
    before = labels(HMDB51(root))
    for path in sorted(root.glob("*/*")):
        path.rename(path.with_name("".join(c if c.isalnum() or c in "._" else "_" for c in path.name)))
    dataset = HMDB51(root)
    assert labels(dataset) == before
    assert dataset.coverage.missing == ()
    assert "25 found by a normalized name" in dataset.coverage.remarks[0]


def test_hmdb51_unpacked_into_nested_folders(tmp_path: Path) -> None:
    root = make_hmdb51(tmp_path, frames=2)
    before = labels(HMDB51(root))
    for folder in sorted(root.iterdir()):
        folder.rename(root / "tmp")
        folder.mkdir()
        (root / "tmp").rename(folder / folder.name)
    assert labels(HMDB51(root)) == before


def test_two_listed_names_that_normalize_alike_are_not_confused(tmp_path: Path) -> None:
    root = make_hmdb51(tmp_path, classes=("clap",), frames=2)
    lists = tmp_path / "testTrainMulti_7030_splits"
    for split in (1, 2, 3):
        write(lists / f"clap_test_split{split}.txt", "a#1.avi 1\na_1.avi 1\na&1.avi 2\n")
    shutil.rmtree(root)
    for name in ("a#1.avi", "a_1.avi", "a&1.avi"):
        write(root / "clap" / name, video_bytes(2))
    assert [video.path.name for video in HMDB51(root).videos] == ["a#1.avi", "a_1.avi"]
    (root / "clap" / "a#1.avi").unlink()
    (root / "clap" / "a&1.avi").unlink()
    assert HMDB51(root).coverage.missing == ("clap/a#1",)


FOLDERS = {
    "blanks": lambda label: label,
    "underscores": lambda label: label.replace(" ", "_"),
    "lower case": str.lower,
    "quotes dropped": lambda label: label.replace("'", "").replace(" ", "_"),
    "flat": None,
}


@pytest.mark.parametrize(
    ("kind", "suffix"), [*((kind, ".mp4") for kind in FOLDERS), ("blanks", ".mkv"), ("flat", ".webm")]
)
def test_kinetics_layouts(tmp_path: Path, kind: str, suffix: str) -> None:
    root = make_kinetics(tmp_path, class_folder=FOLDERS[kind], suffix=suffix, times="{}.0", frames=3)
    train, val = Kinetics(root), Kinetics(root, subset="val")
    assert train.classes == val.classes == KINETICS_CLASSES
    assert (train.coverage.found, val.coverage.found) == (12, 4)
    assert train.videos[0].key == "-train00xyz_000000_000010"
    assert [video.label for video in train.videos] == [label for label in range(4) for _ in range(3)]
    assert train.coverage.unlisted == ()


def test_kinetics_labels_that_are_quoted_twice(tmp_path: Path) -> None:
    root = make_kinetics(tmp_path, frames=3)
    path = root / "annotations" / "val.csv"
    path.write_text(path.read_text().replace('"', '"""').replace(" ", "_"))
    assert Kinetics(root, subset="val").classes == KINETICS_CLASSES
    assert [video.label for video in Kinetics(root, subset="val").videos] == [0, 1, 2, 3]


def test_kinetics_clips_of_two_lists_are_remarked(tmp_path: Path) -> None:
    root = make_kinetics(tmp_path, frames=3)
    with (root / "annotations" / "val.csv").open("a") as file:
        file.write("air drumming,-train00xyz,0,10,train\n")
    assert any("1 clips are listed for train and for val" in text for text in Kinetics(root).coverage.remarks)


def test_kinetics_bare_ids_and_unpadded_times(tmp_path: Path) -> None:
    root = make_kinetics(tmp_path, frames=3)
    paths = sorted(root.glob("train/*/*.mp4"))
    paths[0].rename(paths[0].with_name(paths[0].name.rsplit("_", 2)[0] + ".mp4"))
    name, start, end = paths[1].stem.rsplit("_", 2)
    paths[1].rename(paths[1].with_name(f"{name}_{int(start)}_{int(end)}.mp4"))
    coverage = Kinetics(root).coverage
    assert coverage.missing == ()
    assert any("by their ids alone" in remark for remark in coverage.remarks)


def test_kinetics_replacements_win(tmp_path: Path) -> None:
    root = make_kinetics(tmp_path, frames=3)
    broken = sorted(root.glob("train/*/*.mp4"))[0]
    good = root / "replacement" / broken.name
    broken.rename(good.parent.mkdir() or good)
    write(broken, b"\0" * 100)
    dataset = Kinetics(root)
    assert good in [video.path for video in dataset.videos]
    assert broken not in [video.path for video in dataset.videos]
    assert dataset.coverage.unlisted == ()
    assert any("replacement" in remark for remark in dataset.coverage.remarks)


def test_kinetics_test_list_without_labels(tmp_path: Path) -> None:
    root = make_kinetics(tmp_path, frames=3)
    write(root / "annotations" / "test.csv", "youtube_id,time_start,time_end,split\n-x,3,13,test\n")
    write(root / "test" / "-x_000003_000013.mp4", video_bytes(3, suffix=".mp4"))
    dataset = Kinetics(root, subset="test")
    assert labels(dataset) == {"-x_000003_000013": None}
    assert dataset.classes == KINETICS_CLASSES
    (root / "annotations" / "train.csv").unlink()
    (root / "annotations" / "val.csv").unlink()
    with pytest.raises(DatasetError, match=r"train\.csv"):
        Kinetics(root, subset="test")


def test_kinetics_names_of_csv_files(tmp_path: Path) -> None:
    root = make_kinetics(tmp_path, frames=3)
    folder = root / "annotations"
    (folder / "val.csv").rename(folder / "kinetics-400_validate.csv")
    (folder / "train.csv").rename(folder / "kinetics-400_train.csv")
    shutil.copy(folder / "kinetics-400_train.csv", folder / "kinetics-600_train.csv")
    assert Kinetics(root).coverage.found == 12
    assert Kinetics(root, subset="val").coverage.found == 4
    given = Kinetics(root, subset="train", annotations=folder / "kinetics-400_validate.csv")
    assert given.coverage.listed == 4  # the file that is asked for, whatever its column says
    shutil.copy(folder / "kinetics-400_train.csv", folder / "kinetics-400_train_2.csv")
    with pytest.raises(DatasetError, match="both lists of train"):
        Kinetics(root)


def bad_ucf101(tmp_path: Path, change: str) -> Path:
    root = make_ucf101(tmp_path, frames=2)
    lists = tmp_path / "ucfTrainTestlist"
    train = lists / "trainlist01.txt"
    first = train.read_text().split("\r\n")[0].split()[0]
    line = {
        "another data set": "brush_hair/April.avi 1\n",
        "another number": first + " 2\n",
        "number beyond": first + " 102\n",
        "negative number": first + " -1\n",
        "absolute path": "/data/" + first + " 1\n",
        "no class": "v_x_g01_c01.avi 1\n",
        "repeated": f"{first} 1\n{first} 1\n",
        "three fields": first + " 1 2\n",
    }
    if change in line:
        write(train, line[change])
    elif change == "binary":
        write(train, b"\x00\x01" * 50)
    elif change == "another encoding":
        write(train, "Hammering/v_é_g01_c01.avi 2\n".encode("latin-1"))
    elif change == "empty":
        write(train, "\r\n")
    elif change == "a folder":
        train.unlink()
        train.mkdir()
    elif change == "missing":
        train.unlink()
    elif change == "two of one key":
        shutil.copy(root / first, (root / first).with_suffix(".mp4"))
    elif change == "two folders":
        write(root / "copy" / first, video_bytes(2))
    elif change == "class without videos":
        shutil.rmtree(root / "Hammering")
    elif change == "empty root":
        shutil.rmtree(root)
        root.mkdir()
    elif change == "another root":
        shutil.rmtree(root)
        write(root / "x" / "y.avi", video_bytes(2))
    elif change == "class index":
        write(lists / "classInd.txt", "1 Hammering\n3 HammerThrow\n")
    elif change == "trained and tested":
        with (lists / "testlist01.txt").open("a") as file:
            file.write(first)
    elif change == "class twice":
        write(lists / "classInd.txt", "1 Hammering\n2 Hammering\n")
    return root


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("another data set", r"trainlist01\.txt, line 1 .*'brush_hair'.* among the 4"),
        ("another number", "number 2, and classInd.txt 1"),
        ("number beyond", "number 102"),
        ("negative number", "number -1"),
        ("absolute path", "expected `Class/v_Class"),
        ("no class", "expected `Class/v_Class"),
        ("three fields", "expected `Class/v_Class"),
        ("repeated", "line 2 repeats .* line 1"),
        ("binary", "binary"),
        ("another encoding", "not UTF-8"),
        ("empty", "empty"),
        ("a folder", r"trainlist01\.txt"),
        ("missing", r"trainlist01\.txt is missing"),
        ("two of one key", "holds 2 videos of"),
        ("two folders", "holds 2 videos of"),
        ("class without videos", "1 of 4 classes .*'Hammering', of which 4 are listed and 0 were found"),
        ("empty root", "holds no videos"),
        ("another root", "none of the 16 listed videos"),
        ("class index", "expected `2 ClassName`"),
        ("class twice", "Hammering again"),
        ("trained and tested", "share no video"),
    ],
)
def test_bad_ucf101(tmp_path: Path, change: str, said: str) -> None:
    with pytest.raises(DatasetError, match=said) as caught:
        UCF101(bad_ucf101(tmp_path, change))
    assert "\n" not in str(caught.value)
    assert "expected" in str(caught.value) or "needed" in str(caught.value) or "save it" in str(caught.value)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_lists_with_a_byte_order_mark(tmp_path: Path, encoding: str) -> None:
    root = make_ucf101(tmp_path, frames=2)
    for path in (tmp_path / "ucfTrainTestlist").iterdir():
        path.write_bytes(path.read_text().encode(encoding))
    assert len(UCF101(root).videos) == 12


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("a.avi", "expected `NAME.avi MARK`"),
        ("a.avi 3", "a mark of 0, 1 or 2"),
        ("x/a.avi 1", "expected `NAME.avi MARK`"),
        ("a.avi 1 \na.avi 1 ", "line 2 repeats"),
    ],
)
def test_bad_hmdb51_lines(tmp_path: Path, line: str, said: str) -> None:
    root = make_hmdb51(tmp_path, frames=2)
    write(tmp_path / "testTrainMulti_7030_splits" / "kick_test_split1.txt", line)
    with pytest.raises(DatasetError, match=said):
        HMDB51(root)


def test_hmdb51_with_a_list_missing(tmp_path: Path) -> None:
    root = make_hmdb51(tmp_path, frames=2)
    (tmp_path / "testTrainMulti_7030_splits" / "kick_test_split2.txt").unlink()
    assert len(HMDB51(root).videos) == 20
    with pytest.raises(DatasetError, match=r"kick_test_split2\.txt is missing"):
        HMDB51(root, split=2)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("path,label\na.mp4,0\n", "not youtube_id"),
        ("label,youtube_id,time_start,time_end,split\nair drumming,x,10\n", "3 fields"),
        ("label,youtube_id,time_start,time_end,split\nair drumming,x,ten,20,train\n", "time_start 'ten'"),
        ("label,youtube_id,time_start,time_end,split\nair drumming,x,-1,20,train\n", "time_start '-1'"),
        ("label,youtube_id,time_start,time_end,split\nair drumming,x,nan,20,train\n", "time_start 'nan'"),
        ("label,youtube_id,time_start,time_end,split\n,x,10,20,train\n", "empty label"),
        ("label,youtube_id,time_start,time_end,split\nair drumming,../x,10,20,train\n", "expected names"),
        ("label,youtube_id,time_start,time_end,split\na,x,1,2,train\nb,x,1,2,train\n", "line 3 repeats"),
        ("label,youtube_id,time_start,time_end,split\n", "lists no videos"),
        ('label,youtube_id,time_start,time_end,split\n"air,x,1,2,train\n', "is not CSV|fields"),
    ],
)
def test_bad_kinetics_lists(tmp_path: Path, text: str, said: str) -> None:
    root = make_kinetics(tmp_path, frames=3)
    write(root / "annotations" / "train.csv", text)
    with pytest.raises(DatasetError, match=said) as caught:
        Kinetics(root)
    assert "\n" not in str(caught.value)


def test_lists_of_a_kinetics_with_more_classes(tmp_path: Path) -> None:
    root = make_kinetics(tmp_path, frames=3)
    lines = [f"class {i},id{i},0,10,train" for i in range(401)]
    write(
        root / "annotations" / "train.csv", "label,youtube_id,time_start,time_end,split\n" + "\n".join(lines)
    )
    with pytest.raises(DatasetError, match="expected the 400 of Kinetics-400"):
        Kinetics(root)


@pytest.mark.parametrize("beside", [".mkv", ".webm"])
def test_two_kinetics_videos_of_one_key(tmp_path: Path, beside: str) -> None:
    root = make_kinetics(tmp_path, frames=3)
    path = sorted(root.glob("train/*/*.mp4"))[0]
    shutil.copy(path, path.with_suffix(beside))
    with pytest.raises(DatasetError, match="holds 2 videos of"):
        Kinetics(root)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"name": "ucf"}, "no data set is called 'ucf'"),
        ({"name": "ucf101", "split": 4}, "no split 4"),
        ({"name": "ucf101", "split": 0}, "no split 0"),
        ({"name": "kinetics400", "split": 2}, "leave --split out"),
        ({"name": "hmdb51", "subset": "val"}, "expected train or test"),
        ({"name": "ucf101", "holdout": 0.2}, "--holdout is for --dataset folder"),
        ({"name": "folder", "group": "a"}, "expected both"),
        ({"name": "folder", "holdout": 1.5}, "between 0 and 1"),
        ({"name": "folder", "holdout": float("nan")}, "between 0 and 1"),
        ({"name": "folder", "holdout": 0.5, "group": "("}, "regular expression"),
        ({"name": "list"}, "needs --list FILE"),
        ({"name": "ucf101", "annotations": "nowhere"}, "nowhere does not exist"),
        ({"name": "ucf101", "root": None}, "needs --root"),
        ({"name": "ucf101", "root": "nowhere"}, "nowhere does not exist"),
        ({"name": "ucf101", "root": __file__}, "is a file"),
    ],
)
def test_questions_that_are_wrong(tmp_path: Path, arguments: dict, said: str) -> None:
    with pytest.raises(DatasetError, match=said):
        open_dataset(**{"root": tmp_path, **arguments})


def test_links_in_a_circle_do_no_harm(tmp_path: Path) -> None:
    root = make_ucf101(tmp_path, frames=2)
    (root / "loop").symlink_to(root)
    (root / "self").symlink_to(root / "self")
    assert (len(UCF101(root).videos), UCF101(root).coverage.unlisted) == (12, ())
