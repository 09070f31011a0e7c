"""The lock, the record and the leftovers of output that a later process continues."""

from __future__ import annotations

import os
from pathlib import Path
from threading import Event, Thread

import pytest

from fasti3d.utils.files import StagedFiles
from fasti3d.utils.resumable_output import ResumableOutput, differences


@pytest.fixture
def output(tmp_path: Path) -> ResumableOutput:
    return ResumableOutput(tmp_path / "new" / "record.json", tmp_path / "new" / ".lock")


def test_one_holds_the_lock_and_its_file_goes_with_it(output: ResumableOutput) -> None:
    assert output.released
    with output.claimed() as held:
        assert held
        assert not output.released
        with output.claimed() as second:
            assert not second
        assert not output.released  # by the one that did not hold it
    assert output.released
    with pytest.raises(RuntimeError), output.claimed():
        raise RuntimeError
    assert output.released


def test_a_wait_ends_with_the_other_or_when_it_is_to_stop(output: ResumableOutput) -> None:
    stop, found = Event(), []

    def wait() -> None:
        with output.claimed(wait=True, stop=stop) as held:
            found.append(held)

    with output.claimed():
        thread = Thread(target=wait)
        thread.start()
        stop.set()
        thread.join()
        assert found == [False]
        stop.clear()
        thread = Thread(target=wait)
        thread.start()
    thread.join()
    assert found == [False, True]


def test_a_lock_that_cannot_be_created_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    output = ResumableOutput(tmp_path / "r", tmp_path / "file" / "l")
    with pytest.raises(OSError, match="file"), output.claimed():
        pass


@pytest.mark.parametrize("text", ["", "[1]", "{", "null", "[" * 10000])
def test_a_record_that_is_none_is_told_from_one_that_is_missing(output: ResumableOutput, text: str) -> None:
    assert output.read_record() is None
    output.record_path.parent.mkdir()
    output.record_path.write_text(text)
    assert output.read_record() == {}
    output.record_path.unlink()
    output.record_path.mkdir()
    assert output.read_record() == {}


def test_what_a_kill_left_of_the_record_is_removed(output: ResumableOutput) -> None:
    with output.claimed(), StagedFiles() as files:
        output._write({"made": 1}, 2, files)
        assert len(os.listdir(output.record_path.parent)) == 2
        output.remove_temporary()
        assert os.listdir(output.record_path.parent) == [".lock"]
        output._write({"made": 2}, 2, files)
        files.publish()
    assert output.record_path.read_text() == '{\n  "made": 2\n}\n'
    assert output.read_record() == {"made": 2}


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ({"a": {"b": 1, "c": 2}}, {"a": {"b": 1, "c": 3}}, "a.c 2 there and 3 now"),
        (
            {"x": {"fps": None}, "y": None},
            {"x": {"fps": 5.0}, "y": 1},
            "x.fps native there and 5.0 now, y none",
        ),
        ({}, {"digest": "0123456789" * 7}, "digest none there and 01234567… now"),
        (
            {"name": "a_rather_long_name_1.mp4"},
            {"name": "a_rather_long_name_2.mp4"},
            "name_1.mp4 there and a_",
        ),
        ({"a": 1}, {"a": 1}, ""),
        ({"a": {"b": 1}}, {"a": 1}, "a none there and 1 now, a.b 1 there and none now"),
    ],
)
def test_differences_name_each_value(old: dict[str, object], new: dict[str, object], said: str) -> None:
    assert said in differences(old, new)
    assert bool(differences(old, new)) == (old != new)
