"""Flow in denseflow's pictures: the numbers, the files, what reads them, and folders that are not whole."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from fasti3d.flow import FlowFolder, decode_denseflow, encode_denseflow
from fasti3d.flow.files import write_denseflow
from fasti3d.flow.folder import FolderFlow
from fasti3d.flow.jpeg import encode_grey_jpeg
from fasti3d.video import VideoError
from fasti3d.video.source import images

IMAGES: dict[str, Callable[[np.random.Generator], np.ndarray]] = {
    "noise": lambda rng: rng.integers(0, 256, (37, 51), np.uint8),
    "smooth": lambda rng: (128 + 60 * np.sin(np.mgrid[:64, :90] / 9).sum(0)).astype(np.uint8),
    "still": lambda rng: np.full((40, 56), 128, np.uint8),
    "sparse": lambda rng: np.where(rng.random((48, 48)) < 0.02, 255, 128).astype(np.uint8),
    "black and white": lambda rng: np.kron(np.eye(5), np.full((9, 9), 255)).astype(np.uint8),
    "one pixel": lambda rng: np.full((1, 1), 7, np.uint8),
}


def write(folder: Path, flows: np.ndarray, *, start: int = 1, digits: int = 5, bound: float = 20) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for i, flow in enumerate(flows, start):
        write_denseflow(
            (folder / f"flow_x_{i:0{digits}}.jpg", folder / f"flow_y_{i:0{digits}}.jpg"), flow, bound=bound
        )
    return folder


def smooth_flows(count: int, height: int = 24, width: int = 32) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    return np.stack([[5 * np.sin(x / 9 + i), 4 * np.cos(y / 7 - i)] for i in range(count)], dtype=np.float32)


@pytest.mark.parametrize("bound", [20.0, 15.0, 0.1, 7.3])
def test_numbers_are_denseflows(bound: float) -> None:
    flow = np.linspace(-1.2 * bound, 1.2 * bound, 2 * 3001, dtype=np.float32).reshape(2, 1, 3001)
    exact = flow.astype(np.float64)
    wanted = np.rint(255 * (exact + bound) / (2 * bound))
    wanted[exact < -bound], wanted[exact > bound] = 0, 255
    found = encode_denseflow(flow, bound)
    assert found.dtype == np.uint8
    # Where the order of operations decides a tie, other bounds than 20 may differ by one.
    assert np.abs(found - wanted).max() <= (bound != 20)
    assert (found != wanted).mean() < 1e-3
    assert (encode_denseflow(np.zeros((2, 1, 1), np.float32), bound) == 128).all()
    assert torch.equal(encode_denseflow(torch.from_numpy(flow), bound), torch.from_numpy(found))


def test_numbers_come_back_within_half_a_step() -> None:
    flow = np.linspace(-20, 20, 10_000, dtype=np.float32).reshape(2, 50, 100)
    stored = encode_denseflow(flow)
    error = np.abs(decode_denseflow(stored) - flow)
    assert error[stored != 128].max() <= 20 / 255 + 1e-5
    assert error[stored == 128].max() <= 40 / 255 + 1e-5
    every = np.arange(256, dtype=np.uint8).reshape(2, 1, 128)
    assert np.array_equal(encode_denseflow(decode_denseflow(every)), every)
    assert decode_denseflow(every)[1, 0, 0] == 0
    assert decode_denseflow(every).min() == -20
    assert decode_denseflow(every).max() == 20


@pytest.mark.parametrize("function", [encode_denseflow, decode_denseflow])
@pytest.mark.parametrize("bound", [0, -1, float("inf"), float("nan")])
def test_bounds_that_are_none(function: Callable[..., np.ndarray], bound: float) -> None:
    with pytest.raises(ValueError, match=f"bound must be above 0, in pixels, got {bound}"):
        function(np.zeros((2, 1, 1), np.uint8), bound)


@pytest.mark.parametrize("kind", IMAGES)
def test_jpegs_are_opencvs_but_for_rounding(kind: str) -> None:
    """The same header, so the same quality and full range, and as near to the image as OpenCV's own."""
    image = IMAGES[kind](np.random.default_rng(0))
    ours = np.frombuffer(encode_grey_jpeg(image), np.uint8)
    theirs = cv2.imencode(".jpg", image)[1]
    for marker in (0xDB, 0xC0):
        assert _segment(ours.tobytes(), marker) == _segment(theirs.tobytes(), marker)
    assert cv2.imdecode(ours, cv2.IMREAD_UNCHANGED).shape == image.shape  # one channel
    found, wanted = (cv2.imdecode(data, cv2.IMREAD_GRAYSCALE).astype(int) for data in (ours, theirs))
    assert np.abs(found - image).max() <= np.abs(wanted - image).max() + 1
    assert abs(len(ours) - len(theirs)) <= 0.05 * len(theirs)


def _segment(data: bytes, marker: int) -> bytes:
    at = data.index(bytes((0xFF, marker)))
    return data[at : at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")]


def test_pictures_are_read_as_by_opencv(tmp_path: Path) -> None:
    """Decoders may round to either neighbour; FFmpeg's and libjpeg's do so differently in 3 % of pixels."""
    write(tmp_path, np.random.default_rng(0).normal(0, 6, (2, 2, 40, 60)).astype(np.float32))
    found = np.rint(FlowFolder(tmp_path).read(0, 2) * 127.5 / 20 + 127.5)  # 0 pixels give 128
    for i in range(2):
        for axis in range(2):
            path = tmp_path / f"flow_{'xy'[axis]}_{i + 1:05}.jpg"
            difference = np.abs(found[i, axis] - cv2.imread(str(path), cv2.IMREAD_GRAYSCALE))
            assert difference.max() <= 1
            assert (difference > 0).mean() < 0.05


@pytest.mark.parametrize(("start", "digits"), [(0, 5), (1, 5), (1, 6), (1, 4), (0, 7)])
def test_usual_names(start: int, digits: int, tmp_path: Path) -> None:
    flows = smooth_flows(3)
    write(tmp_path, flows, start=start, digits=digits)
    for other in ("img_00001.jpg", ".flow_x_00009.jpg", "flow_x_00009.txt", "flow.json"):
        (tmp_path / other).write_bytes(b"{}")
    folder = FlowFolder(tmp_path)
    assert len(folder) == 3
    assert np.abs(folder.read(1, 2) - flows[1:]).max() < 0.4
    assert [path.name for path in images(tmp_path)] == ["img_00001.jpg"]


@pytest.mark.parametrize("colour", [False, True])
@pytest.mark.parametrize("suffix", ["png", "jpg", "JPEG"])
def test_pictures_of_other_programs(suffix: str, colour: bool, tmp_path: Path) -> None:
    flow = smooth_flows(1)[0]
    for axis, picture in zip("xy", encode_denseflow(flow, 15), strict=True):
        image = np.repeat(picture[..., None], 3, axis=2) if colour else picture
        data = cv2.imencode(f".{suffix.lower()}", image)[1]
        (tmp_path / f"flow_{axis}_00001.{suffix}").write_bytes(data.tobytes())
    assert np.abs(FlowFolder(tmp_path, 15).read(0, 1)[0] - flow).max() < (0.13 if suffix == "png" else 0.4)


def _cut(folder: Path) -> None:
    path = folder / "flow_y_00002.jpg"
    path.write_bytes(path.read_bytes()[:-200])


def _resize(folder: Path) -> None:
    write_denseflow((folder / "flow_x_00002.jpg", folder / "a.jpg"), smooth_flows(1, 24, 40)[0], bound=20)


def _deep(folder: Path) -> None:
    cv2.imwrite(str(folder / "flow_x_00002.png"), np.zeros((24, 32), np.uint16))
    (folder / "flow_x_00002.jpg").unlink()


def _garbage(folder: Path) -> None:
    (folder / "flow_x_00002.jpg").write_bytes(b"\xff\xd8 nothing \xff\xd9")


def _huge(folder: Path) -> None:
    """A JPEG whose header announces 65500x65500 pixels."""
    data = encode_grey_jpeg(np.zeros((8, 8), np.uint8))
    data = data.replace(b"\x08\x00\x08\x00\x08", b"\x08\xff\xdc\xff\xdc", 1)
    (folder / "flow_x_00002.jpg").write_bytes(data)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: (f / "flow_y_00002.jpg").unlink(), "{f}/flow_y_00002.jpg: is missing"),
        (lambda f: (f / "flow_x_00003.jpg").unlink(), "{f}/flow_x_00003.jpg: is missing"),
        (
            lambda f: [(f / f"flow_{a}_00002.jpg").unlink() for a in "xy"],
            "{f}/flow_x_00002.jpg: is missing",
        ),
        (lambda f: [p.unlink() for p in f.glob("flow_y_*")], "{f}/flow_y_00001.jpg: is missing"),
        (
            lambda f: [(f / f"flow_{a}_00001.jpg").unlink() for a in "xy"],
            "{f}/flow_x_00001.jpg: is missing",
        ),
        (lambda f: [p.unlink() for p in f.iterdir()], "{f}: holds no flow: no flow_x_00001.jpg"),
        (
            lambda f: (f / "flow_x_00002.png").touch(),
            "{f}: holds a flow twice: flow_x_00002.jpg and flow_x_00002.png",
        ),
        (_resize, "{f}/flow_y_00002.jpg|{f}/flow_x_00002.jpg: is 40x24, but others of its folder are 32x24"),
        (_cut, r"{f}/flow_y_00002.jpg: is cut off, or not a JPEG file \(\d+ bytes\)"),
        (_garbage, "{f}/flow_x_00002.jpg: is broken: it cannot be decoded"),
        (_huge, "{f}/flow_x_00002.jpg: is broken: it cannot be decoded"),
        (_deep, "{f}/flow_x_00002.png: has 16 bits, but flow is stored in 8"),
        (lambda f: (f / "flow_x_00002.jpg").write_bytes(b""), r"{f}/flow_x_00002.jpg: is cut off, .*\(0 "),
        (
            lambda f: ((f / "flow_x_00002.jpg").unlink(), os.mkfifo(f / "flow_x_00002.jpg")),
            "{f}/flow_x_00002.jpg: is not a file",
        ),
        (
            lambda f: (f / "flow.json").write_text(json.dumps({"settings": {"bound": 20.0}})),
            "{f}: is unfinished: let `fasti3d flow` complete it first",
        ),
        (
            lambda f: (f / "flow.json").write_text(json.dumps({"settings": {"bound": 8.0}, "pairs": 3})),
            "{f}: was made with a bound of 8, not 20: give that one",
        ),
    ],
)
def test_folders_that_are_not_whole(change: Callable[[Path], object], message: str, tmp_path: Path) -> None:
    write(tmp_path, smooth_flows(3))
    change(tmp_path)
    with pytest.raises(VideoError, match=f"^({message.replace('{f}', re.escape(str(tmp_path)))})"):
        FlowFolder(tmp_path).read(0, 3)


def test_no_folder(tmp_path: Path) -> None:
    with pytest.raises(VideoError, match="v: cannot be read as a folder of flow: No such file"):
        FlowFolder(tmp_path / "v")
    with pytest.raises(VideoError, match="holds 2 flows, fewer than the 3 that are needed"):
        FlowFolder(write(tmp_path, smooth_flows(2))).read(1, 2)


@pytest.mark.parametrize("seed", range(4))
def test_mutated_pictures_give_flow_or_one_error(seed: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(seed)
    write(tmp_path, smooth_flows(1))
    path = tmp_path / "flow_x_00001.jpg"
    whole = np.frombuffer(path.read_bytes(), np.uint8)
    reasons: list[str] = []
    for _ in range(50):
        data = whole.copy()
        data[rng.integers(0, len(data), rng.integers(1, 6))] = rng.integers(0, 256)
        path.write_bytes(
            data[: rng.integers(1, len(data) + 1)].tobytes() if rng.random() < 0.3 else data.tobytes()
        )
        try:
            assert FlowFolder(tmp_path).read(0, 1).shape[:2] == (1, 2)
        except VideoError as error:
            reasons.append(str(error))
    assert len(reasons) > 5
    assert not any("\n" in reason for reason in reasons)


def test_flow_of_another_size_than_the_frames(tmp_path: Path) -> None:
    folder = FlowFolder(write(tmp_path, smooth_flows(1, 240, 320)))
    pairs = FolderFlow(folder, torch.device("cpu"))
    with pytest.raises(VideoError, match=r"holds flow of 320x240, but that of frames .* 341x256, is needed"):
        pairs(0, torch.zeros((2, 256, 341, 3), dtype=torch.uint8))
    assert pairs(0, torch.zeros((2, 242, 319, 3), dtype=torch.uint8)).shape == (1, 2, 224, 224)
    assert pairs(0, torch.zeros((1, 242, 319, 3), dtype=torch.uint8)).shape == (0, 2, 224, 224)


@pytest.mark.parametrize("frames", [2, 3, 4, 5])
def test_the_number_of_flows_tells_of_which_frames_they_are(frames: int, tmp_path: Path) -> None:
    folder = FlowFolder(write(tmp_path, smooth_flows(3)))
    if frames in (3, 4):
        folder.check_frames(frames)
        return
    with pytest.raises(VideoError, match=f"holds 3 flows, .* of 3 or 4 frames, but .* sampled to {frames}: "):
        folder.check_frames(frames)
