"""Clips from .npy and .npz files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from clip_making import noise

from fasti3d.metrics.arrays import ArraySource
from fasti3d.metrics.choice import Clip
from fasti3d.metrics.sources import open_source

CLIPS = noise(6, frames=12).numpy()


def taken(
    path: Path, *, frames: int = 12, count: int | None = None, seed: int = 0, layout: str = "NTHWC"
) -> list[Clip]:
    return [
        clip for clip in ArraySource(path, layout=layout).clips(frames, count, seed) if isinstance(clip, Clip)
    ]


def save(path: Path, array: np.ndarray[Any, Any]) -> Path:
    if path.suffix == ".npy":
        np.save(path, array)
    else:
        (np.savez_compressed if "compressed" in path.name else np.savez)(
            path, labels=np.arange(6), clips=array
        )
    return path


@pytest.mark.parametrize("name", ["clips.npy", "clips.npz", "compressed.npz"])
@pytest.mark.parametrize("layout", ["NTHWC", "NCTHW", "NTCHW"])
def test_all_clips(tmp_path: Path, name: str, layout: str) -> None:
    axes = ["NTHWC".index(axis) for axis in layout]
    path = save(tmp_path / name, np.ascontiguousarray(CLIPS.transpose(axes)))
    clips = taken(path, layout=layout)
    assert np.array_equal([clip.frames.numpy() for clip in clips], CLIPS)
    assert [(clip.name, clip.start, clip.length, clip.rate) for clip in clips[:2]] == [
        ("0", 0, 12, None),
        ("1", 0, 12, None),
    ]


@pytest.mark.parametrize("name", ["clips.npy", "compressed.npz"])
def test_a_choice_of_clips_and_frames(tmp_path: Path, name: str) -> None:
    path = save(tmp_path / name, CLIPS)
    clips = taken(path, frames=9, count=4, seed=1)
    assert [clip.name for clip in clips] == sorted({clip.name for clip in clips})
    assert len(clips) == 4
    for clip in clips:
        assert np.array_equal(clip.frames, CLIPS[int(clip.name), clip.start : clip.start + 9])
    again, other = (
        [(clip.name, clip.start) for clip in taken(path, frames=9, count=4, seed=seed)] for seed in (1, 2)
    )
    assert again == [(clip.name, clip.start) for clip in clips] != other


@pytest.mark.parametrize("dtype", ["<f4", ">f4", "<f2", "<f8"])
def test_floats_of_any_kind(tmp_path: Path, dtype: str) -> None:
    path = save(tmp_path / "clips.npy", (CLIPS / 255).astype(dtype))
    (first, *_) = taken(path)
    assert np.array_equal(first.frames, (CLIPS[0] / 255).astype(dtype))


@pytest.mark.parametrize(
    ("array", "said"),
    [
        (CLIPS[0], r"must hold RGB clips, NTHWC, got an array of shape \(12, 8, 10, 3\)"),
        (CLIPS.transpose(0, 4, 1, 2, 3).copy(), "say layout NCTHW"),
        (CLIPS.astype(np.int32), "uint8 or floating point, got int32"),
        (np.asfortranarray(CLIPS), "Fortran order: save np.ascontiguousarray"),
        (np.array([None]), "uint8 or floating point, got object"),
        (CLIPS.astype(np.uint16), "uint8 or floating point, got uint16"),
        (CLIPS.astype(np.longdouble), "uint8 or floating point, got .*: convert"),
    ],
)
def test_other_arrays(tmp_path: Path, array: np.ndarray[Any, Any], said: str) -> None:
    path = save(tmp_path / "clips.npy", array)
    with pytest.raises(ValueError, match=said) as found:
        open_source(path)
    assert str(path) in str(found.value)


def test_wrong_requests(tmp_path: Path) -> None:
    path = save(tmp_path / "clips.npy", CLIPS)
    with pytest.raises(ValueError, match="clips of 12 frames, fewer than 16: ask for 12"):
        taken(path, frames=16)
    short = save(tmp_path / "short.npy", CLIPS[:, :8])
    with pytest.raises(ValueError, match="clips of 8 frames, fewer than 9: use longer clips"):
        taken(short, frames=9)
    with pytest.raises(ValueError, match=r"at most the 6 that .* holds, got 7"):
        taken(path, count=7)
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(ValueError, match="cut off in clip 5 of 6"):
        taken(path)
    np.savez(tmp_path / "two.npz", a=CLIPS, b=CLIPS)
    with pytest.raises(ValueError, match=r"one array with 5 axes, got a\.npy, b\.npy"):
        open_source(tmp_path / "two.npz")
    for name, data in (("junk.npz", b"junk"), ("junk.npy", b"junk"), ("empty.npy", b"")):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(ValueError, match=name):
            open_source(tmp_path / name)
    (tmp_path / "a.mp4").touch()
    with pytest.raises(ValueError, match=r"a\.mp4 must be a folder"):
        open_source(tmp_path / "a.mp4")
    with pytest.raises(ValueError, match="does not exist"):
        open_source(tmp_path / "nothing")
