"""The atomic writer: whole files or none, whatever goes wrong and whoever else writes."""

from __future__ import annotations

import errno
import os
import re
import stat
import threading
from pathlib import Path
from typing import Any

import pytest

from fasti3d.utils import files
from fasti3d.utils.files import StagedFiles, atomic_file, temporary_path, write_atomically


def fail(*_: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_error_in_the_block_leaves_what_was_there(tmp_path: Path, error: type[BaseException]) -> None:
    path = tmp_path / "a"
    write_atomically(path, b"old")

    def write() -> None:
        with atomic_file(path) as file:
            file.write(b"new")
            assert path.read_bytes() == b"old"
            raise error

    with pytest.raises(error):
        write()
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a"]


@pytest.mark.parametrize("step", ["fsync", "replace", "write", "folder"])
def test_an_error_names_the_file_that_was_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    path = tmp_path / "a" if step != "folder" else tmp_path / "none" / "a"
    if step in ("fsync", "replace"):
        monkeypatch.setattr(os, step, fail)

    def write() -> None:
        with atomic_file(path) as file:
            if step == "write":
                fail()
            file.write(b"new")

    with pytest.raises(OSError, match=re.escape(f": '{path}'") + "$") as caught:
        write()
    assert caught.value.errno == (errno.ENOENT if step == "folder" else errno.ENOSPC)
    assert os.listdir(tmp_path) == []


def test_an_error_of_another_file_keeps_its_name(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as caught, atomic_file(tmp_path / "a"):
        (tmp_path / "none").read_bytes()
    assert caught.value.filename == str(tmp_path / "none")


@pytest.mark.skipif(os.name != "posix", reason="permissions are others here")
def test_permissions_are_those_of_a_new_file_and_links_are_not_followed(tmp_path: Path) -> None:
    victim, path = tmp_path / "victim", tmp_path / "a"
    victim.write_bytes(b"theirs")
    path.symlink_to(victim)
    temporary_path(path, f".{threading.get_native_id()}").symlink_to(victim)
    before = os.umask(0o027)
    try:
        write_atomically(path, b"ours")
    finally:
        os.umask(before)
    assert victim.read_bytes() == b"theirs"
    assert path.read_bytes() == b"ours"
    assert stat.S_IMODE(path.lstat().st_mode) == 0o640
    assert sorted(os.listdir(tmp_path)) == ["a", "victim"]


def test_threads_that_write_to_one_path_do_not_mix(tmp_path: Path) -> None:
    path, meet = tmp_path / "a", threading.Barrier(4)

    def write(letter: bytes) -> None:
        with atomic_file(path) as file:
            meet.wait()
            file.write(letter * 9)

    threads = [threading.Thread(target=write, args=(letter,)) for letter in (b"a", b"b", b"c", b"d")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert path.read_bytes() in (b"a" * 9, b"b" * 9, b"c" * 9, b"d" * 9)
    assert os.listdir(tmp_path) == ["a"]


@pytest.mark.parametrize("durable", [True, False])
def test_only_durable_files_wait_for_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, durable: bool
) -> None:
    synced: list[int] = []
    monkeypatch.setattr(files.os, "fsync", lambda descriptor: synced.append(os.fstat(descriptor).st_mode))
    with atomic_file(tmp_path / "a", durable=durable) as file:
        file.write(b"new")
    kinds = [stat.S_ISREG, stat.S_ISDIR] if durable and os.name == "posix" else [stat.S_ISREG] * durable
    assert [kind(mode) for kind, mode in zip(kinds, synced, strict=True)] == [True] * len(kinds)


def test_several_files_appear_in_order_and_only_when_all_are_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ["data", "more", "record"]
    placed: list[str] = []
    replace = os.replace

    def second_fails(source: Any, target: Any) -> None:
        if len(placed) == 1:
            fail()
        placed.append(Path(target).name)
        replace(source, target)

    def write() -> None:
        with StagedFiles() as staged:
            for name in names:
                with staged.open(tmp_path / name) as file:
                    file.write(name.encode())
            assert sorted(os.listdir(tmp_path)) == sorted({f".{name}.tmp" for name in names} | set(placed))
            staged.publish()

    monkeypatch.setattr(files.os, "replace", second_fails)
    with pytest.raises(OSError, match="more") as caught:
        write()
    assert caught.value.filename == str(tmp_path / "more")
    assert os.listdir(tmp_path) == ["data"]
    monkeypatch.setattr(files.os, "replace", lambda source, target: placed.append(Path(target).name))
    placed.clear()
    (tmp_path / "data").unlink()
    write()
    assert placed == names
