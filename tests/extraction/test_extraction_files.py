"""The files of features: every format and layout, of any size."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from extraction_making import Shown, moving, plain, record, rows, tree, write_video
from safetensors import safe_open
from torch import Tensor

import fasti3d
from fasti3d.extraction import spool
from fasti3d.flow import TVL1Params, to_flow_clip
from fasti3d.flow.stream import stream_flow
from fasti3d.video.pillow import PillowTransform
from fasti3d.video.read import read_transformed

FAST = TVL1Params(nscales=2, warps=1, outer_iterations=2, inner_iterations=5)


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """23 frames that move."""
    return write_video(tmp_path_factory.mktemp("clip") / "clip.mkv", moving(23))


def extract(source: Path, out: Path, **options: Any) -> fasti3d.Extraction:
    networks = {"model": Shown(), "flow_model": Shown(2), "streams": "both"}
    done = fasti3d.extract(source, out, **(networks | {"stack": 10, "tvl1_params": FAST} | options))
    assert done.failed == ()
    return done


def test_formats_hold_the_same(clip: Path, tmp_path: Path) -> None:
    for name in ("npy", "npz", "safetensors"):
        extract(clip, tmp_path / name, format=name)
    files = {name: sorted(tree(tmp_path / name)) for name in ("npy", "npz", "safetensors")}
    assert files == {
        "npy": ["clip.json", "clip_flow.npy", "clip_rgb.npy"],
        "npz": ["clip.json", "clip.npz"],
        "safetensors": ["clip.json", "clip.safetensors"],
    }
    arrays = {stream: np.load(tmp_path / "npy" / f"clip_{stream}.npy") for stream in ("rgb", "flow")}
    assert all(array.shape == (3, 4) and array.dtype == np.float32 for array in arrays.values())
    assert not np.array_equal(arrays["rgb"], arrays["flow"])
    with np.load(tmp_path / "npz" / "clip.npz") as archive:
        columns = {"start_frame", "end_frame", "start_seconds", "end_seconds"}
        assert set(archive) == {"rgb", "flow", "metadata"} | columns
        for stream, array in arrays.items():
            assert np.array_equal(archive[stream], array)
    with safe_open(tmp_path / "safetensors" / "clip.safetensors", "numpy") as tensors:
        assert set(tensors.keys()) == {"rgb", "flow"}
        for stream, array in arrays.items():
            assert np.array_equal(tensors.get_tensor(stream), array)
    for name, made in files.items():
        sizes = {file: len(tree(tmp_path / name)[file]) for file in made if file != "clip.json"}
        assert record(tmp_path / name / "clip.json")["files"] == sizes


@pytest.mark.parametrize("name", ["npy", "npz", "safetensors"])
def test_rows_that_do_not_fit_into_memory_give_the_same_bytes(
    clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: fasti3d.extraction.settings.Format
) -> None:
    extract(clip, tmp_path / "memory", format=name)
    monkeypatch.setattr(spool, "_MAX_MEMORY_BYTES", 20)
    extract(clip, tmp_path / "disk", format=name)
    assert tree(tmp_path / "memory") == tree(tmp_path / "disk")


def test_the_layout_of_video_features(tmp_path: Path) -> None:
    """Windows of N+1 frames, N of which and N flows are looked at; a time of the last frame for each."""
    video = write_video(tmp_path / "v.mkv", moving(34), rate=10)
    rgb, flow = Shown(keep=True), Shown(2, keep=True)
    options: dict[str, Any] = {"fps": None, "step": 8, "layout": "video_features"}
    extract(video, tmp_path / "out", model=rgb, flow_model=flow, **options)
    names = ["v.json", "v_flow.npy", "v_fps.npy", "v_rgb.npy", "v_timestamps_ms.npy"]
    assert sorted(tree(tmp_path / "out")) == names
    loaded = {name[2:-4]: np.load(tmp_path / "out" / name) for name in names[1:]}

    # The same windows as that program cuts them, with its own reader.
    capture = cv2.VideoCapture(str(video))
    stack, stamps, seen = [], [], []
    while True:
        there, image = capture.read()
        if not there:
            break
        stack.append(image)
        if len(stack) - 1 == 10:
            seen.append(len(stack))
            stamps.append(capture.get(cv2.CAP_PROP_POS_MSEC))
            stack = stack[8:]
    assert len(seen) == 3
    assert loaded["timestamps_ms"] == pytest.approx(stamps)
    assert loaded["fps"] == capture.get(cv2.CAP_PROP_FPS) == 10
    assert loaded["fps"].shape == ()
    assert loaded["rgb"].shape == loaded["flow"].shape == (3, 4)

    read = read_transformed(video, PillowTransform(256, None), fps=None, strict=True)
    frames = torch.stack([frame.image for frame in read])
    flows = to_flow_clip(stream_flow(frames, "readme", FAST))
    for i in range(3):
        assert torch.equal(rgb.clips[i], fasti3d.video.to_clip(frames[8 * i : 8 * i + 10, 16:240, 48:272]))
        assert torch.equal(flow.clips[i], flows[:, 8 * i : 8 * i + 10])
    assert record(tmp_path / "out" / "v.json")["tail"] == {"policy": "drop", "frames_after_last_row": 8}


def test_tails_in_the_layout_of_video_features(clip: Path, tmp_path: Path) -> None:
    flow = Shown(2, keep=True)
    extract(clip, tmp_path, flow_model=flow, layout="video_features", tail="pad")
    assert np.load(tmp_path / "clip_timestamps_ms.npy") == pytest.approx([400, 800, 920])
    assert [row[:2] for row in rows(tmp_path / "clip.json")] == [(0, 10), (10, 20), (20, 23)]
    assert flow.clips[2].shape == (2, 10, 224, 224)
    assert not flow.clips[2][:, 2:].any()


class Large(Shown):
    """Maps of 4 MB a window."""

    def forward_endpoints(self, x: Tensor, names: Any) -> dict[str, Tensor]:
        return {name: torch.full((len(x), 1 << 20), float(x.mean())) for name in names}


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from Linux's /proc")
def test_memory_does_not_grow_with_the_length_of_a_video(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """120 windows of 4 MB, and 1,200 frames of 150 KB, through less than a third of the first."""
    monkeypatch.setattr(spool, "_MAX_MEMORY_BYTES", 1 << 20)
    short = write_video(tmp_path / "short.mkv", plain([100] * 60))
    long = write_video(tmp_path / "long.mkv", plain([100] * 1200))
    options: dict[str, Any] = {"features": "map", "streams": "rgb", "flow_model": None, "model": Large()}
    extract(short, tmp_path / "out", **options)  # what is allocated once

    def status(field: str) -> int:
        lines = Path("/proc/self/status").read_text().splitlines()
        return int(next(line for line in lines if line.startswith(f"{field}:")).split()[1])

    Path("/proc/self/clear_refs").write_text("5")
    before = status("VmRSS")
    assert extract(long, tmp_path / "out", **options).rows == 120
    assert (status("VmHWM") - before) / 1e3 < 150
    assert np.load(tmp_path / "out" / "long_rgb.npy", mmap_mode="r").shape == (120, 1 << 20)
