"""Flow files: there and back, as OpenCV has them, and every way to be broken."""

from __future__ import annotations

import os
import re
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch

from fasti3d.flow import flow_to_rgb, read_flo, read_kitti_png, write_flo, write_kitti_png
from fasti3d.flow.files import write_png


@pytest.fixture
def flow() -> np.ndarray:
    return (np.random.default_rng(0).normal(size=(2, 5, 7)) * 30).astype(np.float32)


def test_flo_there_and_back(tmp_path: Path, flow: np.ndarray) -> None:
    flow[0, 0, 0], flow[1, 0, 1] = np.nan, 1e10
    for kind in (flow, torch.from_numpy(flow), flow.astype(np.float64), np.asfortranarray(flow)):
        write_flo(tmp_path / "a.flo", kind)
        read = read_flo(tmp_path / "a.flo")
        assert read.dtype == np.float32
        assert read.flags["C_CONTIGUOUS"]
        assert np.array_equal(read, flow, equal_nan=True)
    assert os.listdir(tmp_path) == ["a.flo"]


def test_flo_byte_by_byte(tmp_path: Path) -> None:
    write_flo(tmp_path / "a.flo", np.array([[[1, 2, 3]], [[-1, -2, -3]]]))
    data = (tmp_path / "a.flo").read_bytes()
    assert data == b"PIEH" + struct.pack("<ii6f", 3, 1, 1, -1, 2, -2, 3, -3)


def test_flo_is_opencv_s(tmp_path: Path, flow: np.ndarray) -> None:
    cv2 = pytest.importorskip("cv2")
    write_flo(tmp_path / "a.flo", flow)
    assert np.array_equal(cv2.readOpticalFlow(str(tmp_path / "a.flo")), flow.transpose(1, 2, 0))
    cv2.writeOpticalFlow(str(tmp_path / "b.flo"), np.ascontiguousarray(flow.transpose(1, 2, 0)))
    assert np.array_equal(read_flo(tmp_path / "b.flo"), flow)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "not a .flo file"),
        (b"PIE", "not a .flo file"),
        (b"PIEX" + bytes(100), "PIEX"),
        (b"PIEH\x01\x00\x00", "cut off in its header, after 7 bytes"),
        (b"PIEH" + struct.pack("<ii", 0, 4), "announces 0x4"),
        (b"PIEH" + struct.pack("<ii", 4, -1), "announces 4x-1"),
        (b"PIEH" + struct.pack("<ii", 2, 2) + bytes(31), "cut off.*take 44 bytes, but it has 43"),
        (b"PIEH" + struct.pack("<ii", 2, 2) + bytes(33), "too long.*take 44 bytes, but it has 45"),
        (b"PIEH" + struct.pack("<ii", 2**31 - 1, 2**31 - 1) + bytes(64), "cut off"),
    ],
)
def test_flo_that_is_broken(tmp_path: Path, data: bytes, said: str) -> None:
    path = tmp_path / "broken.flo"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=f"broken.flo.*{said}"):
        read_flo(path)


@pytest.mark.parametrize("write", [write_flo, write_kitti_png])
def test_what_is_no_flow_is_not_written(tmp_path: Path, write) -> None:
    for wrong in (np.zeros((1, 2, 4, 4)), np.zeros((4, 4, 2)), np.zeros((2, 0, 4))):
        with pytest.raises(ValueError, match="flow must be of shape"):
            write(tmp_path / "x", wrong)
    with pytest.raises(TypeError, match="list"):
        write(tmp_path / "x", [1, 2])
    with pytest.raises(FileNotFoundError):
        write(tmp_path / "none" / "x", np.zeros((2, 4, 4)))
    assert os.listdir(tmp_path) == []


def test_kitti_there_and_back(tmp_path: Path, flow: np.ndarray) -> None:
    flow[:, 0, :4] = [[-512, 511.984375, 0, 1 / 64], [511.98, -511.99, 0, -1 / 64]]
    flow[0, 1, 0], flow[1, 1, 1], flow[1, 1, 2] = np.nan, 2e9, -np.inf
    write_kitti_png(tmp_path / "a.png", torch.from_numpy(flow))
    read, valid = read_kitti_png(tmp_path / "a.png")
    assert (read.dtype, valid.dtype) == (np.float32, np.bool_)
    assert (read.shape, valid.shape) == ((2, 5, 7), (5, 7))
    wanted = np.ones((5, 7), bool)
    wanted[1, :3] = False
    assert np.array_equal(valid, wanted)
    assert np.isnan(read[:, ~valid]).all()
    assert np.abs(read - flow)[:, valid].max() <= 1 / 128
    assert np.array_equal(read[:, 0, :4], np.rint(flow[:, 0, :4] * 64) / 64)


def test_kitti_valid_may_be_given(tmp_path: Path, flow: np.ndarray) -> None:
    valid = np.arange(35).reshape(5, 7) % 3 > 0
    flow[:, 0, 0] = 1000  # not valid, so it does not matter
    for mask in (valid, torch.from_numpy(valid), valid.astype(np.uint8) * 255):
        write_kitti_png(tmp_path / "a.png", flow, valid=mask)
        assert np.array_equal(read_kitti_png(tmp_path / "a.png")[1], valid)
    with pytest.raises(ValueError, match=r"valid must be of shape \(5, 7\).*got \(7, 5\)"):
        write_kitti_png(tmp_path / "a.png", flow, valid=valid.T)


def test_kitti_is_opencv_s_png(tmp_path: Path, flow: np.ndarray) -> None:
    cv2 = pytest.importorskip("cv2")
    write_kitti_png(tmp_path / "a.png", flow)
    bgr = cv2.imread(str(tmp_path / "a.png"), cv2.IMREAD_UNCHANGED)
    assert bgr.dtype == np.uint16
    assert np.array_equal(bgr[..., 2], np.rint(flow[0] * 64 + 32768))
    assert np.array_equal(bgr[..., 1], np.rint(flow[1] * 64 + 32768))
    assert (bgr[..., 0] == 1).all()
    assert cv2.imwrite(str(tmp_path / "b.png"), bgr)
    for a, b in zip(read_kitti_png(tmp_path / "a.png"), read_kitti_png(tmp_path / "b.png"), strict=True):
        assert np.array_equal(a, b)


@pytest.mark.parametrize("value", [512.0, -512.01, 1e6, np.nan])
def test_kitti_out_of_range_is_named(tmp_path: Path, flow: np.ndarray, value: float) -> None:
    flow[1, 2, 3] = value
    said = rf"-512 and 511\.98 pixels.*got {re.escape(format(value, 'g'))}: .*not valid.*\.flo"
    with pytest.raises(ValueError, match=said):
        write_kitti_png(tmp_path / "a.png", flow, valid=np.ones((5, 7)))
    assert os.listdir(tmp_path) == []


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(width: int, height: int, rows: bytes) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


def test_kitti_byte_by_byte(tmp_path: Path) -> None:
    row = struct.pack(">B6H", 0, 32768 + 64, 32768 - 128, 1, 0, 0, 0)
    (tmp_path / "a.png").write_bytes(png(2, 1, row))
    flow, valid = read_kitti_png(tmp_path / "a.png")
    assert flow[:, 0, 0].tolist() == [1, -2]
    assert valid.tolist() == [[True, False]]


def test_kitti_that_is_broken(tmp_path: Path, flow: np.ndarray) -> None:
    path = tmp_path / "a.png"

    def error(data: bytes) -> str:
        path.write_bytes(data)
        with pytest.raises(ValueError, match=r"a\.png") as caught:
            read_kitti_png(path)
        return str(caught.value)

    assert "not a PNG" in error(b"")
    assert "not a PNG" in error(b"PIEH" + bytes(100))
    assert "cut off" in error(png(2, 1, bytes(13))[:20])
    assert "cut off" in error(png(100_000, 100_000, bytes(13)))
    assert "cannot be decoded" in error(png(200, 10, bytes(13)))
    write_png(path, flow_to_rgb(flow))
    assert "bit depth 8" in error(path.read_bytes())
    write_kitti_png(path, flow)
    whole = path.read_bytes()
    for end in range(8, len(whole), 11):
        assert "cut off" in error(whole[:end])
    for place in range(0, len(whole), 5):
        damaged = bytearray(whole)
        damaged[place] ^= 0x10
        error(bytes(damaged))
