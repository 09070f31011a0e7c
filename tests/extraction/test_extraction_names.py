"""Videos of odd names: each has outputs of its own in the output folder, and nothing else is left."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest
from extraction_making import Shown, errors, plain, record, write_video
from file_making import touch

import fasti3d
from fasti3d.extraction import find_sources
from fasti3d.video import VideoError

NAMES = {
    "..mp4": "..mp4",
    "...mp4": "...mp4",
    "....mp4": "....mp4",
    ".mp4": ".mp4",
    ".hidden.mp4": ".hidden",
    "a.mp4": "a",
    "A.mp4": "A",
    "a .mp4": "a ",
    "a..mp4": "a.",
    "a.json.mp4": "a.json",
    "a_rgb.mp4": "a_rgb",
    "a_rgb.npy.mp4": "a_rgb.npy",
    "errors.jsonl.mp4": "errors.jsonl_",
    ".errors.jsonl.lock.mp4": ".errors.jsonl.lock_",
    "NUL.mp4": "NUL",
    "a:b?*.mp4": "a:b?*",
    "q'\".mp4": "q'\"",
    "new\nline.mp4": "new\nline",
    "\udcff\udcfe.mp4": "\udcff\udcfe",
    "\u00e9.mp4": "\u00e9",
    "e\u0301.mp4": "e\u0301",
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return write_video(
        tmp_path_factory.mktemp("video") / "v.mkv", plain([8 * i for i in range(12)])
    ).read_bytes()


def extract(source: object, out: Path, **options: object) -> fasti3d.Extraction:
    return fasti3d.extract(source, out, **({"model": Shown(), "stack": 10} | options))  # type: ignore[arg-type]


@pytest.mark.skipif(os.name != "posix", reason="other systems have fewer names")
def test_every_name_has_its_outputs_in_the_folder(data: bytes, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    for name in NAMES:
        (folder / name).write_bytes(data)
    out = tmp_path / "out"
    given = [folder / name for name in NAMES]
    assert {source.path.name: source.name for source in find_sources(given)} == NAMES
    done = extract(given, out)
    assert (done.done, done.failed) == (len(NAMES), ())
    assert set(os.listdir(out)) == {
        f"{name}{end}" for name in NAMES.values() for end in (".json", "_rgb.npy")
    }
    for name, output in NAMES.items():
        assert record(out / f"{output}.json")["made"]["source"]["file"] == name
    assert sorted(os.listdir(tmp_path)) == ["in", "out"]
    assert extract(given, out).already_done == len(NAMES)


def test_failed_videos_leave_no_lock_and_their_names_no_second_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bad = tmp_path / "x\nERROR forged: y.mp4"
    bad.write_bytes(b"junk" * 100)
    caplog.set_level(logging.INFO, "fasti3d.extraction")
    for formatted in (extract(bad, tmp_path / "out"), extract(bad, tmp_path / "out", retry_errors=True)):
        assert len(formatted.failed) == 1
    assert os.listdir(tmp_path / "out") == ["errors.jsonl"]
    assert all("\n" not in message for message in caplog.messages)
    with pytest.raises(VideoError) as caught:
        next(fasti3d.video.read_frames(bad))
    assert "\n" not in str(caught.value)
    assert caught.value.path == bad


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("a.mp4", "a.json/b.mp4"),
        ("a.mp4", "a_rgb.npy/b.mp4"),
        ("sub/a.mp4", "sub/a.npz/b/c.mp4"),
        ("a.mp4", ".a.lock/b.mp4"),
        ("a.mp4", ".a.json.tmp/b.mp4"),
    ],
)
def test_a_file_of_one_and_a_folder_of_another_are_told(tmp_path: Path, one: str, other: str) -> None:
    touch(tmp_path, one, other)
    (tmp_path / "list.txt").write_text(f"{one}\n{other}\n")
    with pytest.raises(ValueError, match=r"the same name: .*Rename one"):
        find_sources([tmp_path / "list.txt"])


def test_the_report_s_name_is_kept_free(data: bytes, tmp_path: Path) -> None:
    touch(tmp_path / "in", "errors.jsonl/bad.mp4")
    (tmp_path / "in" / "errors.jsonl" / "good.mp4").write_bytes(data)
    done = extract(tmp_path / "in", tmp_path / "out")
    assert (done.done, len(done.failed)) == (1, 1)
    assert list(errors(tmp_path / "out")) == ["errors.jsonl_/bad"]
    assert sorted(os.listdir(tmp_path / "out")) == ["errors.jsonl", "errors.jsonl_"]


def test_a_folder_of_images_above_is_called_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path / "walk", "1.png", "2.png")
    (tmp_path / "walk" / "sub").mkdir()
    monkeypatch.chdir(tmp_path / "walk" / "sub")
    assert [source.name for source in find_sources([".."])] == ["walk"]


def test_odd_lines_of_a_list_fail_alone(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "good.mp4").write_bytes(data)
    (tmp_path / "folder").mkdir()
    lines = [
        b"good.mp4",
        b"x" * 300,
        b"y/" * 3000 + b"z.mp4",
        b"zero\0byte.mp4",
        b"\xff\xfe.mp4",
        b"folder",
        b"gone.mp4",
    ]
    (tmp_path / "list.txt").write_bytes(b"\n".join(lines))
    for done, there in ((1, 0), (0, 1)):
        result = extract(tmp_path / "list.txt", tmp_path / "out")
        assert (result.done, result.already_done, len(result.failed)) == (done, there, len(lines) - 1)
    reasons = errors(tmp_path / "out")
    assert reasons["x" * 300] == "cannot be opened: File name too long"
    assert reasons["zero\0byte"] == "cannot be opened: embedded null byte"
    assert reasons["gone"] == "cannot be opened: No such file or directory"
    assert "folder without images" in reasons["folder"]
    assert sorted(os.listdir(tmp_path / "out")) == ["errors.jsonl", "good.json", "good_rgb.npy"]


def test_a_name_too_long_given_by_itself_is_told(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="xxx is not there"):
        find_sources([tmp_path / ("x" * 300)])
